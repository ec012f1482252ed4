"""Base class of the pipelines."""

from __future__ import annotations

import os
from typing import Any

from transformers import Pipeline

from ..llm_cxr.configuration_llm_cxr import WHOLE_MODEL, LlmCxrConfig, check_model_type
from ..llm_cxr.generation_llm_cxr import is_sequence


class CxrPipeline(Pipeline):
    """
    Pipeline over a model and its processor. A subclass turns an input into `{"text": str}`, with or without
    `pixel_values`, in `preprocess`, and a batch of these into results in `generate`.
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False
    # The functions that `generate` calls prepare the generation configuration.
    _pipeline_calls_generate = False

    # Key of a result in the output of the pipeline.
    output_key: str

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        model_type = self.model.config.model_type
        check_model_type(self.model.name_or_path, model_type, (LlmCxrConfig.model_type,), WHOLE_MODEL)
        self.model.check_processor(self.processor)

    def _sanitize_parameters(self, generate_kwargs: dict | None = None, **kwargs):
        return {}, {**(generate_kwargs or {}), **kwargs}, {}

    def __call__(self, inputs, **kwargs):
        if is_sequence(inputs) and not (inputs and isinstance(inputs, list)):
            # Transformers takes other sequences for one input and fails on an empty list. A generator keeps the images
            # of a column out of memory.
            return list(super().__call__((each for each in inputs), **kwargs))
        return super().__call__(inputs, **kwargs)

    def generate(self, texts: list[str], pixel_values=None, **generate_kwargs) -> list:
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
                Passed to `save_pretrained` of the model.
        """
        # The method of Transformers does not save the processor.
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)
