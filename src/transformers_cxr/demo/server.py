"""Server of the demo page."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import gradio as gr
from starlette.middleware import Middleware

from .middleware import OwnOriginOnly, RequestLimits, SecurityHeaders
from .model import DemoModel
from .page import HEAD, build_page

if TYPE_CHECKING:
    from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
    from ..llm_cxr.processing_llm_cxr import LlmCxrProcessor

MAX_UPLOAD_BYTES = 64 * 2**20
MAX_REQUEST_BYTES = 2**20
# Of all files, which are deleted after an hour.
MAX_STORED_BYTES = 2**30
# Time for the body of a request, in seconds.
REQUEST_TIMEOUT = 120
# Fonts of the system, and colors with enough contrast (WCAG 2.2, 1.4.3).
THEME = gr.themes.Default(
    primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
).set(
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    color_accent="*primary_600",
    input_placeholder_color="*neutral_500",
    input_placeholder_color_dark="*neutral_400",
)


@contextmanager
def serve(
    model: LlmCxrForCausalLM,
    processor: LlmCxrProcessor,
    title: str = "",
    host: str = "127.0.0.1",
    port: int | None = None,
    root_path: str | None = None,
) -> Iterator[str]:
    """
    Serve the demo page in a context. Uploads and generated images are in a temporary folder, deleted at the end.

    Args:
        model ([`LlmCxrForCausalLM`]), processor ([`LlmCxrProcessor`]): Model and processor of a checkpoint.
        title (`str`, *optional*): Line below the heading.
        host (`str`, *optional*, defaults to `"127.0.0.1"`): Address to listen at; by default only for this machine.
        port (`int`, *optional*): Port to listen at; by default the first free one from 7860.
        root_path (`str`, *optional*): URL of the page behind a proxy.

    Returns:
        `Iterator[str]`: the URL of the page.

    Raises:
        OSError: the port is in use.
    """
    with tempfile.TemporaryDirectory(prefix="transformers-cxr-demo-") as folder, _upload_folder(folder):
        page = build_page(DemoModel(model, processor), title)
        names = {"localhost", host, socket.gethostname(), socket.getfqdn(), urlsplit(root_path or "").hostname}
        _, url, _ = page.launch(
            server_name=host,
            server_port=port,
            root_path=root_path,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            run_history=False,
            enable_monitoring=False,
            footer_links=[],
            theme=THEME,
            head=HEAD,
            max_file_size=MAX_UPLOAD_BYTES,
            app_kwargs={
                "middleware": [
                    Middleware(SecurityHeaders),
                    Middleware(OwnOriginOnly, names={name.lower() for name in names if name}),
                    Middleware(
                        RequestLimits,
                        folder=Path(folder),
                        max_bytes=MAX_REQUEST_BYTES,
                        # A file and the boundaries of its form.
                        max_upload_bytes=MAX_UPLOAD_BYTES + 2**16,
                        max_stored_bytes=MAX_STORED_BYTES,
                        timeout=REQUEST_TIMEOUT,
                    ),
                ]
            },
        )
        try:
            yield url
        finally:
            page.close(verbose=False)


@contextmanager
def _upload_folder(folder: str) -> Iterator[None]:
    """Set the upload folder of Gradio, which reads it from the environment only."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before
