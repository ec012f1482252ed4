"""The command `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .errors import cli_errors


def export(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of an LLM-CXR checkpoint.")],
    output: Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")],
):
    """
    Write the backbone and its tokenizer as a plain checkpoint, for vLLM and other servers.

    ```
    transformers-cxr export llm-cxr-3b llm-cxr-3b-plain
    ```
    """
    with cli_errors():
        from transformers import AutoProcessor

        from ..conversion.export import export_language_model
        from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM

        if not (checkpoint / "config.json").is_file():
            raise FileNotFoundError(
                f"No `config.json` in '{checkpoint}': expected the folder of an LLM-CXR checkpoint."
            )
        model = LlmCxrForCausalLM.from_pretrained(checkpoint)
        export_language_model(model, AutoProcessor.from_pretrained(checkpoint), output)
    typer.echo(f"Written to {output}.")
