"""Limits of requests to the demo page, checked before anything is stored."""

from __future__ import annotations

import json
from contextlib import suppress

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class RequestLimits:
    """
    ASGI middleware that answers 413 to a request whose `Content-Length` is missing or larger than allowed, and 400 to
    a URL instead of a file, which Gradio would download at any size.

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
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        is_upload = scope["path"].endswith("/upload")
        limit = self.max_upload_bytes if is_upload else self.max_bytes
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit() or int(length) > limit:
            message = f"The request exceeds the maximum allowed size of {limit / 2**20:g} MiB, or gives no size."
            await PlainTextResponse(message, status_code=413)(scope, receive, send)
            return
        if is_upload:
            await self.app(scope, receive, send)
            return
        body = await Request(scope, receive).body()
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
