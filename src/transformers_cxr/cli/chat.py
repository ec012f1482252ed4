"""The command `chat`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options

if TYPE_CHECKING:
    from .conversation import Conversation

HELP = """\
/image PATH     show an X-ray; your next message is about it
/generate TEXT  generate an X-ray into the folder of --output; your next message is about it
/new            start a new conversation
/help           show this help
/exit           end the chat (also Ctrl-D); Ctrl-C stops an answer"""


def chat(
    image: Annotated[str | None, typer.Argument(help="Image to start with: a file or URL.")] = None,
    output: Annotated[Path, typer.Option(help="Folder to write generated images to.", file_okay=False)] = Path(
        "generated"
    ),
    *,
    generation: options.TextOptions,
    model_options: options.ModelOptions,
):
    """
    Chat about chest X-rays, and generate some, over several turns.

    Generated, for research only. `/help` in the chat lists its commands.

    ```
    transformers-cxr chat xray.png
    transformers-cxr chat --do-sample --temperature 0.7
    ```
    """
    with suppress(ImportError):
        import readline  # noqa: F401 -- gives `input` line editing and a history
    import torch

    from ..llm_cxr.processing_llm_cxr import TEXT_NOTICE
    from .conversation import Conversation

    conversation = Conversation(*model_options.load(), generation.generate_kwargs)
    if image is not None:
        conversation.add_image(image)
    typer.echo(f"{TEXT_NOTICE}\n/help lists the commands, /exit ends the chat.", err=True)
    torch.manual_seed(generation.seed)
    for line in _read_lines():
        try:
            _respond(line, conversation, output, generation.seed)
        # An error ends the turn, not the chat.
        except (ValueError, OSError, ImportError) as error:
            typer.echo(f"Error: {error}", err=True)
        except KeyboardInterrupt:
            typer.echo("\nStopped.", err=True)


def _read_lines() -> Iterator[str]:
    with suppress(EOFError):
        while (line := input("> ").strip()) != "/exit":
            yield line


def _respond(line: str, conversation: Conversation, output: Path, seed: int) -> None:
    command, _, argument = line.partition(" ")
    argument = argument.strip()
    if command == "/help":
        typer.echo(HELP)
    elif command == "/new":
        conversation.reset()
    elif command == "/image":
        conversation.add_image(argument)
        typer.echo(f"Showing {argument}. What is your question?")
    elif command == "/generate":
        from ..llm_cxr.image_processing_llm_cxr import save_image

        # The first seed without a file.
        path, seed = next((path, i) for i in count(seed) if not (path := output / f"seed-{i}.png").exists())
        image = conversation.generate_image(argument, seed)
        output.mkdir(parents=True, exist_ok=True)
        save_image(image, path)
        typer.echo(path)
    elif command.startswith("/"):
        raise ValueError(f"Unknown command '{command}'. /help lists the commands.")
    elif line:
        from transformers import TextStreamer

        streamer = TextStreamer(conversation.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        conversation.ask(line, streamer)
