"""Training of a text tokenizer for small language models."""

from __future__ import annotations

import random
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ..data.conversations import image_conversation, question_answers, report_conversation
from ..data.records import StudyRecord


def train_text_tokenizer(records: Iterable[StudyRecord], vocab_size: int, seed: int = 0) -> PreTrainedTokenizerFast:
    """
    Train a byte-level BPE tokenizer on the reports, questions and instructions of records. Other text is encoded in
    bytes.

    Args:
        records (iterable of [`StudyRecord`]): the records to train on.
        vocab_size (`int`): maximum size of the vocabulary, at least 257.
        seed (`int`, *optional*, defaults to 0): seed of the instructions and of the wording.
    """
    rng = random.Random(seed)
    lines = [
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    ]
    lines += ["\n\nInput:\n"] * 100
    for record in records:
        for conversation in (report_conversation, image_conversation):
            for message in conversation(record, rng)["messages"]:
                lines += [part["text"] for part in message["content"] if part["type"] == "text"]
        for _, question, answer in question_answers(record, rng)[:1]:
            lines += [question, answer]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
