"""The pipeline that draws an X-ray."""

from __future__ import annotations

from collections.abc import Sequence

from ..llm_cxr.generation_llm_cxr import seeds_of_images
from ..llm_cxr.processing_llm_cxr import IMAGE_INSTRUCTION
from .cxr import CxrPipeline


class CxrGenerationPipeline(CxrPipeline):
    """
    `pipeline("cxr-generation")`: chest X-rays for a text. Synthetic images, for research only.

    ```python
    >>> pipeline("cxr-generation")("Normal chest X-ray of a child.", seed=0)
    [{'image': <PIL.Image.Image image mode=L size=256x256>}]
    ```
    """

    # Not `generate`, so there is no generation configuration for the pipeline to prepare.
    _pipeline_calls_generate = False

    def _sanitize_parameters(self, instruction: str | None = None, generate_kwargs: dict | None = None, **kwargs):
        shared = {} if instruction is None else {"instruction": instruction}
        return shared, {**shared, **(generate_kwargs or {}), **kwargs}, {}

    def __call__(self, text, **kwargs):
        """
        Args:
            text (`str` or iterable of `str`):
                Report, findings or impression to draw; or a list, column of a dataset, dataset or generator of these.
            instruction (`str`, *optional*):
                Instruction in place of the default of [`generate_image`].
            generate_kwargs (`dict`, *optional*):
                Arguments of [`LlmCxrForCausalLM.generate_image`] such as `num_images`, `seed`, `guidance_scale`,
                `temperature`; they can also be given by themselves. A list of seeds is that of each text's images.

        Returns:
            `list[dict]`: `[{"image": PIL.Image.Image}]` for a text, with `num_images` entries; a list of such lists for
            several.
        """
        return super().__call__(text, **kwargs)

    def preprocess(self, text: str, instruction: str = IMAGE_INSTRUCTION):
        return self.processor(text=self.processor.image_prompts([text], instruction), return_tensors="pt")

    def _forward(self, model_inputs, instruction: str = IMAGE_INSTRUCTION, **kwargs):
        kwargs = self.processor.with_negative_prompt(kwargs, instruction, self.model.device)
        seeds = seeds_of_images(kwargs.get("seed"), kwargs.get("num_images", 1))
        if isinstance(seeds, Sequence):
            # The images of a text do not depend on the texts that are in its batch.
            kwargs["seed"] = [*seeds] * len(model_inputs["input_ids"])
        output = self.model.generate_image(
            model_inputs["input_ids"], attention_mask=model_inputs["attention_mask"], **kwargs
        )
        return {"pixel_values": output.pixel_values.unflatten(0, (len(model_inputs["input_ids"]), -1))}

    def postprocess(self, model_outputs) -> list[dict]:
        images = self.processor.postprocess(model_outputs["pixel_values"].flatten(0, 1))
        return [{"image": image} for image in images]
