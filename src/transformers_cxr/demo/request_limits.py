"""Limits of requests to the demo page, checked before anything is stored."""

from __future__ import annotations

import json
from contextlib import suppress

from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class RequestLimits:
    """
    ASGI middleware that answers 413 to a request larger than allowed, by its `Content-Length` or as soon as too much
    has come, and 400 to a URL instead of a file, which Gradio would download at any size.

    Args:
        app (`ASGIApp`): Application to protect.
        max_bytes (`int`): Limit of a request.
        max_upload_bytes (`int`): Limit of a request to a path that ends in `/upload`.
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
            # On this error Gradio deletes the partial upload.
            if received > limit:
                raise MultiPartException(too_large)
            if is_upload and message["type"] == "http.disconnect":
                raise MultiPartException("The upload was not completed.")
            return message

        if is_upload or scope["method"] != "POST":
            await self.app(scope, receive_within_limit, send)
            return
        try:
            body = await Request(scope, receive_within_limit).body()
        except MultiPartException as error:
            await PlainTextResponse(error.message, status_code=413)(scope, receive, send)
            return
        if _has_url(body):
            message = "Upload the file itself: this page downloads no URLs."
            await PlainTextResponse(message, status_code=400)(scope, receive, send)
            return
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self.app(scope, replay, send)


def _has_url(body: bytes) -> bool:
    """Return whether a file in the JSON of a request is a URL."""
    paths: list[str] = []

    def collect(value: dict) -> dict:
        paths.append(str(value.get("path")).lower())
        return value

    # Gradio refuses invalid JSON.
    with suppress(ValueError, RecursionError):
        json.loads(body, object_hook=collect)
    return any(path.startswith(("http:", "https:")) for path in paths)
