"""
Evaluates a checkpoint and writes the results into its model card and the README.

    python examples/evaluate_llm_cxr.py --data_dir DATA --output_dir runs/evaluation --model_card model_cards/llm-cxr.md \
        --documents README.md

The embedded checkpoint is evaluated unless `--model` names another; a run that was cut off goes on when it is started again,
and `accelerate launch` shares the work between processes. `DATA` is a Hugging Face imagefolder with a `metadata.csv` (columns
in `transformers_cxr.data.readers.image_folder`). All other arguments and the files in `OUTPUT_DIR` are those of `transformers-cxr
evaluate` (docs/evaluate.md). `images.png` in `OUTPUT_DIR` has rows of an X-ray, its reconstruction, and two images drawn from
its report.
"""

import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from transformers_cxr import checkpoint, generate_image, save_image
from transformers_cxr.data.conversations import label_report
from transformers_cxr.data.store import open_records
from transformers_cxr.evaluation.results.model_card import update_document, update_model_card
from transformers_cxr.evaluation.results.tables import results_to_markdown
from transformers_cxr.evaluation.runner import EvaluationArguments, cost_summary, load_checkpoint, run_evaluation
from transformers_cxr.training.arguments import run_script


@dataclass
class Documents:
    model_card: str = field(default="", metadata={"help": "model card that gets the tables and their metadata"})
    documents: list[str] = field(
        default_factory=list,
        metadata={"help": "Markdown files that name the rows they get in `<!-- metrics: ... -->`"},
    )
    picture: str = field(default="", metadata={"help": "another place for the picture"})


def picture(arguments: EvaluationArguments) -> PIL.Image.Image:
    """A row for the first normal, bacterial and viral study, and for the first one without labels (an adult)."""
    model, processor = load_checkpoint(arguments.model or checkpoint("llm-cxr"))
    studies = open_records(arguments.data_dir, arguments.split)
    kinds = [study.etiology or {("No Finding",): "normal", (): "adult"}.get(study.present_labels, "") for study in studies]
    rows = []
    for kind in [kind for kind in ("normal", "bacterial", "viral", "adult") if kind in kinds]:
        study = studies[kinds.index(kind)]
        original = processor.image_processor([study.image], return_tensors="pt").pixel_values
        with torch.no_grad():
            decoded = model.vq_tokenizer.decode(model.vq_tokenizer.encode(original))
        drawn = generate_image(
            model,
            processor,
            label_report(study, random.Random(arguments.seed)),
            num_images=2,
            guidance_scale=arguments.guidance_scale,
            top_p=arguments.top_p,
            seed=arguments.seed,
        )
        images = processor.postprocess(original) + processor.postprocess(decoded) + drawn
        rows.append(np.concatenate([np.asarray(image.convert("L")) for image in images], axis=1))
    grid = PIL.Image.fromarray(np.concatenate(rows))
    grid.info["comment"] = drawn[0].info["comment"]
    return grid


def main(arguments: EvaluationArguments, documents: Documents):
    results = run_evaluation(arguments)
    if results is None:
        return
    print(results_to_markdown(results))
    print(cost_summary(arguments.output_dir))
    if arguments.data_dir:
        grid = picture(arguments)
        for path in filter(None, (Path(arguments.output_dir) / "images.png", documents.picture)):
            save_image(grid, path)
    if documents.model_card:
        name = Path(arguments.model or "llm-cxr").name
        data = Path(arguments.data_dir or arguments.reports or arguments.questions or arguments.texts).stem
        cost = cost_summary(arguments.output_dir)
        update_model_card(documents.model_card, results, name, data, arguments.split, cost)
    for path in documents.documents:
        update_document(path, results)


if __name__ == "__main__":
    run_script(main, EvaluationArguments, Documents)
