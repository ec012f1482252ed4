"""Submissions to ReXrank (https://rexrank.ai), a leaderboard of report generation for chest X-rays."""

from __future__ import annotations

import json
from pathlib import Path

from ..checkpoints import load_checkpoint, model_fingerprint
from ..files import atomic_write, file_fingerprint, locked_output, read_json
from ..llm_cxr.generation_llm_cxr import generate_text
from ..reports.sections import parse_report
from .examples import Example
from .predictions import distributed_state, predict


def write_rexrank_predictions(
    studies: str | Path,
    output: str | Path,
    image_root: str | Path,
    model: str | None = None,
    max_new_tokens: int = 256,
    batch_size: int = 32,
) -> None:
    """
    Write reports for a test set of ReXrank. An interrupted run resumes from `OUTPUT.predictions/`, and `accelerate
    launch` shares the work between processes.

    Args:
        studies (`str` or `Path`):
            JSON of `{study id: {"key_image_path": str, "image_path": [str, ...], "context": str, ...}}`. The model
            reads the key image, which is frontal.
        output (`str` or `Path`):
            JSON file to write: the studies unchanged, each with its report as `model_prediction`, on one line with
            the headings of ReXrank: "Findings: ... Impression: ...".
        image_root (`str` or `Path`):
            Folder of the image paths.
        model (`str`, *optional*):
            Folder or Hub name of a checkpoint; the embedded checkpoint by default.
        max_new_tokens (`int`, *optional*, defaults to 256), batch_size (`int`, *optional*, defaults to 32):
            Maximum length of a report, and reports per batch.

    Raises:
        FileExistsError: `output` exists.
        FileNotFoundError: `studies` or an image is missing.
        ValueError: `studies` is not JSON, or a study has no image.
    """
    output, examples = Path(output), []
    if output.exists():
        raise FileExistsError(f"'{output}' exists. Remove it or choose another output.")
    content = read_json(studies)
    for study_id, study in content.items():
        if not isinstance(study, dict):
            raise ValueError(f"Expected study '{study_id}' of '{studies}' as an object, got {study!r:.200}.")
        name = study.get("key_image_path") or next(iter(study.get("image_path") or []), None)
        if not name:
            raise ValueError(f"Study '{study_id}' of '{studies}' has neither `key_image_path` nor `image_path`.")
        # Paths of some test sets begin with a slash.
        image_path = Path(image_root) / name.lstrip("/")
        if not image_path.is_file():
            raise FileNotFoundError(f"There is no image '{image_path}' (study '{study_id}' of '{studies}').")
        examples.append(Example(study_id, study_id, "", image_path, ""))
    state = distributed_state()
    llm, processor = load_checkpoint(model, state.device)

    def generate(batch):
        images = [example.image_path for example in batch]
        return generate_text(llm, processor, images, max_new_tokens=max_new_tokens, do_sample=False)

    settings = {"model": model_fingerprint(llm, processor), "studies": file_fingerprint(studies)}
    settings["max_new_tokens"] = max_new_tokens
    folder = output.with_name(f"{output.name}.predictions")
    with locked_output(folder):
        predictions = predict(examples, generate, folder, settings, batch_size, "reports")
    if state.is_main_process:
        for prediction in predictions:
            content[prediction.example.id]["model_prediction"] = _one_line(prediction.output)
        with atomic_write(output, overwrite=False) as partial:
            partial.write_text(json.dumps(content, ensure_ascii=False, indent=4) + "\n", encoding="utf-8")


def _one_line(report: str) -> str:
    sections = parse_report(report)._asdict()
    return " ".join(f"{heading.capitalize()}: {content}" for heading, content in sections.items() if content)
