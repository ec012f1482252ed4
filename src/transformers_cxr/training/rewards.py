"""
Rewards of generated reports and images, as the trainers of TRL take them: functions of `completions`, of
`completion_ids` and of columns of the dataset, that return a `list[float]`, a reward in [0, 1] for each completion.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..classifiers import XrayClassifier
from ..data.records import ETIOLOGY_LABELS
from ..llm_cxr.processing_llm_cxr import LlmCxrProcessor
from ..reports.labeler import POSITIVE, UNCERTAIN, RuleLabeler
from ..reports.sections import parse_report


def checked_reward(reward: Callable[..., Sequence[float]]) -> Callable[..., list[float]]:
    """
    Return a reward function that raises a `ValueError` with its name if it does not return one finite number for each
    completion. TRL would leave out rewards that are NaN.
    """

    @functools.wraps(reward)
    def checked(completions: Sequence, **columns) -> list[float]:
        name = f"The reward '{reward.__name__}'"
        rewards = [math.nan if value is None else float(value) for value in reward(completions=completions, **columns)]
        if len(rewards) != len(completions):
            raise ValueError(f"{name} returned {len(rewards)} rewards for {len(completions)} completions.")
        for number, (value, completion) in enumerate(zip(rewards, completions)):
            if not math.isfinite(value):
                raise ValueError(f"{name} returned {value} for completion {number}: {completion!r:.200}.")
        return rewards

    return checked


def label_f1(labeler: Callable[[Sequence[str]], np.ndarray] | None = None) -> Callable[..., list[float]]:
    """
    Return a reward of reports: F1 of their CheXpert labels against those of the column `reference` (`str`), with
    uncertain labels as positive, as in [`CheXpertLabels`]. It is 1 if neither has a positive label.

    Args:
        labeler (`Callable`, *optional*): [`RuleLabeler`] (default) or [`CheXbertLabeler`].
    """
    labeler = RuleLabeler() if labeler is None else labeler

    @checked_reward
    def label_f1(completions, reference, **columns):
        if empty := [number for number, report in enumerate(reference) if not report.strip()]:
            raise ValueError(f"The reward 'label_f1' needs a report; `reference` of completion {empty[0]} is empty.")
        generated, expected = (
            np.isin(labeler(reports), (POSITIVE, UNCERTAIN)) for reports in (_texts(completions), reference)
        )
        shared, total = (generated & expected).sum(axis=1), generated.sum(axis=1) + expected.sum(axis=1)
        return np.where(total == 0, 1.0, 2 * shared / np.maximum(total, 1)).tolist()

    return label_f1


def report_format(min_words: int = 5, max_words: int = 150) -> Callable[..., list[float]]:
    """
    Return a reward of reports: one half for a report with the headings "FINDINGS:" and "IMPRESSION:" and text below
    both, and one half for a report of `min_words` to `max_words` words, headings included.
    """

    @checked_reward
    def report_format(completions, **columns):
        rewards = []
        for text in _texts(completions):
            has_headings = all(heading in text.lower() for heading in ("findings:", "impression:"))
            has_sections = has_headings and all(parse_report(text))
            rewards.append(0.5 * has_sections + 0.5 * (min_words <= len(text.split()) <= max_words))
        return rewards

    return report_format


def finding_probability(processor: LlmCxrProcessor, classifier: XrayClassifier) -> Callable[..., list[float]]:
    """
    Return a reward of images: the probability that a classifier gives to the findings that the column `labels` asks
    for (see [`asked_findings`]), a mean over those that the classifier knows. It is 0 without exactly one whole image.

    Args:
        processor ([`LlmCxrProcessor`]): processor of the model, with its `vq_tokenizer`.
        classifier ([`XrayClassifier`]): classifier with labels such as "Pneumonia" and "Bacterial Pneumonia".
    """

    @checked_reward
    def finding_probability(completions, completion_ids, labels, **columns):
        rewards, codes = np.zeros(len(completions)), [_codes_of(processor, ids) for ids in completion_ids]
        whole = [number for number, image in enumerate(codes) if image is not None]
        if not whole:
            return rewards.tolist()
        probabilities = classifier.probabilities(processor.decode_codes([codes[number] for number in whole]))
        for number, row in zip(whole, probabilities.tolist()):
            known = dict(zip(classifier.label_names, row))
            asked = {name: value for name, value in asked_findings(labels[number]).items() if name in known}
            if not asked:
                raise ValueError(
                    f"The reward 'finding_probability' needs one of the labels {list(known)}; completion {number} "
                    f"asks for {labels[number]}."
                )
            rewards[number] = np.mean([known[name] if value else 1 - known[name] for name, value in asked.items()])
        return rewards.tolist()

    return finding_probability


def whole_image(processor: LlmCxrProcessor) -> Callable[..., list[float]]:
    """Return a reward of images: 1 for a completion of exactly one whole image and no text, else 0."""

    @checked_reward
    def whole_image(completions, completion_ids, **columns):
        return [
            float(
                _codes_of(processor, ids) is not None
                and not processor.post_process_multimodal_output([ids])[0].strip()
            )
            for ids in completion_ids
        ]

    return whole_image


def asked_findings(labels: Mapping[str, int] | Sequence[Mapping]) -> dict[str, int]:
    """
    Return the findings that labels ask for, 1 for present and 0 for absent, with what they imply: "No Finding" the
    absence of "Pneumonia", and the cause of a pneumonia its presence and the absence of the other cause.

    Args:
        labels (`Mapping[str, int]`, or a list of `{"name": ..., "value": ...}`): labels as in [`StudyRecord`].
    """
    values = labels if isinstance(labels, Mapping) else {label["name"]: label["value"] for label in labels}
    asked = {name: value for name, value in values.items() if value in (0, 1)}
    causes = [name for name in ETIOLOGY_LABELS if asked.get(name)]
    if causes:
        return dict.fromkeys(ETIOLOGY_LABELS, 0) | asked | {"Pneumonia": 1}
    return {"Pneumonia": 0} | asked if asked.get("No Finding") else asked


def _texts(completions: Sequence[str | list[dict]]) -> list[str]:
    """Return the text of completions, of which TRL makes messages if the prompts are messages."""
    return [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]


def _codes_of(processor: LlmCxrProcessor, token_ids: Sequence[int]) -> list[int] | None:
    """Return the codes of a completion of exactly one whole image, or `None`."""
    try:
        _, images = processor.split_interleaved(token_ids)
    except ValueError:
        return None
    return images[0] if len(images) == 1 else None
