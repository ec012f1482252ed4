"""The pipelines that read an X-ray: reports and answers."""

from __future__ import annotations

import types

import torch
from torch.utils.data import Dataset
from transformers import GenerationConfig

from ..llm_cxr.processing_llm_cxr import REPORT_INSTRUCTION
from .cxr import CxrPipeline, is_sequence


class _CxrTextPipeline(CxrPipeline):
    """An image and an instruction in, text out."""

    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=256)

    def _prompt(self, image, instruction: str) -> dict:
        # Opened here, as Transformers takes `None` for an image that is given elsewhere.
        image = self.processor.image_processor.fetch_images(image)
        if getattr(image, "ndim", 2) == 4:
            raise ValueError(f"Expected one image, got a batch of shape {tuple(image.shape)}: give a list of images.")
        content = [{"type": "text", "text": instruction}, {"type": "image", "image": image}]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            # A question can name a token of the model, but not write one.
            sanitize_control_tokens=True,
            # Transformers cannot do both.
            processor_kwargs={"add_special_tokens": False},
        )
        tokenizer = self.processor.tokenizer
        begin = [i for i in tokenizer("").input_ids if i == tokenizer.bos_token_id]
        if inputs["input_ids"][0, : len(begin)].tolist() != begin:
            inputs["input_ids"] = torch.cat([torch.tensor([begin]), inputs["input_ids"]], dim=1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        return inputs

    def _forward(self, model_inputs, **generate_kwargs):
        generate_kwargs = self._prepare_generate_kwargs(generate_kwargs, return_dict_in_generate=False)
        output = self.model.generate(**model_inputs, generation_mode="text", **generate_kwargs)
        new_ids = output[:, model_inputs["input_ids"].shape[1] :]
        # One row an image, whatever `num_return_sequences` is: batches are taken apart along the first dimension.
        return {"generated_ids": new_ids.unflatten(0, (len(model_inputs["input_ids"]), -1))}

    def postprocess(self, model_outputs) -> list[dict[str, str]]:
        new_ids = model_outputs["generated_ids"].flatten(0, 1)
        texts = self.processor.post_process_multimodal_output(new_ids, generation_mode="text")
        return [{"generated_text": text.strip()} for text in texts]


class CxrReportPipeline(_CxrTextPipeline):
    """
    `pipeline("cxr-report")`: the radiology report of a chest X-ray. Generated, for research only.

    ```python
    >>> pipeline("cxr-report")("xray.png")
    [{'generated_text': 'FINDINGS: ...\\nIMPRESSION: ...'}]
    ```
    """

    def _sanitize_parameters(self, instruction: str | None = None, generate_kwargs: dict | None = None, **kwargs):
        preprocess = {} if instruction is None else {"instruction": instruction}
        return preprocess, {**(generate_kwargs or {}), **kwargs}, {}

    def __call__(self, images, **kwargs):
        """
        Args:
            images (`ImageInput` or iterable of them):
                A chest X-ray as a PIL image, path, URL, bytes, array, tensor or `pydicom.Dataset`; or a list, column of a
                dataset, dataset or generator of these. A file may be DICOM.
            instruction (`str`, *optional*):
                Instruction in place of "Write a radiology report for this chest X-ray."
            generate_kwargs (`dict`, *optional*):
                Arguments of `generate`; they can also be given by themselves.

        Returns:
            `list[dict]`: `[{"generated_text": str}]` for an image (with `num_return_sequences` entries), a list of such
            lists for several.
        """
        return super().__call__(images, **kwargs)

    def preprocess(self, image, instruction: str = REPORT_INSTRUCTION):
        return self._prompt(image, instruction)


class CxrVqaPipeline(_CxrTextPipeline):
    """
    `pipeline("cxr-vqa")`: the answer to a question about a chest X-ray. Generated, for research only.

    ```python
    >>> pipeline("cxr-vqa")(image="xray.png", question="Is there pneumonia?")
    [{'generated_text': 'Yes.'}]
    ```
    """

    def _sanitize_parameters(self, generate_kwargs: dict | None = None, **kwargs):
        return {}, {**(generate_kwargs or {}), **kwargs}, {}

    def __call__(self, image, question: str | list[str] | None = None, **kwargs):
        """
        Args:
            image (`ImageInput` or iterable of them, or iterable of `dict`):
                A chest X-ray as [`CxrReportPipeline`] takes it; or a list, column, dataset or generator of these; or,
                without `question`, dictionaries (or rows of a dataset) with `image` and `question`.
            question (`str` or `list[str]`, *optional*):
                The question, or one for each image of a list or column.
            generate_kwargs (`dict`, *optional*):
                Arguments of `generate`; they can also be given by themselves.

        Returns:
            `list[dict]`: `[{"generated_text": str}]` for a question (with `num_return_sequences` entries), a list of such
            lists for several.
        """
        if question is None:
            # Transformers knows the datasets of torch, and takes one of `datasets` for a single input.
            return super().__call__((row for row in image) if hasattr(image, "column_names") else image, **kwargs)
        if isinstance(image, (Dataset, types.GeneratorType)):
            if not isinstance(question, str):
                raise TypeError(
                    "Expected one question, a string, for all images of a dataset or generator, got "
                    f"{type(question).__name__}: give dictionaries with `image` and `question` for one each."
                )
            return super().__call__(({"image": each, "question": question} for each in image), **kwargs)
        if not is_sequence(image) and not is_sequence(question):
            return super().__call__({"image": image, "question": question}, **kwargs)
        images = image if is_sequence(image) else [image] * len(question)
        questions = question if is_sequence(question) else [question] * len(image)
        if len(images) != len(questions):
            raise ValueError(f"Got {len(images)} images and {len(questions)} questions: give one question an image.")
        return list(super().__call__(({"image": i, "question": q} for i, q in zip(images, questions)), **kwargs))

    def preprocess(self, inputs: dict):
        if not isinstance(inputs, dict) or not {"image", "question"} <= inputs.keys():
            raise ValueError('Expected an image and a question: `pipe(image=..., question="...")`.')
        if not isinstance(inputs["question"], str):
            raise TypeError(f"Expected a question as a string, got {type(inputs['question']).__name__}.")
        return self._prompt(inputs["image"], inputs["question"])
