"""Tasks whose outputs are texts about X-rays."""

from __future__ import annotations

from .task import Task, processed_image


class TextTask(Task):
    """Texts, generated greedily from the prompt of each example, or from the report instruction if it is empty."""

    is_comparable = True

    def settings(self, model):
        return {"max_new_tokens": self.arguments.max_new_tokens}

    def generate(self, model, processor, batch):
        return self.answer(model, processor, batch, images=[example.image_path for example in batch])

    def answer(self, model, processor, batch, **images) -> list[str]:
        """Return one text per example about `images` or `image_codes`."""
        from ...llm_cxr.generation_llm_cxr import generate_text

        instruction = [example.prompt or processor.report_instruction for example in batch]
        max_new_tokens = self.arguments.max_new_tokens
        return generate_text(
            model, processor, instruction=instruction, max_new_tokens=max_new_tokens, do_sample=False, **images
        )

    def samples(self, examples, outputs, processor):
        from ..results.page import Sample

        samples = []
        for example, output in zip(examples, outputs):
            texts = [("prompt", example.prompt), ("reference", example.reference), ("generated", output)]
            images = [("X-ray", processed_image(example.image_path, processor))]
            samples.append(Sample(images, [(title, text) for title, text in texts if text]))
        return samples
