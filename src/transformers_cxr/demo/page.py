"""The demo page: reports, questions and drawings in the browser."""

from __future__ import annotations

import html
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..llm_cxr.image_processing_llm_cxr import save_image
from ..llm_cxr.processing_llm_cxr import REPORT_INSTRUCTION
from .reader import Reader

try:
    import gradio as gr
except ImportError as error:
    raise ImportError("The demo page needs gradio: `pip install transformers-cxr[demo]`.") from error

NOTICE = (
    "**Research only.** Every report, answer and drawing on this page is generated, is often wrong, and must not be used "
    "for any clinical decision."
)
EXAMPLES = {
    "Normal": Path(__file__).parent / "images/NORMAL2-IM-0832-0001.jpeg",
    "Bacterial pneumonia": Path(__file__).parent / "images/person1582_bacteria_4140.jpeg",
}
EXAMPLES_SOURCE = (
    "Examples: Kermany, Zhang, Goldbaum, [10.17632/rscbjbr9sj](https://doi.org/10.17632/rscbjbr9sj), "
    "[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/); not seen in training."
)
TEXT_TO_DRAW = (
    "FINDINGS: This is a chest X-ray of a child, AP view. The X-ray shows no sign of pneumonia.\n"
    "IMPRESSION: Normal chest X-ray."
)
MAX_CHARACTERS = 4000
MAX_IMAGES = 4
MAX_GUIDANCE = 5
MAX_SEED = 2**31 - 1
# The model works on one request at a time, and so many may wait.
MAX_WAITING = 64
PICTURE = {"interactive": False, "format": "png", "height": 240, "show_label": False, "buttons": []}
MODEL = {"concurrency_id": "model", "concurrency_limit": 1}
# How often files of the page are looked at, and the age at which they are deleted, in seconds.
DELETE_FILES = (300, 3600)
CSS = """
#notice {border-left: 4px solid #d97706; padding: 0 0.75rem;}
#source {font-size: 0.85em; opacity: 0.8;}
"""


@dataclass
class Session:
    """
    What the page knows of a user; it never leaves the server.

    codes (`list[int]`, *optional*): the X-ray that is looked at.
    turns (`list[str]`): the conversation about it, of the user and of the model by turns.
    """

    codes: list[int] | None = None
    turns: list[str] = field(default_factory=list)


@contextmanager
def mistakes_on_page() -> Iterator[None]:
    """What the user can put right is a message on the page, and nothing in the log."""
    try:
        yield
    except (ValueError, OSError) as error:
        # The page takes the message for HTML.
        raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from error


def _whole_number(value, name: str, low: int, high: int) -> int:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or value != int(value)
    ):
        raise ValueError(f"{name} must be a whole number, got {value!r}.")
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, got {int(value)}.")
    return int(value)


def _guidance(value) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value <= MAX_GUIDANCE:
        raise ValueError(f"Guidance must be a number from 1 (none) to {MAX_GUIDANCE}, got {value!r}.")
    return float(value)


def _text(value, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is empty: write something first.")
    if len(value) > MAX_CHARACTERS:
        raise ValueError(f"{name} is too long: {len(value)} characters, at most {MAX_CHARACTERS} are taken.")
    return value.strip()


def _chat_messages(turns: list[str]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * len(turns), turns)]


class Handlers:
    """The events of the page. Each takes and returns values of its components."""

    def __init__(self, reader: Reader):
        self.reader = reader

    def look(self, path: str | None):
        """An uploaded file: its pixels, its reconstruction, a new session, no report, no conversation."""
        with mistakes_on_page():
            if path is None:
                raise ValueError("There is no file: upload one.")
            return self._look(Path(path))

    def look_at_nothing(self):
        """The same without a file."""
        return None, None, Session(), "", []

    def look_at_example(self, index: int):
        """The same of an example, and no uploaded file."""
        with mistakes_on_page():
            paths = list(EXAMPLES.values())
            return None, *self._look(paths[_whole_number(index, "The number of the example", 0, len(paths) - 1)])

    def _look(self, path: Path):
        xray = self.reader.look(path)
        return xray.pixels, xray.reconstruction, Session(xray.codes), "", []

    def report(self, session: Session):
        """The report so far."""
        with mistakes_on_page():
            yield from self.reader.write(self._codes(session), [REPORT_INSTRUCTION])

    def ask(self, session: Session, question: str):
        """The conversation so far, the session with it, and an empty question."""
        with mistakes_on_page():
            codes = self._codes(session)
            asked = [*session.turns, _text(question, "The question")]
            answer = ""
            for answer in self.reader.write(codes, asked):
                yield _chat_messages([*asked, answer]), session, ""
            # Only whole turns are kept: one that was stopped never happened.
            session = Session(codes, [*asked, answer])
            yield _chat_messages(session.turns), session, ""

    def new_conversation(self, session: Session):
        """An empty conversation about the same X-ray."""
        return [], Session(session.codes)

    def draw(self, text: str, num_images, guidance_scale, seed):
        """The images so far, as files that are marked as generated."""
        with mistakes_on_page():
            num_images = _whole_number(num_images, "The number of samples", 1, MAX_IMAGES)
            seed = _whole_number(seed, "The seed", 0, MAX_SEED - MAX_IMAGES)
            text, guidance_scale = _text(text, "The text to draw"), _guidance(guidance_scale)
            folder = Path(tempfile.mkdtemp(dir=gr.utils.get_upload_folder()))
            for row, images in enumerate(self.reader.draw(text, num_images, seed, guidance_scale)):
                # A browser does not load a picture again whose name it knows.
                files = [folder / f"generated-seed-{seed + i}-row-{row + 1}.png" for i in range(num_images)]
                for image, file in zip(images, files):
                    save_image(image, file)
                yield [(str(file), f"Generated, seed {seed + i}") for i, file in enumerate(files)]

    def take_over(self, report: str):
        """The report as the text to draw, and the tab where that is done."""
        return report, gr.Tabs(selected="draw")

    @staticmethod
    def _codes(session: Session) -> list[int]:
        if session.codes is None:
            raise ValueError("There is no X-ray yet: upload one or choose an example.")
        return session.codes


def build_page(reader: Reader, title: str) -> gr.Blocks:
    """
    The page, not yet served.

    Args:
        reader ([`Reader`]): the checkpoint.
        title (`str`): says which checkpoint it is.
    """
    handlers = Handlers(reader)
    num_codes = reader.model.config.vq_config.num_image_tokens
    with gr.Blocks(title="LLM-CXR", analytics_enabled=False, delete_cache=DELETE_FILES) as page:
        session = gr.State(Session())
        gr.Markdown(f"# LLM-CXR reads and draws chest X-rays\n\n{title}")
        gr.Markdown(NOTICE, elem_id="notice")
        with gr.Tabs() as tabs:
            with gr.Tab("Read", id="read"):
                with gr.Row():
                    with gr.Column():
                        upload = gr.File(label="Chest X-ray: PNG, JPEG, DICOM ...", height=140, elem_id="upload")
                        examples = gr.Dataset(
                            label="Examples",
                            components=[gr.Image(render=False)],
                            samples=[[str(path)] for path in EXAMPLES.values()],
                            type="index",
                            elem_id="examples",
                        )
                        gr.Markdown(EXAMPLES_SOURCE, elem_id="source")
                        with gr.Row():
                            with gr.Column(min_width=120):
                                gr.Markdown("As the model sees it")
                                pixels = gr.Image(elem_id="pixels", **PICTURE)
                            with gr.Column(min_width=120):
                                gr.Markdown(f"From {num_codes} codes")
                                reconstruction = gr.Image(elem_id="reconstruction", **PICTURE)
                    with gr.Column():
                        report = gr.Textbox(
                            label="Report (generated; can be edited)",
                            lines=5,
                            elem_id="report",
                            buttons=["copy"],
                            placeholder="Upload an X-ray or choose an example.",
                        )
                        with gr.Row():
                            write_again = gr.Button("Write it again", size="sm", min_width=100)
                            draw_report = gr.Button("Draw this report", size="sm", min_width=100, variant="primary")
                        chat = gr.Chatbot(
                            label="Questions about the X-ray (answers are generated)",
                            height=280,
                            render_markdown=False,
                            buttons=[],
                            feedback_options=None,
                            elem_id="chat",
                        )
                        question = gr.Textbox(
                            label="Question",
                            placeholder="Is there pneumonia?",
                            submit_btn="Ask",
                            lines=1,
                            elem_id="question",
                        )
                        with gr.Row():
                            stop_reading = gr.Button("Stop", size="sm", min_width=100)
                            new_conversation = gr.Button("New conversation", size="sm", min_width=100)
            with gr.Tab("Draw", id="draw"):
                with gr.Row():
                    with gr.Column():
                        text = gr.Textbox(
                            label="Report, findings or impression", value=TEXT_TO_DRAW, lines=5, elem_id="text"
                        )
                        num_images = gr.Slider(1, MAX_IMAGES, value=2, step=1, label="Samples", elem_id="samples")
                        guidance = gr.Slider(
                            1,
                            MAX_GUIDANCE,
                            value=reader.model.generation_config.image_generation.get("guidance_scale", 1),
                            step=0.1,
                            label="Guidance (1 is none)",
                            elem_id="guidance",
                        )
                        seed = gr.Number(0, label="Seed of the first sample", elem_id="seed")
                        with gr.Row():
                            draw = gr.Button("Draw", variant="primary", min_width=100)
                            stop_drawing = gr.Button("Stop", min_width=100)
                    with gr.Column():
                        gr.Markdown("Generated X-rays, for research only")
                        gallery = gr.Gallery(
                            show_label=False,
                            columns=2,
                            height="auto",
                            object_fit="contain",
                            interactive=False,
                            buttons=["download", "fullscreen"],
                            elem_id="gallery",
                        )

        looked_at = [pixels, reconstruction, session, report, chat]
        reporting = {"inputs": session, "outputs": report, "show_progress": "minimal", **MODEL}
        drawing = {"inputs": [text, num_images, guidance, seed], "outputs": gallery, **MODEL}
        looks = [
            upload.upload(handlers.look, upload, looked_at, **MODEL),
            examples.click(handlers.look_at_example, examples, [upload, *looked_at], **MODEL),
        ]
        written_again = write_again.click(handlers.report, **reporting)
        reports = [look.success(handlers.report, api_visibility="private", **reporting) for look in looks]
        upload.clear(handlers.look_at_nothing, None, looked_at)
        asked = question.submit(
            handlers.ask,
            [session, question],
            [chat, session, question],
            show_progress="minimal",
            show_progress_on=question,  # an error there would hide the conversation
            **MODEL,
        )
        gr.on([new_conversation.click, chat.clear], handlers.new_conversation, session, [chat, session], cancels=asked)
        gr.on([upload.clear, stop_reading.click], None, cancels=[*reports, written_again, asked])
        drawn = draw.click(handlers.draw, **drawing)
        moved = draw_report.click(handlers.take_over, report, [text, tabs], queue=False, api_visibility="private")
        drawn_report = moved.success(handlers.draw, api_visibility="private", **drawing)
        stop_drawing.click(None, cancels=[drawn, drawn_report])
    return page.queue(max_size=MAX_WAITING, api_open=False)
