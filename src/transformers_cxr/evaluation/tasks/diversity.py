"""The task "diversity": several X-rays generated from one report."""

from __future__ import annotations

import numpy as np

from ..metrics import PromptDiversity
from .image import generate_codes, image_examples
from .task import Task

NUM_IMAGES = 4


class DiversityTask(Task):
    """Four X-rays, generated from one report, against each other."""

    name = "diversity"
    hub_task = "text-to-image"
    title = "Diversity"
    main_metrics = ("ms_ssim",)
    scores = PromptDiversity.SCORES
    settings = ("guidance_scale", "top_p")

    def examples(self, records):
        return self.sample(image_examples(records, self.arguments), self.arguments.num_diverse)

    def generate(self, model, processor, batch):
        codes = [generate_codes(model, processor, batch, self.arguments, number) for number in range(NUM_IMAGES)]
        return np.concatenate(codes, axis=1)

    def metrics(self, examples, outputs, model=None, processor=None):
        codes = np.stack(outputs).astype(np.int64).reshape(len(outputs), NUM_IMAGES, -1)
        return [PromptDiversity().measure([processor.decode_codes(prompt_codes) for prompt_codes in codes])]
