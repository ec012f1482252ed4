"""Labelers of reports with CheXpert's 14 labels: by rules, which need no download, and CheXbert."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from . import phrases
from .sections import parse_report

CHEXPERT_LABELS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
# The values of CheXpert's own tables; NaN is not mentioned.
POSITIVE, NEGATIVE, UNCERTAIN = 1.0, 0.0, -1.0
_PRECEDENCE = (NEGATIVE, UNCERTAIN, POSITIVE)

# A full stop after a number ends a sentence only before a word; "vs." and "Dr." never end one.
_SENTENCE_END = re.compile(r"(?<!\d)(?<!\bvs)(?<!\bdr)[.!?](?=\s|$)|(?<=\d)\.(?=\s+[a-z]|\s*$)|;|//")
_STATE = re.compile("|".join(rf"(?P<{state}>\b(?:{words})\b)" for state, words in phrases.STRUCTURE_STATES.items()))
_VALUE_OF_STATE = {"borderline": UNCERTAIN, "normal": NEGATIVE, "enlarged": POSITIVE, "unchanged": UNCERTAIN}
_OR = re.compile(r"\b(?:or|nor)\b")
# The most words between a structure and a state that is after it, or before it.
_WORDS_AFTER, _WORDS_BEFORE = 12, 5


class RuleLabeler:
    """
    Label the findings and the impression of reports by rules.

    The names of findings are those of the CheXpert labeler. Cues of negation and uncertainty reach to the end of their
    clause, as in NegEx (Chapman et al. 2001). Of several mentions of a finding the positive one counts, then the
    uncertain one (Irvin et al. 2019, arXiv 1901.07031, section 2). "No Finding" is positive if a report has findings
    or an impression and nothing but support devices is positive or uncertain, else not mentioned.
    `benchmarks/rule_labeler.py` measures precision and recall.
    """

    def __call__(self, reports: Sequence[str]) -> np.ndarray:
        """
        Label reports.

        Args:
            reports (`Sequence[str]`): reports in English, with or without headings (see [`parse_report`]).

        Returns:
            `np.ndarray` of shape `(num_reports, 14)` and dtype `float32`: for each label of `CHEXPERT_LABELS` 1
            (positive), 0 (negative), -1 (uncertain) or NaN (not mentioned).
        """
        return np.stack([self._labels(report) for report in reports])

    def _labels(self, report: str) -> np.ndarray:
        sections = parse_report(report)
        sentences = [sentence for text in sections for sentence in _SENTENCE_END.split(text.lower())]
        values = {}
        for label, value in (mention for sentence in sentences for mention in _Sentence(sentence).mentions()):
            values[label] = max(values.get(label, NEGATIVE), value, key=_PRECEDENCE.index)
        is_normal = all(value == NEGATIVE for label, value in values.items() if label != "Support Devices")
        values["No Finding"] = POSITIVE if is_normal and any(sections) else np.nan
        return np.array([values.get(label, np.nan) for label in CHEXPERT_LABELS], dtype=np.float32)


class CheXbertLabeler:
    """
    Label reports with CheXbert (Smit et al. 2020, arXiv 2004.09167), as radeval runs it.

    Args:
        device (`str` or `torch.device`, *optional*): the device to run on, by default a GPU if there is one.

    Raises:
        ImportError: radeval is not installed.
        OSError: the weights are not on this machine and cannot be downloaded.
    """

    def __init__(self, device: str | torch.device | None = None):
        try:
            from radeval.metrics.f1chexbert.f1chexbert import F1CheXbert
        except ImportError as error:
            raise ImportError("CheXbert needs radeval: `pip install transformers-cxr[radeval]`.") from error
        try:
            self.labeler = F1CheXbert(device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
        except OSError as error:
            raise OSError(
                "Cannot read or download the weights of CheXbert: 'chexbert.pth' of 'StanfordAIMI/RRG_scorers', "
                "and 'bert-base-uncased'. Run it once on a machine with a network and copy the folders "
                "'~/.cache/chexbert' and '~/.cache/huggingface/hub'. The labeler 'rules' needs no download."
            ) from error

    def __call__(self, reports: Sequence[str]) -> np.ndarray:
        """Label reports as [`RuleLabeler`] does, with 0 instead of NaN for a finding that is not mentioned."""
        columns = [self.labeler.TARGET_NAMES.index(label) for label in CHEXPERT_LABELS]
        labels = self.labeler.get_labels(list(reports), mode="classification")
        return np.array(labels, dtype=np.float32)[:, columns]


class _Sentence:
    """A sentence in lower case and its mentions of findings."""

    def __init__(self, text: str):
        self.text = text
        # Of the same length as the text.
        self.without_pseudo_negations = re.sub(phrases.PSEUDO_NEGATIONS, lambda match: "_" * len(match[0]), text)

    def mentions(self) -> Iterator[tuple[str, float]]:
        """Yield labels and values; the label of findings without a label of CheXpert is "No Finding"."""
        for label, names in {**phrases.FINDINGS, "No Finding": phrases.OTHER_FINDINGS}.items():
            excluded = list(re.finditer(phrases.EXCLUDED[label], self.text)) if label in phrases.EXCLUDED else []
            found = [match for match in re.finditer(names, self.text) if not _overlaps(match, excluded)]
            for match in found:
                if (value := self._value_of_finding(match)) is not None:
                    yield label, value
            if label in phrases.STRUCTURES:
                for match in re.finditer(phrases.STRUCTURES[label], self.text):
                    if not _overlaps(match, found) and (value := self._value_of_structure(match)) is not None:
                        yield label, value

    def _clause(self, match: re.Match) -> tuple[str, str]:
        """Return the text before and after a mention in its clause."""
        before = re.split(phrases.CLAUSE_BREAK, self.text[: match.start()])[-1]
        return before, re.split(phrases.CLAUSE_BREAK, self.text[match.end() :])[0]

    def _value_of_finding(self, match: re.Match) -> float | None:
        before, after = self._clause(match)
        if re.search(phrases.UNCERTAIN_STRONG_BEFORE, before) or re.match(phrases.UNCERTAIN_STRONG_AFTER, after):
            return UNCERTAIN
        if re.search(phrases.NOT_STATED_BEFORE, before):
            return None
        cues_before = self.without_pseudo_negations[match.start() - len(before) : match.start()]
        cues_after = self.without_pseudo_negations[match.end() : match.end() + len(after)]
        if _is_negated(cues_before, after) or re.match(phrases.NEGATIONS_AFTER, cues_after):
            return NEGATIVE
        if re.search(phrases.UNCERTAIN_BEFORE, before) or re.match(phrases.UNCERTAIN_AFTER, after):
            return UNCERTAIN
        return POSITIVE

    def _value_of_structure(self, match: re.Match) -> float | None:
        before, after = self._clause(match)
        for state in reversed(list(_STATE.finditer(before))):
            between = before[state.end() :]
            if _num_words(between) <= _WORDS_BEFORE and "," not in between:
                return _VALUE_OF_STATE[state.lastgroup]
        states = [s.lastgroup for s in _STATE.finditer(after) if _num_words(after[: s.start()]) <= _WORDS_AFTER]
        # "Stable" says less than what comes with it: "stable and enlarged".
        states.sort(key=lambda state: state == "unchanged")
        return _VALUE_OF_STATE[states[0]] if states else None


def _is_negated(before: str, after: str) -> bool:
    """Return whether a negation before a mention reaches it."""
    cues = list(re.finditer(phrases.NEGATIONS_BEFORE, before))
    if not cues:
        return False
    between = before[cues[-1].end() :]
    if re.search(phrases.INSTEAD, between):
        return False
    present = re.search(phrases.PRESENT, between)
    if present and not re.search(_OR, between[present.end() :] + after):
        return False
    # Of "no A is seen, and B is noted", only A is negated; of "no A, B or C is seen", all three are.
    _, comma, clause = between.rpartition(",")
    negated = before.removesuffix(clause)
    has_verb = re.search(phrases.VERB, clause) or (re.search(phrases.VERB, negated) and re.search(phrases.VERB, after))
    return not (comma and has_verb) or bool(re.search(_OR, clause + after))


def _overlaps(match: re.Match, others: list[re.Match]) -> bool:
    return any(match.start() < other.end() and other.start() < match.end() for other in others)


def _num_words(text: str) -> int:
    return len(re.findall(r"\w+", text))
