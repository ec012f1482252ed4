"""The task "image": X-rays generated from reports."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

import numpy as np
import PIL.Image
import torch
from tqdm import tqdm
from transformers import CompileConfig

from ...checkpoints import find_device
from ...classifiers import XrayClassifier, load_classifier
from ...data.records import StudyRecord
from ...data.store import open_records
from ...llm_cxr.generation_llm_cxr import generate_image
from ...llm_cxr.image_processing_llm_cxr import save_image
from ..arguments import EvaluationArguments
from ..examples import Example, Sample, rows_by
from ..metrics import (
    ImageDistribution,
    ImageFeatures,
    ImageLabels,
    Measurement,
    PneumoniaAccuracy,
    TrainingImageDistance,
    load_image_features,
)
from ..metrics.image_features import pixel_batches
from ..predictions import distributed_state
from .report import record_reports
from .task import Task, processed_image

# Longest id in the name of a file; file systems allow 255 bytes.
_MAX_NAME = 200


class ImageTask(Task):
    """X-rays, generated from the report of the record or one written from its labels, against the real X-ray."""

    name = "image"
    hub_task = "text-to-image"
    title = "Generated X-rays"
    main_metrics = (
        "finding_balanced_accuracy",
        "etiology_balanced_accuracy",
        "f1_macro",
        "*_fid_ratio",
        "*_closer_than_real",
        "*_fid",
    )
    # With the prefixes of `metrics`.
    scores = {
        f"*{name}": score
        for metric in (PneumoniaAccuracy, ImageLabels, ImageDistribution, TrainingImageDistance)
        for name, score in metric.SCORES.items()
    }
    settings = ("guidance_scale", "top_p")
    is_comparable = True

    def examples(self, records):
        if distributed_state().is_main_process:
            # Before hours of generation: a network that is missing is an error.
            _ = self.classifier, self.features
        return self.sample(image_examples(records, self.arguments), self.arguments.num_generated)

    @cached_property
    def classifier(self) -> XrayClassifier | None:
        """The classifier of `--classifier`."""
        return load_classifier(self.arguments.classifier).to(find_device()) if self.arguments.classifier else None

    @cached_property
    def features(self) -> dict[str, ImageFeatures]:
        """The feature spaces of `--features`."""
        return {name: load_image_features(name, self.arguments.batch_size) for name in self.arguments.features}

    def generate(self, model, processor, batch):
        return generate_codes(model, processor, batch, self.arguments)

    def load_outputs(self, folder, examples, outputs, processor=None):
        paths = [str(image_file(folder, example)) for example in examples]
        if processor is not None:
            (Path(folder) / "images").mkdir(exist_ok=True)
            for codes, path in zip(tqdm(outputs, desc="image: decoding", unit="image"), paths):
                save_image(processor.decode_codes([codes.tolist()])[0], path)
        return paths

    def groups(self, examples):
        findings = rows_by(examples, lambda e: [f"finding: {name}" for name in e.kind.split("|") if name])
        return super().groups(examples) | dict(sorted(findings.items()))

    def metrics(self, examples, outputs, model=None, processor=None):
        # The images of the reports by the prefix of their scores.
        images = {"": outputs}
        if model is not None and (self.classifier or self.features):
            images["reconstructed_"] = reconstructions(examples, model, processor, self.arguments.batch_size)
        images["real_"] = [str(example.image_path) for example in examples]
        measurements = self._label_measurements(self.classifier, examples, images) if self.classifier else []
        return measurements + self._feature_measurements(images)

    def _label_measurements(
        self, classifier: XrayClassifier, examples: Sequence[Example], images: dict[str, Sequence]
    ) -> list[Measurement]:
        """Measure the predictions of a classifier for generated, reconstructed and real images."""
        probabilities = {
            prefix: classifier.probabilities(own, self.arguments.batch_size) for prefix, own in images.items()
        }
        measurements = []
        is_label_derived = all(example.label_derived for example in examples)
        if is_label_derived and set(PneumoniaAccuracy.LABELS) <= set(classifier.label_names):
            metric, reports = PneumoniaAccuracy(classifier), [example.prompt for example in examples]
            measurements += [metric.measure(own, reports, prefix) for prefix, own in probabilities.items()]
        metric, real = ImageLabels(classifier), probabilities.pop("real_")
        return measurements + [metric.measure(own, real, prefix) for prefix, own in probabilities.items()]

    def _feature_measurements(self, images: dict[str, Sequence]) -> list[Measurement]:
        """Measure the distances of images in feature spaces, and search for copies of training images."""
        training_images = set()
        if split := self.arguments.training_split:
            training_images = {record.image for path in self.arguments.records for record in open_records(path, split)}
        generated, real, reconstructed = (images.get(prefix) for prefix in ("", "real_", "reconstructed_"))
        measurements = []
        for name, features in self.features.items():
            prefix = f"{Path(name).name}_"
            measurements.append(ImageDistribution(features).measure(generated, real, prefix, reconstructed))
            if training_images:
                metric = TrainingImageDistance(features, sorted(training_images))
                measurements.append(metric.measure(generated, real, prefix))
        return measurements

    def samples(self, examples, outputs, image_processor):
        return [
            Sample(
                {"X-ray": processed_image(example.image_path, image_processor), "generated": PIL.Image.open(path)},
                {"report": example.prompt},
            )
            for example, path in zip(examples, outputs)
        ]


def image_file(folder: str | Path, example: Example) -> Path:
    """Return the file of a generated image in the folder of an evaluation, named after the id of its example."""
    name = quote(example.id, safe="")
    if len(name) > _MAX_NAME:
        name = f"{name[:_MAX_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return Path(folder) / "images" / f"{name}.png"


def image_examples(records: Sequence[StudyRecord], arguments: EvaluationArguments) -> list[Example]:
    """Return the X-rays to generate; label-derived reports come with the findings of the record."""
    return [
        Example.from_record(
            record, report, kind="|".join(record.present_labels) if label_derived else "", label_derived=label_derived
        )
        for record, report, label_derived in record_reports(records, "image", arguments)
    ]


def generate_codes(
    model, processor, batch: Sequence[Example], arguments: EvaluationArguments, number: int = 0
) -> np.ndarray:
    """Return codes, of shape `(len(batch), num_image_tokens)` and dtype `uint16`, of image `number` of each report."""
    codes = generate_image(
        model,
        processor,
        [example.prompt for example in batch],
        output_type="codes",
        seed=[example_seed(arguments.seed, example) + number for example in batch],
        guidance_scale=arguments.guidance_scale,
        top_p=arguments.top_p,
        compile_config=CompileConfig() if arguments.torch_compile else None,
    )
    return codes.cpu().numpy().astype(np.uint16)


def example_seed(seed: int, example: Example) -> int:
    """Return a seed that depends only on `seed` and the id of the example, not on its batch or process."""
    return int.from_bytes(hashlib.sha256(f"{seed}-{example.id}".encode()).digest()[:6], "big")


def reconstructions(examples: Sequence[Example], model, processor, batch_size: int) -> list:
    """Return the X-rays of the examples, encoded and decoded by the VQ-GAN: the best images with its codes."""
    images, paths = [], [example.image_path for example in examples]
    for pixel_values in pixel_batches(processor.image_processor, paths, batch_size, model.device, "reconstructions"):
        with torch.no_grad():
            decoded = model.vq_tokenizer.decode(model.vq_tokenizer.encode(pixel_values))
        images += [image.convert("L") for image in processor.postprocess(decoded)]
    return images
