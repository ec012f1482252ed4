"""Checks of requests to the demo page before Gradio reads them, and security headers of its answers."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Gradio's page has inline scripts and styles, and shows images as data and blobs.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; base-uri 'self'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class SecurityHeaders:
    """ASGI middleware that adds `SECURITY_HEADERS` to every answer."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        await self.app(scope, receive, send_with_headers)


class OwnOriginOnly:
    """
    ASGI middleware that refuses other names of the server, which a foreign page can let its own name point to (DNS
    rebinding), and requests of pages from another origin.

    Args:
        app (`ASGIApp`): Application to protect.
        names (`Collection[str]`): Names of the server, in small letters. IP addresses are always accepted.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]):
        self.app = app
        self.names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host, origin = headers.get("host", ""), headers.get("origin")
            if not self._is_own(host):
                message = "The page has no such name. `--root-path URL` gives it the name of that URL."
                app = PlainTextResponse(message, status_code=400)
            elif origin is not None and origin.partition("://")[2] != host:
                app = PlainTextResponse("The page answers no other pages.", status_code=403)
        await app(scope, receive, send)

    def _is_own(self, host: str) -> bool:
        with suppress(ValueError):
            name = urlsplit(f"//{host}").hostname
            return name in self.names or bool(ipaddress.ip_address(name or ""))
        return False


class RequestLimits:
    """
    ASGI middleware that reads the whole body of a request before it passes it on, so that an incomplete upload leaves
    nothing behind. It answers

    - 413 if `Content-Length` is missing or larger than allowed,
    - 507 if an upload does not fit into the space that is left,
    - 408 if the body does not arrive in time, and
    - 400 if there is a URL instead of a file, which Gradio would download at any size.

    Args:
        app (`ASGIApp`): Application to protect.
        folder (`Path`): Folder of the uploads.
        max_bytes (`int`): Limit of a request.
        max_upload_bytes (`int`): Limit of a request to a path that ends in `/upload`.
        max_stored_bytes (`int`): Limit of the files in `folder`, with the uploads that are still arriving.
        timeout (`float`): Time for the body of a request, in seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        folder: Path,
        max_bytes: int,
        max_upload_bytes: int,
        max_stored_bytes: int,
        timeout: float,
    ):
        self.app = app
        self.folder = folder
        self.max_bytes = max_bytes
        self.max_upload_bytes = max_upload_bytes
        self.max_stored_bytes = max_stored_bytes
        self.timeout = timeout
        self.arriving_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return

        async def refuse(status_code: int, message: str) -> None:
            await PlainTextResponse(message, status_code)(scope, receive, send)

        is_upload = scope["path"].endswith("/upload")
        limit = self.max_upload_bytes if is_upload else self.max_bytes
        length = Headers(scope=scope).get("content-length", "")
        if not length.isdigit() or int(length) > limit:
            await refuse(
                413, f"The request exceeds the maximum allowed size of {limit / 2**20:g} MiB, or has no size."
            )
            return
        reserved = int(length) if is_upload else 0
        if is_upload and self._stored_bytes() + self.arriving_bytes + reserved > self.max_stored_bytes:
            await refuse(507, "The page has no space left for uploads. They are deleted after an hour.")
            return
        self.arriving_bytes += reserved
        try:
            async with asyncio.timeout(self.timeout):
                body = await Request(scope, receive).body()
            if not is_upload and _has_url(body):
                await refuse(400, "Upload the file itself: this page downloads no URLs.")
                return
            messages = [{"type": "http.request", "body": body, "more_body": False}]

            async def replay() -> Message:
                return messages.pop() if messages else await receive()

            await self.app(scope, replay, send)
        except TimeoutError:
            await refuse(408, f"The request did not arrive within {self.timeout:g} seconds.")
        except ClientDisconnect:
            pass
        finally:
            self.arriving_bytes -= reserved

    def _stored_bytes(self) -> int:
        total = 0
        for path in self.folder.rglob("*"):
            # A file may be deleted meanwhile.
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total


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
