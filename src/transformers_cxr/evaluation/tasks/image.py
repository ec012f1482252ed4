"""The task "image": X-rays generated from reports."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import argument
from ..examples import Example, rows_by
from ..metrics.selection import ImageMetricArguments, feature_measurements, label_measurements
from .report import record_reports
from .task import Task, all_label_derived, processed_image

if TYPE_CHECKING:
    import numpy as np


@dataclass
class ImageArguments(ImageMetricArguments):
    """Arguments of the task "image", and of others that generate images."""

    num_generated: int = argument(200, "X-rays to generate.")
    guidance_scale: float | None = argument(
        None, "Classifier-free guidance of generated images. Default: that of the checkpoint."
    )
    top_p: float | None = argument(None, "Nucleus of the codes of generated images. Default: that of the checkpoint.")


class ImageTask(Task):
    """X-rays, generated from the report of the record or one written from its labels, against the real X-ray."""

    name = "image"
    hub_task = "text-to-image"
    main_metrics = (
        "finding_balanced_accuracy",
        "etiology_balanced_accuracy",
        "f1_macro",
        "*_fid",
        "*_closer_than_real",
    )
    is_comparable = True

    def examples(self, records):
        return self.sample(image_examples(records, self.arguments), self.arguments.num_generated)

    def settings(self, model):
        return image_settings(self.arguments, model) | {"seed": self.arguments.seed}

    def generate(self, model, processor, batch):
        return generate_codes(model, processor, batch, self.arguments)

    def write_outputs(self, folder, outputs, processor):
        from tqdm import tqdm

        from ...llm_cxr.image_processing_llm_cxr import save_image

        (folder / "images").mkdir(exist_ok=True)
        paths = self.read_outputs(folder, outputs)
        for codes, path in zip(tqdm(outputs, desc="image: decoding", unit="image"), paths):
            save_image(processor.decode_codes([codes.tolist()])[0], path)
        return paths

    def read_outputs(self, folder, predictions):
        return [str(Path(folder) / "images" / f"{row:05d}.png") for row in range(len(predictions))]

    def groups(self, examples):
        findings = rows_by(examples, lambda e: [f"finding: {name}" for name in e.kind.split("|") if name])
        return super().groups(examples) | dict(sorted(findings.items()))

    def metrics(self, examples, outputs, model=None, processor=None):
        arguments, measurements, training_images = self.arguments, [], None
        images = {"": outputs}
        if model is not None and (arguments.classifier or arguments.features):
            # The best images that can be generated with the codes of the VQ-GAN.
            images["reconstructed_"] = reconstructions(examples, model, processor, arguments.batch_size)
        images["real_"] = [str(example.image_path) for example in examples]
        if arguments.classifier:
            reports = [example.prompt for example in examples]
            derived = all_label_derived(examples)
            measurements += label_measurements(images, reports, arguments.classifier, arguments.batch_size, derived)
        if arguments.training_split:
            from ...data.store import open_records

            records = [r for path in arguments.records for r in open_records(path, arguments.training_split)]
            training_images = sorted({record.image for record in records})
        return measurements + feature_measurements(images, training_images, arguments.features, arguments.batch_size)

    def samples(self, examples, outputs, processor):
        import PIL.Image

        from ..results.page import Sample

        samples = []
        for example, path in zip(examples, outputs):
            with PIL.Image.open(path) as file:
                generated = file.convert("L")
            images = [("X-ray", processed_image(example.image_path, processor)), ("generated", generated)]
            samples.append(Sample(images, [("report", example.prompt)]))
        return samples


def image_examples(records: Sequence, arguments) -> list[Example]:
    """Return the X-rays to generate; label-derived reports come with the findings of the record."""
    return [
        Example.from_record(
            record, report, kind="|".join(record.present_labels) if label_derived else "", label_derived=label_derived
        )
        for record, report, label_derived in record_reports(records, "image", arguments)
    ]


def generate_codes(model, processor, batch: Sequence[Example], arguments, num_images: int = 1) -> np.ndarray:
    """Generate images, and return codes of shape `(len(batch), num_images * num_image_tokens)` and dtype `uint16`."""
    import numpy as np

    from ...llm_cxr.generation_llm_cxr import generate_image

    codes = generate_image(
        model,
        processor,
        [example.prompt for example in batch],
        num_images=num_images,
        output_type="codes",
        seed=[example_seed(arguments.seed, example) + i for example in batch for i in range(num_images)],
        **image_settings(arguments, model),
    )
    return codes.cpu().numpy().astype(np.uint16).reshape(len(batch), -1)


def image_settings(arguments: ImageArguments, model) -> dict[str, Any]:
    """Return the settings of image generation: those of the checkpoint, overridden by the arguments."""
    given = {"guidance_scale": arguments.guidance_scale, "top_p": arguments.top_p}
    given = {name: value for name, value in given.items() if value is not None}
    return model.generation_config.image_generation | given


def example_seed(seed: int, example: Example) -> int:
    """Return a seed that depends only on `seed` and the id of the example, not on its batch or process."""
    return int.from_bytes(hashlib.sha256(f"{seed}-{example.id}".encode()).digest()[:6], "big")


def reconstructions(examples: Sequence[Example], model, processor, batch_size: int) -> list:
    """Return the X-rays of the examples, encoded and decoded by the VQ-GAN."""
    import torch
    from tqdm import tqdm

    images = []
    for start in tqdm(range(0, len(examples), batch_size), desc="image: reconstructions", unit="batch"):
        paths = [example.image_path for example in examples[start : start + batch_size]]
        pixel_values = processor.image_processor(paths, return_tensors="pt").pixel_values.to(model.device)
        with torch.no_grad():
            decoded = model.vq_tokenizer.decode(model.vq_tokenizer.encode(pixel_values))
        images += [image.convert("L") for image in processor.postprocess(decoded)]
    return images
