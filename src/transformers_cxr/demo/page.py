"""Layout and events of the demo page."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr

from ..llm_cxr.image_processing_llm_cxr import save_image
from .model import DemoModel

NOTICE = (
    "**Research only.** Every report, answer and image on this page is generated, is often wrong, and must not be "
    "used for any clinical decision."
)
IMAGES = Path(__file__).parent / "images"
# A normal X-ray and one of bacterial pneumonia.
EXAMPLES = (IMAGES / "NORMAL2-IM-0832-0001.jpeg", IMAGES / "person1582_bacteria_4140.jpeg")
EXAMPLES_SOURCE = (
    "Examples: Kermany, Zhang, Goldbaum, [10.17632/rscbjbr9sj](https://doi.org/10.17632/rscbjbr9sj), "
    "[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/); not seen in training."
)
EXAMPLE_TEXT = (
    "FINDINGS: This is a chest X-ray of a child, AP view. The X-ray shows no sign of pneumonia.\n"
    "IMPRESSION: Normal chest X-ray."
)
MAX_IMAGES = 4
MAX_GUIDANCE = 5
MAX_SEED = 2**31
# Requests that may wait for the model, which serves one at a time.
MAX_WAITING = 64
MODEL_QUEUE = {"concurrency_id": "model", "concurrency_limit": 1}
PREVIEW = {"interactive": False, "format": "png", "height": 240, "show_label": False, "buttons": []}
# Interval at which files are checked and age at which they are deleted, in seconds.
DELETE_FILES = (300, 3600)
CSS = """
#notice {border-left: 4px solid #d97706; padding: 0 0.75rem;}
#source {font-size: 0.85em; opacity: 0.8;}
"""


@dataclass
class Session:
    """
    State of a user, on the server only.

    Args:
        codes (`list[int]`, *optional*): Codes of the current X-ray.
        turns (`list[str]`): Conversation about it, alternating between the user and the model.
    """

    codes: list[int] | None = None
    turns: list[str] = field(default_factory=list)


@contextmanager
def page_errors() -> Iterator[None]:
    """Show an error that the user can fix as a message on the page, without a log entry."""
    try:
        yield
    except (ValueError, OSError) as error:
        # Gradio shows the message as HTML.
        raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from error


def _check_text(text: str | None, name: str) -> str:
    if not text or not text.strip():
        raise ValueError(f"{name} is empty.")
    return text.strip()


def _chat_messages(turns: list[str]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * len(turns), turns)]


class Handlers:
    """Event handlers of the page; they take and return values of its components."""

    def __init__(self, demo_model: DemoModel):
        self.demo_model = demo_model

    def open_image(self, path: str | None):
        """Return the pixels and the reconstruction of an upload, a new session, an empty report and an empty chat."""
        with page_errors():
            if path is None:
                raise ValueError("No X-ray: upload one.")
            codes, pixels, reconstruction = self.demo_model.encode(Path(path))
        return pixels, reconstruction, Session(codes), "", []

    def open_example(self, index: int):
        """Return an empty upload, and the outputs of `open_image` for an example."""
        with page_errors():
            if index not in range(len(EXAMPLES)):
                raise ValueError(f"Expected the number of an example, below {len(EXAMPLES)}.")
        return None, *self.open_image(str(EXAMPLES[index]))

    def clear_image(self):
        """Return no pixels, no reconstruction, a new session, an empty report and an empty chat."""
        return None, None, Session(), "", []

    def report(self, session: Session):
        """Yield the report so far."""
        with page_errors():
            yield from self.demo_model.write(self._codes(session), [self.demo_model.processor.report_instruction])

    def ask(self, session: Session, question: str):
        """Yield the chat so far, the session, and an empty question."""
        with page_errors():
            codes = self._codes(session)
            asked = [*session.turns, _check_text(question, "The question")]
            for answer in self.demo_model.write(codes, asked):
                yield _chat_messages([*asked, answer]), session, ""
            # A turn that was stopped is not kept.
            session = Session(codes, [*asked, answer])
            yield _chat_messages(session.turns), session, ""

    def new_conversation(self, session: Session):
        """Return an empty chat about the same X-ray."""
        return [], Session(session.codes)

    def generate(self, text: str, num_images: int, guidance_scale: float, seed: int):
        """Yield the generated images so far, as files marked as generated."""
        with page_errors():
            text, seed = _check_text(text, "The text"), seed or 0
            folder = Path(tempfile.mkdtemp(dir=gr.utils.get_upload_folder()))
            for row, images in enumerate(self.demo_model.generate(text, num_images, seed, guidance_scale), start=1):
                # A browser reloads an image only under a new name.
                files = [folder / f"generated-seed-{seed + i}-row-{row}.png" for i in range(num_images)]
                for image, file in zip(images, files):
                    save_image(image, file)
                yield [(str(file), f"Generated, seed {seed + i}") for i, file in enumerate(files)]

    def use_report(self, report: str):
        """Return the report as text of an image to generate, and the tab to open."""
        return report, gr.Tabs(selected="generate")

    @staticmethod
    def _codes(session: Session) -> list[int]:
        if session.codes is None:
            raise ValueError("No X-ray: upload one or choose an example.")
        return session.codes


class Page(gr.Blocks):
    """Blocks that answer arguments of wrong types or values with a message, without a log entry."""

    async def preprocess_data(self, block_fn, *args, **kwargs):
        try:
            return await super().preprocess_data(block_fn, *args, **kwargs)
        except Exception as error:
            # Other messages quote arguments and paths.
            is_limit = isinstance(error, gr.Error)
            message = error.message if is_limit else f"The arguments of '{block_fn.api_name}' are not valid."
            raise gr.Error(html.escape(message, quote=False), print_exception=False) from None


def build_page(demo_model: DemoModel, title: str) -> gr.Blocks:
    """
    Build the page.

    Args:
        demo_model ([`DemoModel`]): The checkpoint.
        title (`str`): Line below the heading.
    """
    handlers = Handlers(demo_model)
    num_codes = demo_model.model.config.vq_config.num_image_tokens
    with Page(title="LLM-CXR", analytics_enabled=False, delete_cache=DELETE_FILES) as page:
        session = gr.State(Session())
        gr.Markdown(f"# LLM-CXR reads and generates chest X-rays\n\n{title}")
        gr.Markdown(NOTICE, elem_id="notice")
        with gr.Tabs() as tabs:
            with gr.Tab("Read", id="read"), gr.Row():
                with gr.Column():
                    upload = gr.File(label="Chest X-ray: PNG, JPEG, DICOM ...", height=140, elem_id="upload")
                    examples = gr.Dataset(
                        label="Examples",
                        components=[gr.Image(render=False)],
                        samples=[[str(path)] for path in EXAMPLES],
                        type="index",
                        elem_id="examples",
                    )
                    gr.Markdown(EXAMPLES_SOURCE, elem_id="source")
                    with gr.Row():
                        with gr.Column(min_width=120):
                            gr.Markdown("Input of the model")
                            pixels = gr.Image(elem_id="pixels", **PREVIEW)
                        with gr.Column(min_width=120):
                            gr.Markdown(f"Reconstruction from {num_codes} codes")
                            reconstruction = gr.Image(elem_id="reconstruction", **PREVIEW)
                with gr.Column():
                    report = gr.Textbox(
                        label="Report (generated, editable)",
                        lines=5,
                        elem_id="report",
                        buttons=["copy"],
                        placeholder="Upload an X-ray or choose an example.",
                    )
                    with gr.Row():
                        write_again = gr.Button("Write it again", size="sm", min_width=100)
                        generate_report = gr.Button(
                            "Generate an X-ray from it", size="sm", min_width=100, variant="primary"
                        )
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
            with gr.Tab("Generate", id="generate"), gr.Row():
                with gr.Column():
                    text = gr.Textbox(
                        label="Report, findings or impression", value=EXAMPLE_TEXT, lines=5, elem_id="text"
                    )
                    num_images = gr.Slider(
                        1, MAX_IMAGES, value=2, step=1, precision=0, label="Images", elem_id="images"
                    )
                    guidance = gr.Slider(
                        1,
                        MAX_GUIDANCE,
                        value=demo_model.model.image_generation.get("guidance_scale", 1),
                        step=0.1,
                        label="Guidance (1 switches it off)",
                        elem_id="guidance",
                    )
                    seed = gr.Number(
                        0, label="Seed of the first image", precision=0, minimum=0, maximum=MAX_SEED, elem_id="seed"
                    )
                    with gr.Row():
                        generate = gr.Button("Generate", variant="primary", min_width=100)
                        stop_generating = gr.Button("Stop", min_width=100)
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

        opened = [pixels, reconstruction, session, report, chat]
        report_event = {"inputs": session, "outputs": report, "show_progress": "minimal", **MODEL_QUEUE}
        generate_event = {"inputs": [text, num_images, guidance, seed], "outputs": gallery, **MODEL_QUEUE}
        openings = [
            upload.upload(handlers.open_image, upload, opened, **MODEL_QUEUE),
            examples.click(handlers.open_example, examples, [upload, *opened], **MODEL_QUEUE),
        ]
        upload.clear(handlers.clear_image, None, opened)
        # The first event of a handler gives it its name in the API.
        reports = [write_again.click(handlers.report, **report_event)]
        for opening in openings:
            reports.append(opening.success(handlers.report, api_visibility="private", **report_event))
        answer = question.submit(
            handlers.ask,
            [session, question],
            [chat, session, question],
            show_progress="minimal",
            show_progress_on=question,  # on the chat, an error would cover the conversation
            **MODEL_QUEUE,
        )
        gr.on(
            [new_conversation.click, chat.clear], handlers.new_conversation, session, [chat, session], cancels=answer
        )
        gr.on([upload.clear, stop_reading.click], None, cancels=[*reports, answer])
        generations = [
            generate.click(handlers.generate, **generate_event),
            generate_report.click(
                handlers.use_report, report, [text, tabs], queue=False, api_visibility="private"
            ).success(handlers.generate, api_visibility="private", **generate_event),
        ]
        stop_generating.click(None, cancels=generations)
    return page.queue(max_size=MAX_WAITING, api_open=False)
