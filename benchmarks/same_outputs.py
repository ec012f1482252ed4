"""
Compare what the embedded checkpoint gives for the same validation X-rays in two versions of the package: codes, greedy
reports and generated images, bit for bit.

    python benchmarks/same_outputs.py record before.npz --data_dir DATA
    python benchmarks/same_outputs.py compare before.npz after.npz
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoProcessor, pipeline

import transformers_cxr


def record(output: str, data_dir: str, num_images: int) -> None:
    """Write the outputs for the first validation X-rays of each source, taken in turn."""
    by_source: dict[str, list[Path]] = {}
    with (Path(data_dir) / "metadata.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["split"] == "validation":
                by_source.setdefault(row["source"], []).append(Path(data_dir) / row["file_name"])
    paths = [path for paths in zip(*by_source.values()) for path in paths][:num_images]

    folder = transformers_cxr.checkpoint("llm-cxr")
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    tokens, reports, images = [], [], []
    report_pipeline = pipeline("cxr-report", model=model, processor=processor)
    for number, path in enumerate(paths):
        pixel_values = processor.image_processor(path, return_tensors="pt").pixel_values
        with torch.no_grad():
            tokens.append(model.get_image_tokens(pixel_values)[0].numpy())
        reports.append(report_pipeline(str(path))[0]["generated_text"])
        image = transformers_cxr.generate_image(model, processor, reports[-1], seed=number)[0]
        images.append(np.asarray(image))
    np.savez_compressed(output, paths=[p.name for p in paths], tokens=tokens, reports=reports, images=images)
    print(f"{len(paths)} X-rays recorded in {output}")


def compare(before: str, after: str) -> bool:
    """Print how many outputs of each kind are equal; whether all are."""
    first, second = np.load(before), np.load(after)
    equal = True
    for name in ("paths", "tokens", "reports", "images"):
        same = [np.array_equal(a, b) for a, b in zip(first[name], second[name], strict=True)]
        print(f"{name:<8} {sum(same)} of {len(same)} equal")
        equal &= all(same)
    return equal


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recorder = commands.add_parser("record")
    recorder.add_argument("output")
    recorder.add_argument("--data_dir", required=True)
    recorder.add_argument("--num_images", type=int, default=50)
    comparer = commands.add_parser("compare")
    comparer.add_argument("before")
    comparer.add_argument("after")
    arguments = parser.parse_args()
    if arguments.command == "record":
        record(arguments.output, arguments.data_dir, arguments.num_images)
    else:
        sys.exit(0 if compare(arguments.before, arguments.after) else 1)
