"""The task "tokenizer": reconstructions of X-rays by the VQ-GAN."""

from __future__ import annotations

import numpy as np
import torch

from ...data.records import images_of
from ..examples import Example
from ..metrics import Measurement
from ..metrics.image_features import pixel_batches
from ..metrics.reconstruction import SCORES, aggregate_reconstructions, codebook_statistics, reconstruction_units
from .task import Task


class TokenizerTask(Task):
    """X-rays, encoded and decoded, against themselves, and the use of the codebook."""

    name = "tokenizer"
    hub_task = "image-to-image"
    title = "Image tokenizer"
    main_metrics = ("psnr", "ms_ssim")
    scores = SCORES

    def examples(self, records):
        return self.sample([Example.from_record(record, "") for record in images_of(records)])

    def generate(self, model, processor, batch):
        paths = [example.image_path for example in batch]
        pixel_values = processor.image_processor(paths, return_tensors="pt").pixel_values.to(model.device)
        with torch.no_grad():
            return model.vq_tokenizer.encode(pixel_values).cpu().numpy().astype(np.uint16)

    def metrics(self, examples, outputs, model=None, processor=None):
        codes, units = torch.from_numpy(np.stack(outputs).astype(np.int64)), []
        paths, batch_size = [example.image_path for example in examples], self.arguments.batch_size
        batches = pixel_batches(processor.image_processor, paths, batch_size, model.device, "reconstructions")
        for pixel_values, batch in zip(batches, codes.split(batch_size)):
            with torch.no_grad():
                units += reconstruction_units(model.vq_tokenizer.decode(batch.to(model.device)), pixel_values)

        def codebook(codes: list[torch.LongTensor]) -> dict[str, float]:
            return codebook_statistics(torch.stack(codes), processor.codebook_size)

        return [Measurement(units, aggregate_reconstructions), Measurement(list(codes), codebook, distinct=True)]
