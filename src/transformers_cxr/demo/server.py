"""Serving the demo page."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from starlette.middleware import Middleware

from .page import CSS, build_page, gr
from .reader import Reader
from .request_limits import RequestLimits

if TYPE_CHECKING:
    from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
    from ..llm_cxr.processing_llm_cxr import LlmCxrProcessor

MAX_UPLOAD_BYTES = 64 * 2**20
MAX_REQUEST_BYTES = 2**20
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}


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
    Serves the demo page for as long as the context lasts. What users upload and draw is in a temporary folder, which is
    deleted with the context.

    Args:
        model ([`LlmCxrForCausalLM`]), processor ([`LlmCxrProcessor`]):
            A checkpoint.
        title (`str`, *optional*):
            Line below the heading.
        host (`str`, *optional*, defaults to `"127.0.0.1"`):
            Address to listen at; this machine alone by default.
        port (`int`, *optional*):
            Port to listen at; the first that is free from 7860 on by default.
        root_path (`str`, *optional*):
            Path of the page behind a proxy.

    Returns:
        The address of the page.

    Raises:
        OSError: the port is in use.
    """
    with tempfile.TemporaryDirectory(prefix="transformers-cxr-demo-") as folder, _upload_folder(folder):
        page = build_page(Reader(model, processor), title)
        _, address, _ = page.launch(
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
            theme=gr.themes.Default(**FONTS),
            css=CSS,
            max_file_size=MAX_UPLOAD_BYTES,
            app_kwargs={
                "middleware": [
                    # The boundaries of a form come on top of the file.
                    Middleware(RequestLimits, max_bytes=MAX_REQUEST_BYTES, max_upload_bytes=MAX_UPLOAD_BYTES + 2**16)
                ]
            },
        )
        try:
            yield address
        finally:
            page.close(verbose=False)


@contextmanager
def _upload_folder(folder: str) -> Iterator[None]:
    """Gradio takes it from the environment alone."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before
