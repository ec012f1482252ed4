"""
Evaluate a checkpoint and write the results into its model card and other documents.

    python examples/evaluate_llm_cxr.py --records DATA --output_dir runs/evaluation \
        --model_card model_cards/llm-cxr.md --documents README.md

The arguments and the files in `OUTPUT_DIR` are those of `transformers-cxr evaluate` (docs/evaluate.md). In addition
`OUTPUT_DIR/images.png` has rows of an X-ray, its reconstruction, and two images generated from its report. An
interrupted run resumes, and `accelerate launch` shares the work between processes.
"""

import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from transformers_cxr import generate_image, save_image
from transformers_cxr.checkpoints import load_checkpoint
from transformers_cxr.data.conversations import label_report
from transformers_cxr.data.store import open_records
from transformers_cxr.evaluation import (
    EvaluationArguments,
    run_evaluation,
    update_document,
    update_model_card,
)
from transformers_cxr.evaluation.results.tables import results_to_markdown
from transformers_cxr.training.arguments import run_script


@dataclass
class Documents:
    model_card: str = field(default="", metadata={"help": "model card to write tables and metadata into"})
    documents: list[str] = field(
        default_factory=list,
        metadata={"help": "Markdown files with `<!-- metrics: ROW, ... -->` to fill with these rows"},
    )
    picture: str = field(default="", metadata={"help": "second path for images.png"})


def picture(arguments: EvaluationArguments) -> PIL.Image.Image | None:
    """Return a row for the first normal, bacterial, viral and unlabelled X-ray of the records without a report."""
    model, processor = load_checkpoint(arguments.model, "cpu")
    records = [r for path in arguments.records for split in arguments.split for r in open_records(path, split)]
    first = {}
    for record in (r for r in records if not (r.question or r.findings or r.impression)):
        kind = "normal" if record.is_normal else record.etiology or ("" if record.labels else "unlabelled")
        first.setdefault(kind, record)
    rows = []
    for record in (first[kind] for kind in ("normal", "bacterial", "viral", "unlabelled") if kind in first):
        original = processor.image_processor([record.image], return_tensors="pt").pixel_values
        with torch.no_grad():
            decoded = model.vq_tokenizer.decode(model.vq_tokenizer.encode(original))
        generated = generate_image(
            model,
            processor,
            label_report(record, random.Random(arguments.seed)),
            num_images=2,
            guidance_scale=arguments.guidance_scale,
            top_p=arguments.top_p,
            seed=arguments.seed,
        )
        images = processor.postprocess(original) + processor.postprocess(decoded) + generated
        rows.append(np.concatenate([np.asarray(image.convert("L")) for image in images], axis=1))
    if not rows:
        return None
    grid = PIL.Image.fromarray(np.concatenate(rows))
    grid.info["comment"] = generated[0].info["comment"]
    return grid


def main(arguments: EvaluationArguments, documents: Documents):
    results = run_evaluation(arguments)
    if results is None:
        return
    print(results_to_markdown(results))
    if grid := picture(arguments):
        for path in filter(None, (Path(arguments.output_dir) / "images.png", documents.picture)):
            save_image(grid, path)
    if documents.model_card:
        update_model_card(documents.model_card, arguments.output_dir)
    for path in documents.documents:
        update_document(path, arguments.output_dir)


if __name__ == "__main__":
    run_script(main, EvaluationArguments, Documents)
