"""What the pipelines have in common."""

from __future__ import annotations

import os
from collections.abc import Sequence

from transformers import Pipeline

from ..llm_cxr.configuration_llm_cxr import WHOLE_MODEL, LlmCxrConfig, check_model_type


def is_sequence(inputs) -> bool:
    """Whether these are several inputs of known number, such as a list or the column of a dataset."""
    return isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes))


class CxrPipeline(Pipeline):
    """A model and its processor, which prepares text and images."""

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        model_type = self.model.config.model_type
        check_model_type(self.model.name_or_path, model_type, (LlmCxrConfig.model_type,), WHOLE_MODEL)
        self.model.check_processor(self.processor)

    def __call__(self, inputs, **kwargs):
        if is_sequence(inputs) and not (inputs and isinstance(inputs, list)):
            # Transformers takes it for one input, and looks for the first of an empty list. One by one, as the images of a
            # column may not fit into memory together.
            return list(super().__call__((each for each in inputs), **kwargs))
        return super().__call__(inputs, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs):
        """
        Saves the model and its processor, which `pipeline(task, model=save_directory)` loads.

        Args:
            save_directory (`str` or `os.PathLike`):
                The folder; made where it is not there.
            **kwargs:
                Passed to the model's `save_pretrained`.
        """
        # Transformers' own leaves the processor out.
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)
