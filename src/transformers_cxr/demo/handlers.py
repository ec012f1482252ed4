"""Event handlers of the demo page, and its state."""

from __future__ import annotations

import html
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import gradio as gr
import PIL.Image
import PIL.ImageChops

from ..data.conversations import label_report
from ..data.records import StudyRecord
from ..data.wording import LABEL_QUESTIONS
from ..llm_cxr.image_processing_llm_cxr import save_image
from ..llm_cxr.likelihood_llm_cxr import NOT_A_CHEST_XRAY
from ..llm_cxr.processing_llm_cxr import IMAGE_NOTICE
from ..reports.sections import compose_report, parse_report
from .model import DemoModel

IMAGES = Path(__file__).parent / "images"
# Two real X-rays and six generated ones; head.html has their names.
EXAMPLES = (
    IMAGES / "NORMAL2-IM-0832-0001.jpeg",
    IMAGES / "person1582_bacteria_4140.jpeg",
    IMAGES / "generated-child-normal-seed-0.png",
    IMAGES / "generated-child-bacterial-pneumonia-seed-0.png",
    IMAGES / "generated-child-viral-pneumonia-seed-0.png",
    IMAGES / "generated-adult-normal-seed-1.png",
    IMAGES / "generated-adult-cardiomegaly-seed-1.png",
    IMAGES / "generated-adult-pleural-effusion-seed-0.png",
)
HEADINGS = ("FINDINGS:", "IMPRESSION:")
PROMPT_FINDINGS = {
    "Normal": ("No Finding",),
    "Bacterial pneumonia": ("Pneumonia", "Bacterial Pneumonia"),
    "Viral pneumonia": ("Pneumonia", "Viral Pneumonia"),
    "Pleural effusion": ("Effusion",),
    "Cardiomegaly": ("Cardiomegaly",),
    "Pneumothorax": ("Pneumothorax",),
}
PROMPT_VIEWS = ("AP", "PA")
PROMPT_AGE_GROUPS = {"Child": "child", "Adult": "adult"}


@dataclass
class Session:
    """
    State of a user, on the server only.

    Args:
        codes (`list[int]`, *optional*): Codes of the current X-ray.
        is_other (`bool`): Whether it does not look like a chest X-ray, and gets no report.
        turns (`list[str]`): Conversation about it, alternating between the user and the model.
    """

    codes: list[int] | None = None
    is_other: bool = False
    turns: list[str] = field(default_factory=list)


@dataclass
class Generated:
    """
    Images that were generated last, on the server only.

    Args:
        images (`list[PIL.Image.Image]`): The images.
        guidance_scale (`float`), seed (`int`): Their settings.
    """

    images: list[PIL.Image.Image] = field(default_factory=list)
    guidance_scale: float = 1.0
    seed: int = 0


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


def report_sections(text: str) -> tuple[str, str]:
    """Return findings and impression of a report, which may be incomplete. Text without a heading is impression."""
    *_, last_line = text.splitlines() or [""]
    if any(heading.startswith(last_line) for heading in HEADINGS):
        text = text.removesuffix(last_line)
    sections = parse_report(text)
    return (sections.findings, sections.impression) if any(map(text.__contains__, HEADINGS)) else ("", text)


class Handlers:
    """Event handlers of the page; they take and return values of its components."""

    def __init__(self, demo_model: DemoModel):
        self.demo_model = demo_model

    def open_image(self, path: str | None):
        """Return the X-ray, its reconstruction and description, a new session, and empty texts about it."""
        with page_errors():
            if path is None:
                raise ValueError("No X-ray: upload one.")
            xray = self.demo_model.open(Path(path))
        return xray.image, xray.reconstruction, xray.description, Session(xray.codes, xray.is_other), "", "", []

    def open_example(self, index: int):
        """Return the outputs of `open_image` for an example."""
        with page_errors():
            if index not in range(len(EXAMPLES)):
                raise ValueError(f"Expected the number of an example, below {len(EXAMPLES)}.")
        return self.open_image(str(EXAMPLES[index]))

    def report(self, session: Session):
        """Yield the findings and the impression so far, or a sentence in their place."""
        if session.is_other:
            yield "", f"No report. {NOT_A_CHEST_XRAY}"
            return
        with page_errors():
            instruction = self.demo_model.processor.report_instruction
            for text in self.demo_model.write(self._codes(session), [instruction]):
                yield report_sections(text)

    def sureness(self, session: Session):
        """Return the probabilities of the findings that the model knows as bars, and their names, the surest first."""
        if session.is_other:
            return "", []
        with page_errors():
            findings = self.demo_model.sureness(self._codes(session))
        return _bars(findings), list(findings)

    def look(self, session: Session, known: list[str]):
        """Return a map of what the last answer, or that on the surest finding, depends on, and a sentence about it."""
        with page_errors():
            codes = self._codes(session)
            question = self.demo_model.processor.report_instruction
            if session.turns:
                question = session.turns[-2]
            elif known:
                question = LABEL_QUESTIONS[0].format(label=known[0])
            answer, image = self.demo_model.look(codes, question)
        return image, (
            f"Where the model looks for “{question}” "
            f"{answer} Without the amber areas the answer is less likely, without the blue ones more."
        )

    def ask(self, session: Session, question: str):
        """Yield the chat so far, the session, and an empty question."""
        with page_errors():
            codes = self._codes(session)
            asked = [*session.turns, _check_text(question, "The question")]
            for answer in self.demo_model.write(codes, asked):
                yield _chat_messages([*asked, answer]), session, ""
            # A turn that was stopped is not kept.
            session = replace(session, turns=[*asked, answer])
            yield _chat_messages(session.turns), session, ""

    def new_conversation(self, session: Session):
        """Return an empty chat about the same X-ray."""
        return [], replace(session, turns=[])

    def prompt(self, finding: str, view: str, age_group: str):
        """Return the text of an X-ray, in the words of the reports that are derived from labels."""
        labels = dict.fromkeys(PROMPT_FINDINGS[finding], 1)
        record = StudyRecord(
            id="", patient="", image="", source="", view=view, age_group=PROMPT_AGE_GROUPS[age_group], labels=labels
        )
        return label_report(record, random.Random(0))

    def generate(self, text: str, num_images: int, guidance_scale: float, seed: int):
        """Yield the generated images so far, as files marked as generated, and the images themselves."""
        with page_errors():
            text, seed = _check_text(text, "The text"), seed or 0
            folder = Path(tempfile.mkdtemp(dir=gr.utils.get_upload_folder()))
            for row, images in enumerate(self.demo_model.generate(text, num_images, seed, guidance_scale), start=1):
                # A browser reloads an image only under a new name.
                files = [
                    (_save(image, folder / f"generated-seed-{seed + i}-row-{row}.png"), f"Generated, seed {seed + i}")
                    for i, image in enumerate(images)
                ]
                yield files, Generated(images, guidance_scale, seed)

    def compare(self, text: str, before: Generated):
        """Yield images of an edited text with the same seeds: before, after and difference of each."""
        with page_errors():
            text = _check_text(text, "The text")
            if not before.images:
                raise ValueError("No images to compare with: generate some.")
            folder = Path(tempfile.mkdtemp(dir=gr.utils.get_upload_folder()))
            frames = self.demo_model.generate(text, len(before.images), before.seed, before.guidance_scale)
            for row, images in enumerate(frames, start=1):
                files = []
                for seed, (old, new) in enumerate(zip(before.images, images), start=before.seed):
                    pictures = {
                        f"Before, seed {seed}": old,
                        f"After, seed {seed}": new,
                        f"Difference, seed {seed}": _difference(old, new),
                    }
                    for number, (caption, picture) in enumerate(pictures.items()):
                        file = folder / f"compared-seed-{seed}-{number}-row-{row}.png"
                        files.append((_save(picture, file), caption))
                yield files

    def use_report(self, findings: str, impression: str):
        """Return the report as text of an image to generate, and the tab to open."""
        return compose_report(findings, impression), gr.Tabs(selected="generate")

    @staticmethod
    def _codes(session: Session) -> list[int]:
        if session.codes is None:
            raise ValueError("No X-ray: upload one or choose an example.")
        if session.is_other:
            raise ValueError(NOT_A_CHEST_XRAY)
        return session.codes


def _save(image: PIL.Image.Image, file: Path) -> str:
    save_image(image, file)
    return str(file)


def _difference(before: PIL.Image.Image, after: PIL.Image.Image) -> PIL.Image.Image:
    """Return a picture that is white where two images are the same, red where the second is brighter, blue darker."""
    before, after = before.convert("L"), after.convert("L")
    brighter, darker = PIL.ImageChops.subtract(after, before), PIL.ImageChops.subtract(before, after)
    channels = darker, PIL.ImageChops.lighter(brighter, darker), brighter
    picture = PIL.Image.merge("RGB", [PIL.ImageChops.invert(channel) for channel in channels])
    picture.info["comment"] = f"Difference of two images. {IMAGE_NOTICE}"
    return picture


def _bars(findings: dict[str, tuple[float, float]]) -> str:
    """Return the probabilities of yes and no of each finding as a table with bars."""
    rows = [
        f'<tr><th scope="row">{html.escape(name)}</th>'
        f'<td><i aria-hidden="true" style="--yes: {yes:.1%}; --no: {no:.1%}"></i></td>'
        f"<td>yes {yes:.0%}, no {no:.0%}</td></tr>"
        for name, (yes, no) in findings.items()
    ]
    caption = "How sure the model is: probability that it answers yes or no"
    return f"<table><caption>{caption}</caption><tbody>{''.join(rows)}</tbody></table>" if rows else ""
