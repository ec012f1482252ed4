"""Limits of every request to the page, before anything of it is kept or followed."""

from __future__ import annotations

import json

from starlette.formparsers import MultiPartException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class _Address(Exception):
    """A file is given by its address."""


class RequestLimits:
    """
    ASGI middleware. It answers 413 to a request whose body is larger than allowed, by its `Content-Length` or, where it has
    none, as soon as more has come; and 400 to one that gives the address of a file in place of a file, which Gradio would
    download, however large it is.

    Args:
        app (`ASGIApp`): what is protected.
        max_bytes (`int`): limit of a request.
        max_upload_bytes (`int`): limit of a request to a path that ends in `/upload`.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_upload_bytes: int):
        self.app = app
        self.max_bytes = max_bytes
        self.max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_upload = scope["path"].endswith("/upload")
        limit = self.max_upload_bytes if is_upload else self.max_bytes
        too_large = f"The request exceeds the maximum allowed size of {limit / 2**20:g} MiB."
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > limit:
            await PlainTextResponse(too_large, status_code=413)(scope, receive, send)
            return
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            # On this error Gradio deletes what it has of the upload.
            if received > limit:
                raise MultiPartException(too_large)
            if is_upload and message["type"] == "http.disconnect":
                raise MultiPartException("The upload was not completed.")
            return message

        if is_upload or scope["method"] != "POST":
            await self.app(scope, receive_within_limit, send)
            return
        try:
            body = await _whole_body(receive_within_limit)
            _check_no_address(body)
        except MultiPartException as error:
            await PlainTextResponse(error.message, status_code=413)(scope, receive, send)
        except _Address:
            message = "Upload the file itself: this page fetches no address."
            await PlainTextResponse(message, status_code=400)(scope, receive, send)
        else:
            await self.app(scope, _receive_again(body, receive), send)


async def _whole_body(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _check_no_address(body: bytes) -> None:
    def check(value: dict) -> dict:
        if str(value.get("path")).lower().startswith(("http:", "https:")):
            raise _Address
        return value

    try:
        json.loads(body, object_hook=check)
    # What is no JSON is refused where it is read.
    except (ValueError, RecursionError):
        pass


def _receive_again(body: bytes, receive: Receive) -> Receive:
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again
