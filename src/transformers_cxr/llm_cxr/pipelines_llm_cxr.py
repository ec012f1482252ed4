"""Transformers pipelines "cxr-report", "cxr-vqa" and "cxr-generation"."""

from __future__ import annotations

import os
from typing import Any

import PIL.Image
import torch
from transformers import Pipeline

from .configuration_llm_cxr import LLM_CXR_CHECKPOINT, LlmCxrConfig, check_model_type
from .generation_llm_cxr import generate_image, generate_text, image_seeds, is_sequence
from .likelihood_llm_cxr import warn_about_other_images


class CxrPipeline(Pipeline):
    """
    Pipeline over a model and its processor. `preprocess` of a subclass turns an input into a `dict` with the key
    "text", and `generate` a batch of these into results.
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False
    # `generate_text` and `generate_image` prepare the generation configuration.
    _pipeline_calls_generate = False

    # Key of a result in the output of the pipeline.
    output_key: str

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        model_type = self.model.config.model_type
        check_model_type(self.model.name_or_path, model_type, (LlmCxrConfig.model_type,), LLM_CXR_CHECKPOINT)

    def _sanitize_parameters(self, generate_kwargs: dict | None = None, **kwargs):
        return {}, {**(generate_kwargs or {}), **kwargs}, {}

    def __call__(self, inputs, **kwargs):
        if is_sequence(inputs) and not (inputs and isinstance(inputs, list)):
            # Transformers takes other sequences for one input and fails on an empty list. A generator keeps the images
            # of a column out of memory.
            return list(super().__call__((each for each in inputs), **kwargs))
        return super().__call__(inputs, **kwargs)

    def generate(self, texts: list[str], pixel_values: torch.FloatTensor | None = None, **generate_kwargs) -> list:
        """Return the results of a batch, the same number for each input, in order."""
        raise NotImplementedError

    def _forward(self, model_inputs: dict, **generate_kwargs) -> dict[str, list]:
        # Only a batch is collated into lists.
        is_batch = isinstance(model_inputs["text"], list)
        texts = model_inputs["text"] if is_batch else [model_inputs["text"]]
        results = self.generate(texts, model_inputs.get("pixel_values"), **generate_kwargs)
        number = len(results) // len(texts)
        rows = [results[start : start + number] for start in range(0, len(results), number)]
        return {"results": rows if is_batch else rows[0]}

    def postprocess(self, model_outputs: dict[str, list]) -> list[dict[str, Any]]:
        return [{self.output_key: result} for result in model_outputs["results"]]

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs):
        """
        Save the model and its processor, for `pipeline(task, model=save_directory)`.

        Args:
            save_directory (`str` or `os.PathLike`):
                The folder.
            **kwargs:
                Arguments of `save_pretrained` of the model.
        """
        # The method of Transformers does not save the processor.
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)


class CxrVqaPipeline(CxrPipeline):
    """
    `pipeline("cxr-vqa")`: answer a question about a chest X-ray. Generated, for research only.

    ```python
    >>> pipeline("cxr-vqa")(image="xray.png", question="Is there pneumonia?")
    [{'generated_text': 'Yes.'}]
    ```
    """

    output_key = "generated_text"

    def __call__(self, image, question: str | list[str] | None = None, **kwargs):
        """
        Args:
            image (`ImageInput`, list of them, or iterable of `dict`):
                A chest X-ray as for [`CxrReportPipeline`], or a list or column of them; or, without `question`, a
                list, dataset or generator of dictionaries with `image` and `question`.
            question (`str` or `list[str]`, *optional*):
                The question, or one for each image.
            generate_kwargs (`dict`, *optional*):
                Arguments of [`generate_text`], which can also be passed directly.

        Returns:
            `list[dict]`: `[{"generated_text": str}]` for a question (with `num_return_sequences` entries), a list of
            such lists for several.
        """
        if question is None:
            # Transformers takes a dataset of `datasets` for a single input.
            return super().__call__((row for row in image) if hasattr(image, "column_names") else image, **kwargs)
        if not is_sequence(image) and not is_sequence(question):
            return super().__call__({"image": image, "question": question}, **kwargs)
        images = image if is_sequence(image) else [image] * len(question)
        questions = question if is_sequence(question) else [question] * len(image)
        if len(images) != len(questions):
            raise ValueError(
                f"Expected one question per image, got {len(images)} images and {len(questions)} questions."
            )
        return list(super().__call__(({"image": i, "question": q} for i, q in zip(images, questions)), **kwargs))

    def preprocess(self, inputs: dict) -> dict[str, str | torch.FloatTensor]:
        if not isinstance(inputs, dict) or not {"image", "question"} <= inputs.keys():
            raise ValueError('Expected an image and a question: `pipe(image=..., question="...")`.')
        pixel_values = self.processor.image_processor(inputs["image"], return_tensors="pt").pixel_values
        if len(pixel_values) != 1:
            raise ValueError(f"Expected one image, got a batch of {len(pixel_values)}: pass a list of images.")
        return {"text": inputs["question"], "pixel_values": pixel_values}

    def generate(self, texts, pixel_values=None, **generate_kwargs) -> list[str]:
        codes = self.model.vq_tokenizer.encode(pixel_values)
        warn_about_other_images(self.model, self.processor, codes)
        return generate_text(self.model, self.processor, instruction=texts, image_codes=codes, **generate_kwargs)


class CxrReportPipeline(CxrVqaPipeline):
    """
    `pipeline("cxr-report")`: write the radiology report of a chest X-ray. Generated, for research only.

    ```python
    >>> pipeline("cxr-report")("xray.png")
    [{'generated_text': 'FINDINGS: ...\\nIMPRESSION: ...'}]
    ```
    """

    def _sanitize_parameters(self, instruction: str | None = None, **kwargs):
        _, generate_kwargs, _ = super()._sanitize_parameters(**kwargs)
        return {} if instruction is None else {"instruction": instruction}, generate_kwargs, {}

    def __call__(self, images, **kwargs):
        """
        Args:
            images (`ImageInput` or iterable of them):
                A chest X-ray as a PIL image, path, URL, bytes, array, tensor or `pydicom.Dataset`; or a list, column
                of a dataset, dataset or generator of these. A file may be DICOM.
            instruction (`str`, *optional*):
                Instruction instead of the default of the checkpoint, `processor.report_instruction`.
            generate_kwargs (`dict`, *optional*):
                Arguments of [`generate_text`], which can also be passed directly.

        Returns:
            `list[dict]`: `[{"generated_text": str}]` for an image (with `num_return_sequences` entries), a list of
            such lists for several.
        """
        return super().__call__(images, **kwargs)

    def preprocess(self, image, instruction: str | None = None):
        return super().preprocess({"image": image, "question": instruction or self.processor.report_instruction})


class CxrGenerationPipeline(CxrPipeline):
    """
    `pipeline("cxr-generation")`: generate chest X-rays from text. Synthetic images, for research only.

    ```python
    >>> pipeline("cxr-generation")("Normal chest X-ray of a child.", seed=0)
    [{'image': <PIL.Image.Image image mode=L size=256x256>}]
    ```
    """

    output_key = "image"

    def __call__(self, text, **kwargs):
        """
        Args:
            text (`str` or iterable of `str`):
                Report, findings or impression; or a list, column of a dataset, dataset or generator of these.
            instruction (`str`, *optional*):
                Instruction instead of the default of the checkpoint, `processor.image_instruction`.
            generate_kwargs (`dict`, *optional*):
                Arguments of [`generate_image`] such as `num_images`, `seed`, `guidance_scale`, `temperature`, which
                can also be passed directly. A list of seeds has one for each image of a text.

        Returns:
            `list[dict]`: `[{"image": PIL.Image.Image}]` with `num_images` entries for a text, a list of such lists for
            several.
        """
        return super().__call__(text, **kwargs)

    def preprocess(self, text: str) -> dict[str, str]:
        return {"text": text}

    def generate(self, texts, pixel_values=None, **generate_kwargs) -> list[PIL.Image.Image]:
        seeds = image_seeds(generate_kwargs.get("seed"), generate_kwargs.get("num_images", 1))
        if seeds is not None:
            # The images of a text do not depend on its batch.
            generate_kwargs["seed"] = [*seeds] * len(texts)
        return generate_image(self.model, self.processor, texts, **generate_kwargs)
