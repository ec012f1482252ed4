"""Server of the demo page."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import gradio as gr
from starlette.middleware import Middleware

from .model import DemoModel
from .page import CSS, build_page
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
    Serve the demo page in a context. Uploads and generated images are in a temporary folder, deleted at the end.

    Args:
        model ([`LlmCxrForCausalLM`]), processor ([`LlmCxrProcessor`]): Model and processor of a checkpoint.
        title (`str`, *optional*): Line below the heading.
        host (`str`, *optional*, defaults to `"127.0.0.1"`): Address to listen at; by default only for this machine.
        port (`int`, *optional*): Port to listen at; by default the first free one from 7860.
        root_path (`str`, *optional*): Path of the page behind a proxy.

    Returns:
        `Iterator[str]`: the URL of the page.

    Raises:
        OSError: the port is in use.
    """
    with tempfile.TemporaryDirectory(prefix="transformers-cxr-demo-") as folder, _upload_folder(folder):
        page = build_page(DemoModel(model, processor), title)
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
            theme=gr.themes.Default(**FONTS),
            css=CSS,
            max_file_size=MAX_UPLOAD_BYTES,
            app_kwargs={
                "middleware": [
                    # An upload is a file and the boundaries of its form.
                    Middleware(RequestLimits, max_bytes=MAX_REQUEST_BYTES, max_upload_bytes=MAX_UPLOAD_BYTES + 2**16)
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
