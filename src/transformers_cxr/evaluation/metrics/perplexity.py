"""Perplexity of texts, before and after fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Features, Value
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .metric import CxrMetric, Score


class Perplexity(CxrMetric):
    """
    Perplexity of texts under a causal language model, with the sliding window of the documentation of Transformers
    (https://huggingface.co/docs/transformers/perplexity): every token is predicted once, from at most `max_length - 1`
    preceding tokens and, except at the beginning of a text, from at least `max_length - stride`.

    - `perplexity`: exponential of the mean negative log-likelihood of a token, at least 1, lower is better.
    - `bits_per_byte`: negative log-likelihood in bits per UTF-8 byte, which compares models with different tokenizers.
    - `base_perplexity`, `base_bits_per_byte`, `perplexity_ratio`: the same for a base model, and the ratio to it,
      which is above 1 if the model lost language.

    NaN for texts of one token. There are no references: `metric.compute(predictions=texts)`.

    A unit is a `np.ndarray` of shape `(2, 3)`: for the model and the base model, the sum of negative log-likelihoods
    in nats, the number of predicted tokens and the number of bytes.

    Args:
        model (`PreTrainedModel`), tokenizer (`PreTrainedTokenizerBase`):
            A causal language model, such as [`LlmCxrForCausalLM`], and its tokenizer.
        base_model (`PreTrainedModel`, *optional*), base_tokenizer (`PreTrainedTokenizerBase`, *optional*):
            The model before fine-tuning. Its tokenizer defaults to `tokenizer`.
        max_length (`int`, *optional*, defaults to 1024), stride (`int`, *optional*, defaults to 512):
            Length of a window in tokens, at most the context of the models, and the tokens by which it moves.
    """

    FEATURES = Features({"predictions": Value("string")})
    SCORES = {
        "perplexity_ratio": Score(
            "Perplexity after and before",
            "Perplexity divided by that of the model before fine-tuning; above 1 if language was lost.",
            higher_is_better=False,
        ),
        "*perplexity": Score(
            "Perplexity",
            "How many tokens the model hesitates between, at least 1. base: before fine-tuning.",
            higher_is_better=False,
        ),
        "*bits_per_byte": Score(
            "Bits per byte",
            "Length of the texts in the code of the model; comparable between tokenizers.",
            higher_is_better=False,
        ),
    }

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        base_model: PreTrainedModel | None = None,
        base_tokenizer: PreTrainedTokenizerBase | None = None,
        max_length: int = 1024,
        stride: int = 512,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.model, self.tokenizer = model, tokenizer
        self.base_model, self.base_tokenizer = base_model, base_tokenizer or tokenizer
        self.max_length, self.stride = max_length, stride

    def prepare(self, predictions: Sequence[str], references: None = None) -> list[np.ndarray]:
        units = np.full((len(predictions), 2, 3), np.nan)
        models = [(self.model, self.tokenizer), (self.base_model, self.base_tokenizer)]
        for column, (model, tokenizer) in enumerate(models):
            if model is not None:
                for text, unit in zip(tqdm(predictions, desc="Perplexity", unit="text"), units):
                    unit[column] = (*self._negative_log_likelihood(model, tokenizer, text), len(text.encode("utf-8")))
        return list(units)

    @torch.no_grad()
    def _negative_log_likelihood(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str
    ) -> tuple[float, int]:
        ids = tokenizer(text, return_tensors="pt", verbose=False).input_ids.to(model.device)
        total, count, predicted = 0.0, 0, 1
        for start in range(0, ids.shape[1], self.stride):
            end = min(start + self.max_length, ids.shape[1])
            if predicted >= end:
                break
            logits = model(input_ids=ids[:, start:end]).logits[0, predicted - start - 1 : -1].float()
            targets = ids[0, predicted:end]
            total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
            count += len(targets)
            predicted = end
        return total, count

    def aggregate(self, units: Sequence[np.ndarray]) -> dict[str, float]:
        sums = np.sum(units, axis=0)
        scores = {}
        for prefix, (total, count, num_bytes) in zip(("", "base_"), sums):
            if np.isnan(total):
                continue
            scores[f"{prefix}perplexity"] = float(np.exp(total / count)) if count else float("nan")
            scores[f"{prefix}bits_per_byte"] = float(total / np.log(2) / num_bytes) if count else float("nan")
        if "base_perplexity" in scores:
            scores["perplexity_ratio"] = scores["perplexity"] / scores["base_perplexity"]
        return scores
