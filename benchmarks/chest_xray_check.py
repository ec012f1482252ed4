"""
The check for images that are no chest X-rays: how many validation X-rays it flags, and how many other images it finds.

    python benchmarks/chest_xray_check.py DATA
    python benchmarks/chest_xray_check.py DATA --model my-checkpoint --min-score 0.65

DATA has records with a validation split. The other images come from packages: photographs and pictures (scikit-image
and scikit-learn), faces (scikit-image), images of other modalities and body parts (pydicom and pydicom-data, each
content once), noise of several grain sizes with plain grays and ramps, and the validation X-rays upside down and
inverted. Without `--min-score` the limit is that of the checkpoint, `config.min_chest_xray_score`.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import data_store
import numpy as np
import PIL.Image
import pydicom
import skimage
import sklearn
import torch

from transformers_cxr import chest_xray_scores, read_dicom
from transformers_cxr.checkpoints import load_checkpoint
from transformers_cxr.data import open_records
from transformers_cxr.llm_cxr.image_processing_llm_cxr import open_image

PHOTOS = [Path(skimage.__file__).parent / "data", Path(sklearn.__file__).parent / "datasets/images"]
DICOMS = [Path(pydicom.__file__).parent / "data", Path(data_store.__file__).parent]
FACES = PHOTOS[0] / "lfw_subset.npy"
NUM_TURNED = 100


def photos() -> Iterator[PIL.Image.Image]:
    for path in sorted(path for folder in PHOTOS for path in folder.iterdir()):
        if path.suffix in (".png", ".jpg", ".gif", ".tif"):
            yield path


def faces() -> Iterator[PIL.Image.Image]:
    for face in np.load(FACES)[:100]:
        yield PIL.Image.fromarray((face * 255).round().astype(np.uint8))


def dicoms() -> Iterator[PIL.Image.Image]:
    known = set()
    for path in sorted(path for folder in DICOMS for path in folder.rglob("*.dcm")):
        try:
            image = read_dicom(path, force=True)
        # Files without one image, or of a kind that is not read.
        except (ImportError, ValueError):
            continue
        thumbnail = np.asarray(image.convert("L").resize((8, 8))) // 16
        if image.info.get("BodyPartExamined") != "CHEST" and thumbnail.tobytes() not in known:
            known.add(thumbnail.tobytes())
            yield image


def patterns() -> Iterator[PIL.Image.Image]:
    generator = np.random.default_rng(0)
    for side in (16, 32, 64, 128, 256):
        for _ in range(5):
            noise = generator.integers(0, 256, (side, side), dtype=np.uint8)
            yield PIL.Image.fromarray(noise).resize((256, 256), PIL.Image.Resampling.BICUBIC)
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    for pixels in (ramp, ramp.T, ramp[::-1].T, np.zeros_like(ramp), np.full_like(ramp, 128), np.full_like(ramp, 255)):
        yield PIL.Image.fromarray(np.ascontiguousarray(pixels))


@torch.no_grad()
def scores_of(images, model, processor) -> torch.FloatTensor:
    codes = []
    for image in images:
        try:
            pixel_values = processor.image_processor(image, return_tensors="pt").pixel_values
        # Too small to be an X-ray.
        except ValueError:
            continue
        codes.append(model.vq_tokenizer.encode(pixel_values.to(model.device)))
    return chest_xray_scores(model, processor, torch.cat(codes))


def main(args: argparse.Namespace) -> None:
    model, processor = load_checkpoint(args.model, args.device)
    limit = model.config.min_chest_xray_score if args.min_score is None else args.min_score
    groups: dict[str, list] = {}
    for record in open_records(args.data, "validation"):
        groups.setdefault(record.source, []).append(record.image)
    xrays = [image for group in groups.values() for image in group]
    turned = [open_image(path).convert("L") for path in xrays[:: max(1, len(xrays) // NUM_TURNED)]]
    flip = PIL.Image.Transpose.FLIP_TOP_BOTTOM
    others = {
        "photographs and pictures": photos(),
        "faces": faces(),
        "other modalities and body parts": dicoms(),
        "noise, plain grays, ramps": patterns(),
        "X-rays upside down": (image.transpose(flip) for image in turned),
        "X-rays inverted": (PIL.Image.eval(image, lambda value: 255 - value) for image in turned),
    }
    print(f"Limit: {limit}\n\n| images | n | flagged | lowest score | median | highest |\n|---|---|---|---|---|---|")
    for name, images in {**groups, **others}.items():
        scores = scores_of(images, model, processor)
        values = " | ".join(f"{value:.2f}" for value in (scores.min(), scores.median(), scores.max()))
        print(f"| {name} | {len(scores)} | {(scores < limit).float().mean():.1%} | {values} |", flush=True)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="records: a Parquet file or folder, or an image folder with metadata.csv")
    parser.add_argument("--model", help="checkpoint; default: the embedded one")
    parser.add_argument("--min-score", type=float, help="limit; default: that of the checkpoint")
    parser.add_argument("--device", help="cpu, cuda ...; default: CUDA if available")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse_args())
