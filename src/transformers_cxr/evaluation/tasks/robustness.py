"""The task "robustness": reports of corrupted X-rays."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..corruptions import CORRUPTIONS, corrupt
from ..examples import rows_by
from ..metrics import CheXpertLabels, Measurement, PneumoniaAccuracy
from .image import example_seed
from .report import ReportTask
from .task import Task


class RobustnessTask(ReportTask):
    """Reports of X-rays under corruptions of five levels, and without any ("none 0")."""

    name = "robustness"
    title = "Robustness of reports"
    main_metrics = ()
    is_comparable = False
    samples = Task.samples

    def examples(self, records):
        reports = super().examples(records)[: self.arguments.num_corrupted]
        kinds = ["none 0"] + [f"{name} {level}" for name in CORRUPTIONS for level in range(1, 6)]
        return [replace(example, id=f"{example.id}@{kind}", kind=kind) for kind in kinds for example in reports]

    def generate(self, model, processor, batch):
        pixel_values = processor.image_processor([e.image_path for e in batch], return_tensors="pt").pixel_values
        corrupted = []
        for pixels, example in zip(pixel_values, batch):
            name, level = example.kind.split(" ")
            corrupted.append(corrupt(pixels, name, int(level), example_seed(self.arguments.seed, example)))
        with torch.no_grad():
            codes = model.vq_tokenizer.encode(torch.stack(corrupted).to(model.device))
        return self.answer(model, processor, batch, image_codes=codes)

    def groups(self, examples):
        return rows_by(examples, lambda example: [example.kind])

    def metrics(self, examples, outputs, model=None, processor=None):
        references = [example.reference for example in examples]
        labels = CheXpertLabels(self.arguments.labeler).prepare(outputs, references)
        measurements = [Measurement(labels, CheXpertLabels.f1_averages)]
        if all(example.label_derived for example in examples):
            measurements.insert(0, PneumoniaAccuracy().measure(outputs, references))
        return measurements
