"""The command `demo`."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from typing import Annotated

import typer

from . import options
from .errors import mistakes_as_messages
from .models import load_model, model_name


def demo(
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is every network.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port; the first free one from 7860 on.")] = None,
    root_path: Annotated[str | None, typer.Option(help="Path or address of the page behind a proxy.")] = None,
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
):
    """
    Serve a page that reports on X-rays, answers questions and draws.

    Generated, for research only. Ctrl-C stops it and deletes what was uploaded.

    ```
    transformers-cxr demo
    transformers-cxr demo --model my-checkpoint --device cuda --port 8080
    ```
    """
    # A service manager stops it as Ctrl-C does, so that what was uploaded is deleted then, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with mistakes_as_messages():
        from ..demo.server import serve

        loaded = load_model(model, device, dtype)
        with serve(
            *loaded, title=f"Checkpoint: {model_name(model)}", host=host, port=port, root_path=root_path
        ) as url:
            typer.echo(f"The page is at {url} (Ctrl-C stops it).")
            with suppress(KeyboardInterrupt):
                while True:
                    time.sleep(1)
