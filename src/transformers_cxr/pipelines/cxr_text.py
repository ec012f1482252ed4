"""Pipelines that read a chest X-ray: reports and answers to questions."""

from __future__ import annotations

import types
from itertools import repeat

import torch
from torch.utils.data import Dataset

from ..llm_cxr.generation_llm_cxr import generate_text, is_sequence
from .cxr import CxrPipeline


class CxrTextPipeline(CxrPipeline):
    """Pipeline from an image and an instruction to text."""

    output_key = "generated_text"

    def prepare(self, image, instruction: str) -> dict[str, str | torch.FloatTensor]:
        """Return the model inputs of one image and instruction."""
        pixel_values = self.processor.image_processor(image, return_tensors="pt").pixel_values
        if len(pixel_values) != 1:
            raise ValueError(f"Expected one image, got a batch of {len(pixel_values)}: pass a list of images.")
        return {"text": instruction, "pixel_values": pixel_values}

    def generate(self, texts: list[str], pixel_values: torch.FloatTensor, **generate_kwargs) -> list[str]:
        codes = self.model.vq_tokenizer.encode(pixel_values)
        return generate_text(self.model, self.processor, instruction=texts, image_codes=codes, **generate_kwargs)


class CxrReportPipeline(CxrTextPipeline):
    """
    `pipeline("cxr-report")`: write the radiology report of a chest X-ray. Generated, for research only.

    ```python
    >>> pipeline("cxr-report")("xray.png")
    [{'generated_text': 'FINDINGS: ...\\nIMPRESSION: ...'}]
    ```
    """

    def _sanitize_parameters(self, instruction: str | None = None, generate_kwargs: dict | None = None, **kwargs):
        preprocess_kwargs = {} if instruction is None else {"instruction": instruction}
        return preprocess_kwargs, {**(generate_kwargs or {}), **kwargs}, {}

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
        return self.prepare(image, instruction or self.processor.report_instruction)


class CxrVqaPipeline(CxrTextPipeline):
    """
    `pipeline("cxr-vqa")`: answer a question about a chest X-ray. Generated, for research only.

    ```python
    >>> pipeline("cxr-vqa")(image="xray.png", question="Is there pneumonia?")
    [{'generated_text': 'Yes.'}]
    ```
    """

    def __call__(self, image, question: str | list[str] | None = None, **kwargs):
        """
        Args:
            image (`ImageInput` or iterable of them, or iterable of `dict`):
                A chest X-ray as for [`CxrReportPipeline`]; or a list, column, dataset or generator of these; or,
                without `question`, dictionaries (or rows of a dataset) with `image` and `question`.
            question (`str` or `list[str]`, *optional*):
                The question, or one for each image of a list or column.
            generate_kwargs (`dict`, *optional*):
                Arguments of [`generate_text`], which can also be passed directly.

        Returns:
            `list[dict]`: `[{"generated_text": str}]` for a question (with `num_return_sequences` entries), a list of
            such lists for several.
        """
        if question is None:
            # Transformers knows the datasets of torch, and takes one of `datasets` for a single input.
            return super().__call__((row for row in image) if hasattr(image, "column_names") else image, **kwargs)
        is_stream = isinstance(image, (Dataset, types.GeneratorType))
        if not (is_stream or is_sequence(image) or is_sequence(question)):
            return super().__call__({"image": image, "question": question}, **kwargs)
        if is_stream and is_sequence(question):
            raise TypeError(
                "Expected one question for all images of a dataset or generator, got "
                f"{type(question).__name__}. Pass dictionaries with `image` and `question` for one question each."
            )
        images = image if is_stream or is_sequence(image) else [image] * len(question)
        questions = question if is_sequence(question) else repeat(question)
        if is_sequence(images) and is_sequence(question) and len(images) != len(question):
            raise ValueError(
                f"Expected one question per image, got {len(images)} images and {len(question)} questions."
            )
        answers = super().__call__(({"image": i, "question": q} for i, q in zip(images, questions)), **kwargs)
        return answers if is_stream else list(answers)

    def preprocess(self, inputs: dict):
        if not isinstance(inputs, dict) or not {"image", "question"} <= inputs.keys():
            raise ValueError('Expected an image and a question: `pipe(image=..., question="...")`.')
        if not isinstance(inputs["question"], str):
            raise TypeError(f"Expected a question as a string, got {type(inputs['question']).__name__}.")
        return self.prepare(inputs["image"], inputs["question"])
