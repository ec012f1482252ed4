"""The command `chat`."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..notices import TEXT_NOTICE
from . import options
from .errors import mistakes_as_messages
from .models import load_model

if TYPE_CHECKING:
    from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
    from ..llm_cxr.processing_llm_cxr import LlmCxrProcessor

HELP = """\
/image PATH   show an X-ray; what you write next is about it
/draw TEXT    draw an X-ray of a text into the folder of --output; what you write next is about it
/new          begin a new conversation
/help         these lines
/exit         end (also Ctrl-D); Ctrl-C stops an answer"""


class Conversation:
    """
    A conversation with a checkpoint over several turns.

    Args:
        model ([`LlmCxrForCausalLM`]), processor ([`LlmCxrProcessor`]):
            The checkpoint.
        generate_kwargs (`dict`):
            Arguments of `generate`.
    """

    def __init__(self, model: LlmCxrForCausalLM, processor: LlmCxrProcessor, generate_kwargs: dict):
        self.model = model
        self.processor = processor
        self.generate_kwargs = generate_kwargs
        self.begin()

    def begin(self) -> None:
        """Forgets everything."""
        self.messages: list[dict] = []
        self.codes: list[list[int]] = []
        self.shown: list[list[int]] = []

    def show(self, image: str) -> None:
        """Adds an X-ray to the user's next message."""
        import torch

        pixel_values = self.processor.image_processor(image, return_tensors="pt").pixel_values
        with torch.no_grad():
            self.shown += self.model.vq_tokenizer.encode(pixel_values.to(self.model.device)).tolist()

    def answer(self, text: str, streamer=None) -> None:
        """Says something and adds the answer. Where it fails or is interrupted the conversation stays as it was."""
        content = [{"type": "text", "text": text}, *({"type": "image"} for _ in self.shown)]
        messages = [*self.messages, {"role": "user", "content": content}]
        codes = self.codes + self.shown
        prompt = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        inputs = self.processor(text=[prompt], image_codes=codes or None, return_tensors="pt").to(self.model.device)
        output = self.model.generate(**inputs, generation_mode="text", streamer=streamer, **self.generate_kwargs)
        (answer,) = self.processor.post_process_multimodal_output(
            output[:, inputs.input_ids.shape[1] :], generation_mode="text"
        )
        self.messages = [*messages, {"role": "assistant", "content": [{"type": "text", "text": answer.strip()}]}]
        self.codes, self.shown = codes, []

    def draw(self, text: str, seed: int):
        """Draws an X-ray of a text, which becomes part of the conversation, and gives its picture (`PIL.Image.Image`)."""
        from ..llm_cxr.processing_llm_cxr import IMAGE_INSTRUCTION

        inputs = self.processor(text=self.processor.image_prompts([text], IMAGE_INSTRUCTION), return_tensors="pt")
        kwargs = self.processor.with_negative_prompt({"seed": seed}, IMAGE_INSTRUCTION, self.model.device)
        codes = self.model.generate_image(**inputs.to(self.model.device), **kwargs).codes.tolist()
        asked = [{"type": "text", "text": IMAGE_INSTRUCTION}, {"type": "text", "text": text}]
        self.messages += [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": [{"type": "image"}]},
        ]
        self.codes += codes
        return self.processor.decode_codes(codes)[0]


def chat(
    image: Annotated[str | None, typer.Argument(help="Image to begin with: a file or URL.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for what is drawn.", file_okay=False)] = Path("drawn"),
    max_new_tokens: options.MaxNewTokens = 256,
    do_sample: options.Sample = False,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    seed: options.Seed = 0,
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
):
    """
    Chat about chest X-rays, and have some drawn, over several turns.

    Generated, for research only. `/help` in the chat lists what can be done there.

    ```
    transformers-cxr chat xray.png
    transformers-cxr chat --do-sample --temperature 0.7 --output drawn
    ```
    """
    sampling = options.sampling_arguments(do_sample, temperature=temperature, top_k=top_k, top_p=top_p)
    with mistakes_as_messages():
        conversation = Conversation(*load_model(model, device, dtype), {"max_new_tokens": max_new_tokens, **sampling})
        if image is not None:
            conversation.show(image)
        typer.echo(f"{TEXT_NOTICE}\n/help lists what can be done, /exit ends.", err=True)
        import torch

        torch.manual_seed(seed)
        seeds = count(seed)
        while (line := _read_line()) is not None:
            try:
                if not _follow(line, conversation, output, seeds):
                    break
            # A mistake ends a turn, not the chat.
            except (ValueError, OSError) as error:
                typer.echo(f"Error: {error}", err=True)
            except KeyboardInterrupt:
                typer.echo("\nStopped.", err=True)


def _read_line() -> str | None:
    """A line of the user without blanks around it; `None` at the end of the input."""
    try:
        import readline  # noqa: F401 -- `input` edits lines and remembers them once this is imported
    except ImportError:
        pass
    try:
        return input("> ").strip()
    except EOFError:
        return None


def _stream_to_stdout(processor: LlmCxrProcessor):
    """A streamer that prints each word when it is whole, without blanks at the end of an answer."""
    from transformers import TextStreamer

    class AnswerStreamer(TextStreamer):
        blanks = ""

        def on_finalized_text(self, text: str, stream_end: bool = False):
            text = self.blanks + text
            shown = text.rstrip()
            self.blanks = text[len(shown) :]
            print(shown, flush=True, end="\n" if stream_end else "")

    return AnswerStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)


def _follow(line: str, conversation: Conversation, output: Path, seeds) -> bool:
    """Does what a line says; whether the chat goes on."""
    command, _, argument = line.partition(" ")
    if command == "/exit":
        return False
    if command == "/help":
        typer.echo(HELP)
    elif command == "/new":
        conversation.begin()
    elif command == "/image":
        conversation.show(argument.strip())
        typer.echo(f"You see {argument.strip()}. What do you want to know?")
    elif command == "/draw":
        typer.echo(_draw(argument.strip(), conversation, output, seeds))
    elif command.startswith("/"):
        raise ValueError(f"There is no '{command}' here. /help lists what there is.")
    elif line:
        conversation.answer(line, _stream_to_stdout(conversation.processor))
    return True


def _draw(text: str, conversation: Conversation, output: Path, seeds) -> Path:
    """Draws into the first file that is not there yet; its number is the seed."""
    from ..files import atomic_write
    from ..llm_cxr.image_processing_llm_cxr import save_image

    output.mkdir(parents=True, exist_ok=True)
    path, seed = next((path, seed) for seed in seeds if not (path := output / f"seed-{seed}.png").exists())
    picture = conversation.draw(text, seed)
    with atomic_write(path) as partial:
        save_image(picture, partial)
    return path
