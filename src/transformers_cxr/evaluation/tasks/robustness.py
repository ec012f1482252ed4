"""The task "robustness": reports of corrupted X-rays."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..arguments import argument
from ..examples import rows_by
from .image import example_seed
from .report import report_examples
from .task import Task, all_label_derived
from .text import TextTask

CLEAN = "none 0"


@dataclass
class RobustnessArguments:
    """Arguments of the task "robustness"."""

    num_corrupted: int = argument(50, "X-rays to corrupt. Each is read once per corruption and level.")


class RobustnessTask(TextTask):
    """Reports of X-rays under corruptions of five levels, and without any ("none 0")."""

    name = "robustness"
    hub_task = "image-to-text"
    is_comparable = False
    samples = Task.samples

    def examples(self, records):
        from ..corruptions import CORRUPTIONS, LEVELS

        reports = self.sample(report_examples(records, self.arguments), self.arguments.num_corrupted)
        kinds = [CLEAN] + [f"{name} {level}" for name in CORRUPTIONS for level in LEVELS]
        return [replace(example, id=f"{example.id}@{kind}", kind=kind) for kind in kinds for example in reports]

    def settings(self, model):
        return super().settings(model) | {"seed": self.arguments.seed}

    def generate(self, model, processor, batch):
        import torch

        from ..corruptions import corrupt

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
        from ..metrics.chexpert_labels import CheXpertLabels
        from ..metrics.metric import Measurement
        from ..metrics.report_pneumonia_accuracy import ReportPneumoniaAccuracy

        references = [example.reference for example in examples]
        labels = CheXpertLabels(self.arguments.labeler).prepare(outputs, references)
        pneumonia = [ReportPneumoniaAccuracy()] if all_label_derived(examples) else []
        return [metric.measure(outputs, references) for metric in pneumonia] + [
            Measurement(labels, CheXpertLabels.f1_averages)
        ]

    def plots(self, results):
        from ..results.plots import curve_plots

        return curve_plots(results, CLEAN)
