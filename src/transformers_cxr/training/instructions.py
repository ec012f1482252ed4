"""Instruction conversations as training examples of the language model."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from ..data.image_folder import Study
from ..data.instructions import image_conversation, report_conversation, vqa_conversation
from ..llm_cxr.processing_llm_cxr import LlmCxrProcessor


class InstructionDataset(Dataset):
    """
    Conversations about studies, drawn anew for every index: reading (a report and questions about one X-ray, in any order
    of turns) or drawing (a report, then its X-ray). An index always gives the same example.

    Args:
        studies (`Sequence[Study]`):
            The studies of the train split.
        codes (`np.ndarray` of shape `(num_studies, num_image_tokens)`):
            The codes of their images, each in `[0, codebook_size)`.
        processor ([`LlmCxrProcessor`]):
            Turns conversations into ids.
        size (`int`):
            Number of examples.
        drawing_ratio (`float`, *optional*, defaults to `0.4`):
            Share of the examples that draw.
        num_questions (`int`, *optional*, defaults to `2`):
            Questions of a reading conversation beside the report.
        empty_prompt_ratio (`float`, *optional*, defaults to `0.1`):
            Share of the drawing examples whose report is left out, for classifier-free guidance (arXiv 2207.12598).
        source_weights (`dict[str, float]`, *optional*):
            How often studies of a source are drawn, 1.0 for those not named.
        balanced (`bool`, *optional*, defaults to `False`):
            Draw the normal and the abnormal studies of a source equally often.
        seed (`int`, *optional*, defaults to `0`):
            Seed of everything that is drawn.
    """

    def __init__(
        self,
        studies: Sequence[Study],
        codes: np.ndarray,
        processor: LlmCxrProcessor,
        size: int,
        drawing_ratio: float = 0.4,
        num_questions: int = 2,
        empty_prompt_ratio: float = 0.1,
        source_weights: dict[str, float] | None = None,
        balanced: bool = False,
        seed: int = 0,
    ):
        if len(studies) != len(codes):
            raise ValueError(f"Got {len(studies)} studies and codes of {len(codes)} images.")
        self.studies = studies
        self.codes = codes
        self.processor = processor
        self.size = size
        self.drawing_ratio = drawing_ratio
        self.num_questions = num_questions
        self.empty_prompt_ratio = empty_prompt_ratio
        weights = [(source_weights or {}).get(study.source, 1.0) for study in studies]
        if balanced:
            groups = [(study.source, study.findings == ("No Finding",)) for study in studies]
            sizes = Counter(groups)
            studies_of = Counter(study.source for study in studies)
            groups_of = Counter(source for source, _ in sizes)
            weights = [
                weight * studies_of[source] / groups_of[source] / sizes[source, normal]
                for weight, (source, normal) in zip(weights, groups)
            ]
        self.cumulative_weights = np.cumsum(weights).tolist()
        self.seed = seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, torch.LongTensor]:
        """`input_ids` and `labels` of shape `(sequence_length,)`; labels are -100 outside of responses."""
        rng = random.Random(f"{self.seed}-{index}")
        (position,) = rng.choices(range(len(self.studies)), cum_weights=self.cumulative_weights)
        study = self.studies[position]
        messages = self._drawing(study, rng) if rng.random() < self.drawing_ratio else self._reading(study, rng)
        return encode_conversation(self.processor, messages, self.codes[position : position + 1])

    def _drawing(self, study: Study, rng: random.Random) -> list[dict]:
        messages = image_conversation(study, rng)["messages"]
        if rng.random() < self.empty_prompt_ratio:
            messages[0]["content"][1]["text"] = ""
        return messages

    def _reading(self, study: Study, rng: random.Random) -> list[dict]:
        report = report_conversation(study, rng)["messages"]
        questions = vqa_conversation(study, rng, self.num_questions)["messages"]
        turns = [report] + [questions[i : i + 2] for i in range(0, len(questions), 2)]
        rng.shuffle(turns)
        for user, _ in turns:
            user["content"] = [part for part in user["content"] if part["type"] != "image"]
        turns[0][0]["content"].append({"type": "image"})
        return [message for turn in turns for message in turn]


def encode_conversation(
    processor: LlmCxrProcessor, messages: list[dict], image_codes: np.ndarray
) -> dict[str, torch.LongTensor]:
    """
    A conversation as a training example.

    Args:
        processor ([`LlmCxrProcessor`]):
            Its chat template marks the responses.
        messages (`list[dict]`):
            Messages with one `{"type": "image"}` slot for each row of `image_codes`.
        image_codes (`np.ndarray` of shape `(num_images, num_image_tokens)`):
            Codes of the images in the order of their slots.

    Returns:
        `dict` of `input_ids` and `labels`, `torch.LongTensor` of shape `(sequence_length,)`.
    """
    encoded = processor.apply_chat_template(
        [messages],
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        processor_kwargs={"image_codes": image_codes},
    )
    input_ids = torch.tensor(encoded["input_ids"][0])
    response = torch.tensor(encoded["assistant_masks"][0]).bool()
    return {"input_ids": input_ids, "labels": input_ids.masked_fill(~response, -100)}


class InstructionCollator:
    """
    Pads examples to the longest of the batch, on the right.

    Args:
        pad_token_id (`int`): id of the padding.
    """

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, examples: list[dict[str, torch.LongTensor]]) -> dict[str, torch.LongTensor]:
        """`input_ids`, `attention_mask` and `labels` of shape `(batch_size, sequence_length)`."""
        pad = torch.nn.utils.rnn.pad_sequence
        ids = [example["input_ids"] for example in examples]
        return {
            "input_ids": pad(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": pad([example["labels"] for example in examples], batch_first=True, padding_value=-100),
        }
