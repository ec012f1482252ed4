"""The command `chat`."""

from __future__ import annotations

from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    import PIL.Image

    from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
    from ..llm_cxr.processing_llm_cxr import LlmCxrProcessor

HELP = """\
/image PATH     show an X-ray; your next message is about it
/generate TEXT  generate an X-ray into the folder of --output; your next message is about it
/new            start a new conversation
/help           show this help
/exit           end the chat (also Ctrl-D); Ctrl-C stops an answer"""


class Conversation:
    """
    A conversation with a checkpoint over several turns.

    Args:
        model ([`LlmCxrForCausalLM`]), processor ([`LlmCxrProcessor`]):
            The checkpoint.
        generate_kwargs (`dict`):
            Keyword arguments of [`generate_text`].
    """

    def __init__(self, model: LlmCxrForCausalLM, processor: LlmCxrProcessor, generate_kwargs: dict[str, Any]):
        self.model = model
        self.processor = processor
        self.generate_kwargs = generate_kwargs
        self.reset()

    def reset(self) -> None:
        """Forget all turns and images."""
        self.messages: list[dict] = []
        self.codes: list[list[int]] = []
        self.new_codes: list[list[int]] = []

    def add_image(self, image: str) -> None:
        """Add an X-ray to the next message of the user."""
        import torch

        pixel_values = self.processor.image_processor(image, return_tensors="pt").pixel_values
        with torch.no_grad():
            self.new_codes += self.model.vq_tokenizer.encode(pixel_values.to(self.model.device)).tolist()

    def ask(self, text: str, streamer=None) -> str:
        """Return the answer to a message. A turn that fails or is interrupted leaves the conversation unchanged."""
        from ..llm_cxr.generation_llm_cxr import generate_text

        codes = self.codes + self.new_codes
        (answer,) = generate_text(
            self.model,
            self.processor,
            instruction=text,
            image_codes=[codes],
            history=self.messages,
            streamer=streamer,
            **self.generate_kwargs,
        )
        content = [{"type": "text", "text": text}, *({"type": "image"} for _ in self.new_codes)]
        self.messages += [
            {"role": "user", "content": content},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]
        self.codes, self.new_codes = codes, []
        return answer

    def generate_image(self, text: str, seed: int) -> PIL.Image.Image:
        """Return a generated X-ray, which becomes part of the conversation."""
        from ..llm_cxr.generation_llm_cxr import generate_image, image_request

        codes = generate_image(self.model, self.processor, text, seed=seed, output_type="codes")
        self.messages += [
            image_request(text, self.processor.image_instruction),
            {"role": "assistant", "content": [{"type": "image"}]},
        ]
        self.codes += codes.tolist()
        return self.processor.decode_codes(codes)[0]


def chat(
    image: Annotated[str | None, typer.Argument(help="Image to start with: a file or URL.")] = None,
    output: Annotated[Path, typer.Option(help="Folder of generated images.", file_okay=False)] = Path("generated"),
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

    conversation = Conversation(*model_options.load(), generation.generate_kwargs)
    if image is not None:
        conversation.add_image(image)
    typer.echo(f"{TEXT_NOTICE}\n/help lists the commands, /exit ends the chat.", err=True)
    torch.manual_seed(generation.seed)
    while (line := _read_line()) not in (None, "/exit"):
        try:
            _respond(line, conversation, output, generation.seed)
        # An error ends the turn, not the chat.
        except (ValueError, OSError) as error:
            typer.echo(f"Error: {error}", err=True)
        except KeyboardInterrupt:
            typer.echo("\nStopped.", err=True)


def _read_line() -> str | None:
    """Return the next line without surrounding whitespace, `None` at the end of the input."""
    try:
        return input("> ").strip()
    except EOFError:
        return None


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
