"""
Evaluate an image tokenizer (VQ-GAN): similarity of reconstructions to the images, sharpness, codebook usage, clinical
content.

    python examples/evaluate_vq_gan.py --records DATA --output_dir runs/vq_evaluation

By default the tokenizer of the embedded checkpoint is evaluated; `--model` is another tokenizer or a model with one.
`DATA` is a Parquet file of records, a folder of images with a `metadata.csv`, or any folder of images. The script
writes `metrics.json`, `metrics.md` and `images.png` (images above their reconstructions) to `OUTPUT_DIR`.

With `--clinical_classifier`, `clinical_distance` is the squared difference of its features, and `label_agreement` the
share of its labels that are equal for image and reconstruction. `*_of_images` and `*_of_reconstructions` are its
balanced accuracies on both, for the labels of `train_classifier.py`.

`--features efficientnet-lite0` adds `fid_efficientnet-lite0`, the Fréchet distance of the features of reconstructions
and images, and takes more feature spaces of `load_image_features`.

`spectrum` is the spectral energy of the reconstructions as a share of that of the images, in rings up to a quarter
cycle per pixel: 1 is as sharp as the images, 0 is blurred. `spectral_ratio_mean` and `spectral_ratio_min` summarize
it.
"""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from transformers_cxr import CXRVQTokenizer, save_image
from transformers_cxr.checkpoints import load_vq_tokenizer
from transformers_cxr.classifiers import XrayClassifier, load_classifier
from transformers_cxr.data.records import images_of
from transformers_cxr.data.store import open_records
from transformers_cxr.evaluation.metrics import ImageFeatures, load_image_features
from transformers_cxr.evaluation.metrics.image_distribution import frechet_distance
from transformers_cxr.evaluation.metrics.reconstruction import (
    aggregate_reconstructions,
    codebook_statistics,
    reconstruction_picture,
    reconstruction_units,
    spectral_ratio,
)
from transformers_cxr.training import run_script
from transformers_cxr.training.classification import XRAY_LABELS, balanced_accuracies, label_targets
from transformers_cxr.training.vq_gan.images import ImageDataset
from transformers_cxr.training.vq_gan.losses import load_lpips

UNITS = {"psnr": "dB", "codebook_perplexity": "codes", "clinical_distance": "squared feature"}


@dataclass
class Arguments:
    records: str = field(
        metadata={"help": "Parquet file of records, or folder of images with or without a metadata.csv"}
    )
    output_dir: str = field(metadata={"help": "folder to write"})
    model: str = field(default="", metadata={"help": "image tokenizer, or an LLM-CXR; default: embedded"})
    split: list[str] = field(default_factory=lambda: ["validation"], metadata={"help": "splits of the records"})
    clinical_classifier: str = field(
        default="", metadata={"help": "folder of an image classifier or a torchxrayvision name"}
    )
    features: list[str] = field(
        default_factory=list, metadata={"help": "feature spaces of Fréchet distances, such as efficientnet-lite0"}
    )
    lpips: bool = field(default=False, metadata={"help": "compute LPIPS, which needs the weights of VGG-16"})
    batch_size: int = field(default=8, metadata={"help": "images per batch"})


@torch.no_grad()
def measure(
    tokenizer: CXRVQTokenizer,
    pixel_values: torch.FloatTensor,
    classifier: XrayClassifier | None,
    lpips: nn.Module | None,
    features: dict[str, ImageFeatures],
) -> tuple[list[dict], list[dict]]:
    """Return the scores of each image of a batch, and its codes, predicted labels and features by `fid_*`."""
    codes = tokenizer.encode(pixel_values)
    reconstruction = tokenizer.decode(codes)
    scores, extra = {}, {"codes": codes}
    if lpips is not None:
        scores["lpips"] = lpips(*(image.expand(-1, 3, -1, -1) for image in (reconstruction, pixel_values))).view(-1)
    if classifier is not None:
        pooled = [classifier.features(image) for image in (pixel_values, reconstruction)]
        scores["clinical_distance"] = (pooled[0] - pooled[1]).square().mean(dim=1)
        for name, image in {"images": pixel_values, "reconstructions": reconstruction}.items():
            extra[name] = classifier.predict(classifier(image))
        agreement = extra["images"] == extra["reconstructions"]
        exclusive = classifier.thresholds is None
        scores["label_agreement"] = (agreement.all(dim=1) if exclusive else agreement.float().mean(dim=1)).float()
    for name, space in features.items():
        # Pairs of features, of shape (batch_size, 2, num_features).
        pairs = [space.network(image.clamp(-1, 1).to(space.device)) for image in (reconstruction, pixel_values)]
        extra[f"fid_{name}"] = torch.stack(pairs, dim=1).float().cpu()
    units = reconstruction_units(reconstruction, pixel_values)
    for row, unit in enumerate(units):
        unit.update({name: value[row].numpy() for name, value in scores.items()})
    return units, [{name: value[row] for name, value in extra.items()} for row in range(len(codes))]


def summarize(
    units: list[dict], extra: list[dict], targets: torch.FloatTensor, codebook_size: int, label_names: list[str]
) -> dict:
    """Return the scores of a set of images; `targets` are those of `XRAY_LABELS`, `label_names` of the classifier."""
    summary = {"images": len(units)} | aggregate_reconstructions(units)
    extra = {name: torch.stack([each[name] for each in extra]) for name in extra[0]}
    summary |= codebook_statistics(extra["codes"], codebook_size)
    if len(units) > 1:  # a covariance needs two images
        pairs = {name: values.numpy() for name, values in extra.items() if name.startswith("fid_")}
        summary |= {name: frechet_distance(values[:, 0], values[:, 1]) for name, values in pairs.items()}
    names = [name for name in XRAY_LABELS if name in label_names]
    columns, own_columns = ([labels.index(name) for name in names] for labels in (XRAY_LABELS, label_names))
    for images in ("images", "reconstructions") if names else ():
        accuracies = balanced_accuracies(extra[images][:, own_columns], targets[:, columns], names)
        summary |= {f"{name}_of_{images}": value for name, value in accuracies.items()}
    spectrum = spectral_ratio(units).tolist()
    rings = len(spectrum)
    summary["spectrum"] = {f"{(i + 1) / rings / 4:.4f} cycles/pixel": share for i, share in enumerate(spectrum)}
    return summary


def to_markdown(metrics: dict[str, dict[str, dict]]) -> str:
    """Return a table of the scores and a table of the spectra, with one column per split and source."""
    columns = {
        f"{split}, {source or 'images'}": values
        for split, by_source in metrics.items()
        for source, values in by_source.items()
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
    tokenizer, image_processor = load_vq_tokenizer(args.model, "cpu")
    classifier = load_classifier(args.clinical_classifier) if args.clinical_classifier else None
    lpips = load_lpips() if args.lpips else None
    features = {Path(name).name: load_image_features(name) for name in args.features}
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)

    metrics, shown = {}, []
    for split in args.split:
        records = images_of(open_records(args.records, split))
        dataset = ImageDataset([Path(record.image) for record in records], image_processor)
        units, extra, readable = [], [], []
        for start in tqdm(range(0, len(dataset), args.batch_size), desc=split):
            examples = {row: dataset[row] for row in range(start, min(start + args.batch_size, len(dataset)))}
            for example in examples.values():
                if example["unreadable"]:
                    tqdm.write(f"Skipped, unreadable: {example['unreadable'][0]}")
            # The dataset replaces an unreadable image by another one.
            examples = {row: example for row, example in examples.items() if not example["unreadable"]}
            if examples:
                pixel_values = torch.stack([example["pixel_values"] for example in examples.values()])
                measured = measure(tokenizer, pixel_values, classifier, lpips, features)
                for whole, part in zip((units, extra), measured):
                    whole += part
                readable += examples
        if len(readable) < len(records):
            print(f"{len(records) - len(readable)} of {len(records)} images could not be read.")
        targets = label_targets(records)
        positions_of = defaultdict(list)
        for position, row in enumerate(readable):
            positions_of[records[row].source].append(position)
            positions_of["all"].append(position)
        metrics[split] = {
            source: summarize(
                [units[i] for i in positions],
                [extra[i] for i in positions],
                targets[[readable[i] for i in positions]],
                tokenizer.config.codebook_size,
                classifier.label_names if classifier else [],
            )
            for source, positions in sorted(positions_of.items())
        }
        shown += [dataset[readable[positions[0]]]["pixel_values"] for _, positions in sorted(positions_of.items())]

    (output_dir / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    (output_dir / "metrics.md").write_text(to_markdown(metrics))
    print(to_markdown(metrics))
    save_image(reconstruction_picture(tokenizer, torch.stack(shown)), output_dir / "images.png")


if __name__ == "__main__":
    run_script(main, Arguments)
