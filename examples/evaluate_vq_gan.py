"""
Evaluates an image tokenizer (a VQ-GAN): how near its reconstructions are to the images, how sharp, and what they keep.

    python examples/evaluate_vq_gan.py --data_dir DATA --output_dir runs/vq_evaluation

The tokenizer of the embedded checkpoint is evaluated unless `--model` names a tokenizer or a model that holds one. `DATA` is
a Hugging Face imagefolder with a `metadata.csv` (columns in `transformers_cxr.data.readers.image_folder`), or any folder of images.
Writes `metrics.json`, `metrics.md` and `images.png` (images above, reconstructions below) in `OUTPUT_DIR`.

With a classifier of X-rays, `clinical_distance` is the squared difference of its features, and `label_agreement` the share of
its labels that are the same for image and reconstruction. For one that `train_classifier.py` made, `*_of_images` and
`*_of_reconstructions` are its balanced accuracies on both.

`spectrum` is the curve of the reconstructions' spectral energy as a share of the images', in rings up to a quarter cycle a
pixel: 1 is as sharp as the images, 0 is blurred. `spectral_ratio_mean` and `spectral_ratio_min` are of its rings.
"""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm
from train_classifier import CLASSES, balanced_accuracies, class_of
from transformers import AutoConfig, AutoImageProcessor, AutoModel, EvalPrediction

from transformers_cxr import CXRVQTokenizer, checkpoint
from transformers_cxr.classifiers import XrayClassifier, load_classifier
from transformers_cxr.data.store import open_records
from transformers_cxr.evaluation.metrics.reconstruction import (
    codebook_statistics,
    image_distances,
    radial_energy,
    reconstruction_picture,
)
from transformers_cxr.llm_cxr.image_processing_llm_cxr import save_image
from transformers_cxr.training.arguments import run_script
from transformers_cxr.training.vq_gan.images import ImageDataset
from transformers_cxr.training.vq_gan.losses import load_lpips

UNITS = {"psnr": "dB", "codebook_perplexity": "codes", "clinical_distance": "squared feature"}


@dataclass
class Arguments:
    data_dir: str = field(metadata={"help": "imagefolder with a metadata.csv, or any folder of images"})
    output_dir: str = field(metadata={"help": "where the results are written"})
    model: str = field(default="", metadata={"help": "tokenizer or model with one; the embedded one by default"})
    splits: list[str] = field(default_factory=lambda: ["validation"], metadata={"help": "splits of the metadata"})
    clinical_classifier: str = field(
        default="", metadata={"help": "a name of torchxrayvision or the folder of an image classifier"}
    )
    lpips: bool = field(default=False, metadata={"help": "measure LPIPS too, which needs the weights of VGG-16"})
    batch_size: int = field(default=8, metadata={"help": "images at once"})


def load_tokenizer(path: str) -> CXRVQTokenizer:
    if AutoConfig.from_pretrained(path).model_type == "cxr_vq_tokenizer":
        return CXRVQTokenizer.from_pretrained(path).eval()
    return AutoModel.from_pretrained(path).eval().vq_tokenizer


@torch.no_grad()
def measure(
    tokenizer: CXRVQTokenizer,
    pixel_values: torch.FloatTensor,
    classifier: XrayClassifier | None,
    perceptual: nn.Module | None,
) -> dict[str, torch.Tensor]:
    """What is measured of each image of a batch, each value with the batch as its first dimension."""
    codes = tokenizer.encode(pixel_values)
    reconstruction = tokenizer.decode(codes)
    # A ring is at least as wide as the step of the frequencies.
    num_rings = min(16, tokenizer.config.image_size // 4)
    values = image_distances(reconstruction, pixel_values) | {
        "codes": codes,
        "energy": radial_energy(pixel_values, num_rings),
        "reconstructed_energy": radial_energy(reconstruction, num_rings),
    }
    if perceptual is not None:
        images = [image.expand(-1, 3, -1, -1) for image in (reconstruction, pixel_values)]
        values["lpips"] = perceptual(*images).view(-1)
    if classifier is not None:
        features = [classifier.features(image) for image in (reconstruction, pixel_values)]
        values["clinical_distance"] = (features[0] - features[1]).square().mean(dim=1)
        probabilities = [classifier(image) for image in (reconstruction, pixel_values)]
        values["probabilities_of_reconstructions"], values["probabilities_of_images"] = probabilities
        same = classifier.predict(probabilities[0]) == classifier.predict(probabilities[1])
        # Labels that exclude each other are one label.
        values["label_agreement"] = (same.all(1) if classifier.thresholds is None else same.float().mean(1)).float()
    return values


def read_classes(data_dir: str, split: str) -> torch.LongTensor:
    """
    The index in `CLASSES` of each image of a split, -1 where it is not known; of the datasets that
    `train_classifier.classified_studies` reads.
    """
    studies = open_records(data_dir, split)
    sources = {study.source for study in studies if study.etiology}
    classes = [class_of(study) if study.source in sources else None for study in studies]
    return torch.tensor([-1 if name is None else CLASSES.index(name) for name in classes])


def summarize(values: dict[str, torch.Tensor], codebook_size: int, classes: torch.LongTensor | None) -> dict:
    """The measures of a set of images from those of each."""
    spectrum = values["reconstructed_energy"].mean(dim=0) / values["energy"].mean(dim=0)
    summary = {"images": len(values["psnr"])}
    summary |= {name: value.mean().item() for name, value in values.items() if value.ndim == 1}
    summary |= {"spectral_ratio_mean": spectrum.mean().item(), "spectral_ratio_min": spectrum.min().item()}
    summary |= codebook_statistics(values["codes"], codebook_size)
    if classes is not None:
        known = classes >= 0
        # A balanced accuracy needs images of every class.
        if len(classes[known].unique()) == len(CLASSES):
            for of in ("images", "reconstructions"):
                prediction = EvalPrediction(values[f"probabilities_of_{of}"][known].numpy(), classes[known].numpy())
                summary |= {f"{name}_of_{of}": value for name, value in balanced_accuracies(prediction).items()}
    rings = len(spectrum)
    summary["spectrum"] = {
        f"{(i + 1) / rings / 4:.4f} cycles/pixel": share for i, share in enumerate(spectrum.tolist())
    }
    return summary


def to_markdown(metrics: dict[str, dict[str, dict]]) -> str:
    """The measures as a table, a column for each source of each split, and a table of the spectra."""
    columns = {
        f"{split}, {source or 'images'}": values for split, of in metrics.items() for source, values in of.items()
    }
    lines = []
    for kind in ("measure", "spectrum"):
        rows = [values if kind == "measure" else values["spectrum"] for values in columns.values()]
        lines += [f"| {kind} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for name in dict.fromkeys(name for row in rows for name in row if name != "spectrum"):
            label = f"{name} ({UNITS[name]})" if name in UNITS else name
            lines.append(f"| {label} | {' | '.join(f'{row[name]:.4g}' if name in row else '' for row in rows)} |")
        lines.append("")
    return "\n".join(lines)


def main(args: Arguments):
    path = args.model or checkpoint("llm-cxr")
    tokenizer = load_tokenizer(path)
    image_processor = AutoImageProcessor.from_pretrained(path)
    classifier, has_classes = None, False
    if args.clinical_classifier:
        classifier = load_classifier(args.clinical_classifier)
        if Path(args.clinical_classifier).is_dir() and (Path(args.data_dir) / "metadata.csv").is_file():
            has_classes = tuple(classifier.label_names) == CLASSES
    perceptual = load_lpips() if args.lpips else None
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)

    metrics, shown = {}, []
    for split in args.splits:
        records = open_records(args.data_dir, split)
        dataset = ImageDataset([record.image for record in records], image_processor)
        batches, readable = [], []
        for start in tqdm(range(0, len(dataset), args.batch_size), desc=split):
            examples = {row: dataset[row] for row in range(start, min(start + args.batch_size, len(dataset)))}
            for example in examples.values():
                if example["unreadable"]:
                    tqdm.write(f"Left out, unreadable: {example['unreadable'][0]}")
            # Another image stands in the place of one that cannot be read.
            examples = {row: example for row, example in examples.items() if not example["unreadable"]}
            if examples:
                readable += examples
                pixel_values = torch.stack([example["pixel_values"] for example in examples.values()])
                batches.append(measure(tokenizer, pixel_values, classifier, perceptual))
        if len(readable) < len(records):
            print(f"{len(records) - len(readable)} of {len(records)} images could not be read.")
        values = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        classes = read_classes(args.data_dir, split)[readable] if has_classes else None
        rows_of = defaultdict(list)
        for position, row in enumerate(readable):
            rows_of[records[row].source].append(position)
            rows_of["all"].append(position)
        metrics[split] = {
            source: summarize(
                {name: value[rows] for name, value in values.items()},
                tokenizer.config.codebook_size,
                None if classes is None else classes[rows],
            )
            for source, rows in sorted(rows_of.items())
        }
        shown += [dataset[readable[rows[0]]]["pixel_values"] for _, rows in sorted(rows_of.items())]

    (output_dir / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    (output_dir / "metrics.md").write_text(to_markdown(metrics))
    print(to_markdown(metrics))
    save_image(reconstruction_picture(tokenizer, torch.stack(shown)), output_dir / "images.png")


if __name__ == "__main__":
    run_script(main, Arguments)
