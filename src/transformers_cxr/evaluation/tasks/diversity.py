"""The task "diversity": several X-rays generated from one report."""

from __future__ import annotations

from dataclasses import dataclass

from ..arguments import argument
from .image import generate_codes, image_examples, image_settings
from .task import Task

NUM_IMAGES = 4


@dataclass
class DiversityArguments:
    """Arguments of the task "diversity"."""

    num_diverse: int = argument(20, "Reports from which several X-rays are generated, for their diversity.")


class DiversityTask(Task):
    """Four X-rays, generated from one report, against each other."""

    name = "diversity"
    hub_task = "text-to-image"
    main_metrics = ("ms_ssim",)

    def examples(self, records):
        return self.sample(image_examples(records, self.arguments), self.arguments.num_diverse)

    @property
    def batch_size(self):
        return max(1, self.arguments.batch_size // NUM_IMAGES)

    def settings(self, model):
        return image_settings(self.arguments, model) | {"seed": self.arguments.seed, "num_images": NUM_IMAGES}

    def generate(self, model, processor, batch):
        return generate_codes(model, processor, batch, self.arguments, NUM_IMAGES)

    def metrics(self, examples, outputs, model=None, processor=None):
        import numpy as np

        from ..metrics.prompt_diversity import PromptDiversity

        codes = np.stack(outputs).astype(np.int64).reshape(len(outputs), NUM_IMAGES, -1)
        return [PromptDiversity().measure([processor.decode_codes(prompt_codes) for prompt_codes in codes])]
