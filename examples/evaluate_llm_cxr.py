"""
Evaluate a checkpoint and write the results into its model card and other documents.

    python examples/evaluate_llm_cxr.py --records DATA --output_dir runs/evaluation \
        --model_card src/transformers_cxr/checkpoints/llm-cxr/README.md --documents README.md

The arguments and the files in `OUTPUT_DIR` are those of `transformers-cxr evaluate` (docs/evaluate.md). In addition
`OUTPUT_DIR/images.png` shows eight X-rays of the records above their reconstructions, and 16 images generated from
four reports. An interrupted run resumes, and `accelerate launch` shares the work between processes.
"""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

import PIL.Image
import PIL.ImageDraw
import torch

from transformers_cxr import generate_image, save_image
from transformers_cxr.checkpoints import load_checkpoint
from transformers_cxr.data import StudyRecord
from transformers_cxr.data.conversations import label_report
from transformers_cxr.data.store import open_records
from transformers_cxr.evaluation import (
    EvaluationArguments,
    prepare_model_card,
    run_evaluation,
    update_document,
    update_model_card,
)
from transformers_cxr.evaluation.predictions import distributed_state
from transformers_cxr.evaluation.results.sections import summary
from transformers_cxr.training.arguments import run_script

COLUMNS, CAPTION_HEIGHT = 8, 20
KINDS = ("normal", "bacterial", "viral", "unlabelled")


# What the reports say that images are generated from.
PROMPTS = {
    "child, normal": {"view": "AP", "age_group": "child", "labels": {"No Finding": 1}},
    "child, bacterial": {"view": "AP", "age_group": "child", "labels": {"Pneumonia": 1, "Bacterial Pneumonia": 1}},
    "child, viral": {"view": "AP", "age_group": "child", "labels": {"Pneumonia": 1, "Viral Pneumonia": 1}},
    "adult, PA": {"view": "PA", "age_group": "adult"},
}


@dataclass
class Documents:
    model_card: str = field(default="", metadata={"help": "model card for tables and metadata, new if there is none"})
    documents: list[str] = field(
        default_factory=list,
        metadata={"help": "Markdown files with `<!-- metrics: ROW, ... -->` to fill with these rows"},
    )
    picture: str = field(default="", metadata={"help": "second path for images.png"})


def shown_records(records: Iterable[StudyRecord]) -> list[tuple[str, StudyRecord]]:
    """
    Return up to eight X-rays with their captions: the first normal, bacterial, viral and unlabelled one of each
    source, then the second ones, and so on.
    """
    sources, counts, found = {}, Counter(), []
    for record in (each for each in records if not each.question):
        kind = "normal" if record.is_normal else record.etiology or ("" if record.labels else "unlabelled")
        if kind in KINDS:
            place = (counts[record.source, kind], sources.setdefault(record.source, len(sources)), KINDS.index(kind))
            found.append((place, f"{record.source}, {kind}", record))
            counts[record.source, kind] += 1
    return [(caption, record) for _, caption, record in sorted(found, key=itemgetter(0))[:COLUMNS]]


def picture(arguments: EvaluationArguments) -> PIL.Image.Image | None:
    """
    Return a picture of [`shown_records`], their reconstructions and 16 images generated from `PROMPTS` with the seeds
    0 to 15, or `None` without such records. `picture.info["comment"]` marks it as generated.
    """
    records = [r for path in arguments.records for split in arguments.split for r in open_records(path, split)]
    if not (shown := shown_records(records)):
        return None
    model, processor = load_checkpoint(arguments.model, "cpu")
    original = processor.image_processor([record.image for _, record in shown], return_tensors="pt").pixel_values
    with torch.no_grad():
        decoded = model.vq_tokenizer.decode(model.vq_tokenizer.encode(original))
    reports = []
    for fields in PROMPTS.values():
        record = StudyRecord(id="", patient="", image="", source="", **fields)
        reports.append(label_report(record, random.Random(arguments.seed)))
    repeats = 2 * COLUMNS // len(reports)
    generated = generate_image(
        model,
        processor,
        reports * repeats,
        guidance_scale=arguments.guidance_scale,
        top_p=arguments.top_p,
        seed=list(range(2 * COLUMNS)),
    )
    captions = [f"generated: {caption}" for caption in PROMPTS] * repeats
    rows = [
        (processor.postprocess(original), [caption for caption, _ in shown]),
        (processor.postprocess(decoded), ["reconstruction"] * len(shown)),
        (generated[:COLUMNS], captions[:COLUMNS]),
        (generated[COLUMNS:], captions[COLUMNS:]),
    ]
    width, height = generated[0].width, generated[0].height + CAPTION_HEIGHT
    sheet = PIL.Image.new("L", (COLUMNS * width, len(rows) * height))
    draw = PIL.ImageDraw.Draw(sheet)
    for row, (images, texts) in enumerate(rows):
        for column, (image, text) in enumerate(zip(images, texts)):
            x, y = column * width, row * height
            draw.text((x + 4, y + 2), text, fill=255, font_size=14)
            sheet.paste(image.convert("L"), (x, y + CAPTION_HEIGHT))
    sheet.info["comment"] = generated[0].info["comment"]
    return sheet


def main(arguments: EvaluationArguments, documents: Documents):
    if documents.model_card and distributed_state().is_main_process:
        prepare_model_card(documents.model_card, arguments.model)
    results = run_evaluation(arguments)
    if results is None:
        return
    print(summary(results))
    if sheet := picture(arguments):
        for path in filter(None, (Path(arguments.output_dir) / "images.png", documents.picture)):
            save_image(sheet, path, optimize=True, quality=90)
    if documents.model_card:
        update_model_card(documents.model_card, arguments.output_dir)
    for path in documents.documents:
        update_document(path, arguments.output_dir)


if __name__ == "__main__":
    run_script(main, EvaluationArguments, Documents)
