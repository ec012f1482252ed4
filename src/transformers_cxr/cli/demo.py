"""The command `demo`."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from typing import Annotated

import typer

from ..checkpoints import checkpoint_name
from . import options


def demo(
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is every network.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port. Default: the first free port from 7860.")
    ] = None,
    root_path: Annotated[
        str | None, typer.Option(help="URL under which a proxy serves the page, such as https://example.org/cxr.")
    ] = None,
    *,
    model_options: options.ModelOptions,
):
    """
    Serve a web page that writes reports, answers questions and generates X-rays.

    Generated, for research only. Ctrl-C stops it and deletes all uploads.

    ```
    transformers-cxr demo
    transformers-cxr demo --model my-checkpoint --device cuda --port 8080
    ```
    """
    # Service managers stop it by SIGTERM: uploads are deleted then, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from ..demo.server import serve

    model, processor = model_options.load()
    title = f"Checkpoint: {checkpoint_name(model_options.model)}"
    with suppress(KeyboardInterrupt), serve(model, processor, title, host, port, root_path) as url:
        typer.echo(f"The page is at {url} (Ctrl-C stops it).")
        while True:
            time.sleep(1)
