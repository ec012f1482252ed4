"""
Report on a chest X-ray, answer a question about it and generate an X-ray, with the embedded checkpoint.

    python examples/demo.py
    python examples/demo.py --image XRAY.png --question "Which view is this?" --text "Normal chest X-ray of a child."

`generated.png` and `llm-cxr`, a copy of the embedded checkpoint, are written to the current folder.
"""

import argparse
import json
import shutil
from pathlib import Path

from transformers import AutoModel, pipeline

import transformers_cxr

IMAGE = Path(__file__).parent / "images/person1582_bacteria_4140.jpeg"
TEXT = (
    "FINDINGS: This is a chest X-ray of a child, AP view. The X-ray shows no sign of pneumonia.\n"
    "IMPRESSION: Normal chest X-ray."
)


def copy_checkpoint(source: Path, folder: Path) -> None:
    """Copy a checkpoint to `folder`, or keep an LLM-CXR checkpoint that is already there."""
    config = folder / "config.json"
    if not folder.exists():
        shutil.copytree(source, folder)
    elif not config.is_file() or json.loads(config.read_text(encoding="utf-8")).get("model_type") != "llm_cxr":
        raise SystemExit(
            f"'{folder}' exists and is not an LLM-CXR checkpoint. Move it to get the embedded checkpoint there."
        )


def main(image: str, question: str, text: str, seed: int):
    checkpoint = transformers_cxr.checkpoint("llm-cxr")
    report = pipeline("cxr-report", model=checkpoint)
    shared = {"model": report.model, "processor": report.processor}
    vqa = pipeline("cxr-vqa", **shared)
    generation = pipeline("cxr-generation", **shared)

    print("Research use only: generated text and images, not for clinical use.\n")
    print(f"Image: {Path(image).name}\n")
    print(f"Report:\n{report(image)[0]['generated_text']}\n")
    print(f"Question: {question}")
    print(f"Answer: {vqa(image=image, question=question)[0]['generated_text']}\n")

    print(f"Image of:\n{text}")
    transformers_cxr.save_image(generation(text, seed=seed)[0]["image"], "generated.png")
    print("Written to generated.png\n")

    copy_checkpoint(checkpoint, Path("llm-cxr"))
    model = AutoModel.from_pretrained("llm-cxr")
    size = model.num_parameters() / 1e6
    print(f'AutoModel.from_pretrained("llm-cxr"): {type(model).__name__}, {size:.1f} M parameters')


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default=str(IMAGE), help="chest X-ray to read: a path or URL")
    parser.add_argument("--question", default="Is there pneumonia?", help="question about the image")
    parser.add_argument("--text", default=TEXT, help="report to generate an image of")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated image")
    main(**vars(parser.parse_args()))
