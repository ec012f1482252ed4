"""CheXpert's 14 labels of a report: by rules, which need nothing, or by CheXbert, which needs its weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from . import phrases as phrases

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
# The values of CheXpert's own tables; what is not mentioned is NaN.
POSITIVE, NEGATIVE, UNCERTAIN = 1.0, 0.0, -1.0
_PRECEDENCE = (NEGATIVE, UNCERTAIN, POSITIVE)

_READ = r"FINDINGS?|IMPRESSIONS?|CONCLUSIONS?|WET READ|FINAL READ|ADDENDUM|REPORT|RECOMMENDATIONS?|NOTIFICATION"
_NOT_READ = (
    r"(?:CLINICAL )?(?:INDICATIONS?|HISTORY|INFORMATION)|REASON FOR (?:THIS )?(?:EXAM(?:INATION)?|STUDY)|TECHNIQUE|COMPARISONS?"
    r"|EXAM(?:INATION)?S?|REFERENCE EXAM|STUDY|PROCEDURE|PATIENT HISTORY|DIAGNOSIS|CLINICAL"
)
_HEADING = re.compile(rf"^[ \t]*(?:(?P<read>{_READ})|(?P<not_read>{_NOT_READ}))\b[^:\n]{{0,30}}:", re.M | re.I)
_PARAGRAPH = re.compile(r"\s*\S(?:[^\n]|\n(?!\s*\n))*")
_SENTENCE_END = re.compile(
    r"(?<!\d)(?<!\bvs)(?<!\bdr)[.!?](?=\s|$)|(?<=\d)[.](?=\s+[A-Z]|\s*$)|;|\n\s*\n|\n\s*(?:\d+[.)]|[-*•])\s|//",
    re.M | re.I,
)


@dataclass(frozen=True)
class Mention:
    """
    A mention of a finding in a report.

    label (`str`): one of `CHEXPERT_LABELS`.
    start, end (`int`): its characters in the report.
    value (`float`): `POSITIVE`, `NEGATIVE` or `UNCERTAIN`.
    """

    label: str
    start: int
    end: int
    value: float


class RuleLabeler:
    """
    Labels reports by rules, offline: the terms of the CheXpert labeler, negation and uncertainty by cues whose scope ends with
    their clause (as in NegEx, Chapman et al. 2001), and CheXpert's order of precedence over the mentions of a report (Irvin et
    al. 2019, arXiv 1901.07031, section 2): positive, then uncertain, then negative. "No Finding" is positive where nothing but
    support devices is positive or uncertain and the report says anything at all; it is never negative or uncertain.

    Read are findings and impression; indication, history, technique and comparison are not. `benchmarks/rule_labeler.py`
    measures how well it does.
    """

    def __call__(self, reports: Sequence[str]) -> np.ndarray:
        """
        Args:
            reports (`Sequence[str]`):
                Reports in English, with or without section headings.

        Returns:
            `np.ndarray` of shape `(len(reports), 14)` and dtype `float32`: a row a report, a column a label of
            `CHEXPERT_LABELS`; 1 positive, 0 negative, -1 uncertain, NaN not mentioned.
        """
        return np.stack([self._label(report) for report in reports])

    def _label(self, report: str) -> np.ndarray:
        labels = np.full(len(CHEXPERT_LABELS), np.nan, dtype=np.float32)
        for mention in self.mentions(report):
            column = CHEXPERT_LABELS.index(mention.label)
            if np.isnan(labels[column]) or _PRECEDENCE.index(mention.value) > _PRECEDENCE.index(labels[column]):
                labels[column] = mention.value
        findings = [label != "Support Devices" for label in CHEXPERT_LABELS]
        abnormal = np.isin(labels[findings], (POSITIVE, UNCERTAIN)).any()
        labels[_NO_FINDING] = POSITIVE if read_spans(report) and not abnormal else np.nan
        return labels

    def mentions(self, report: str) -> list[Mention]:
        """All that a report says of the findings, in its order. "No Finding" are those that CheXpert has no label for."""
        return sorted(
            (mention for start, end in read_spans(report) for mention in _mentions_of_span(report, start, end)),
            key=lambda mention: (mention.start, mention.end, mention.label),
        )


class CheXbertLabeler:
    """
    CheXbert (Smit et al. 2020, arXiv 2004.09167) as radeval runs it. It tells a negated finding from one that is not mentioned,
    but radeval does not: both are 0.

    Args:
        device (`str` or `torch.device`, *optional*):
            Where it runs; by default a GPU where there is one.

    Raises:
        ImportError: radeval is not installed.
        OSError: its weights are neither there nor can be downloaded.
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
                "The weights of CheXbert could not be read or downloaded. It needs 'chexbert.pth' of "
                "'StanfordAIMI/RRG_scorers' and the tokenizer and configuration of 'bert-base-uncased': run it once where "
                "there is a network, and bring the folders '~/.cache/chexbert' and '~/.cache/huggingface/hub' here. The "
                "labeler 'rules' needs no download."
            ) from error

    def __call__(self, reports: Sequence[str]) -> np.ndarray:
        """As [`RuleLabeler`], with 0 for what is not mentioned."""
        columns = [self.labeler.TARGET_NAMES.index(label) for label in CHEXPERT_LABELS]
        labels = self.labeler.get_labels(list(reports), mode="classification")
        return np.array(labels, dtype=np.float32)[:, columns]


def read_spans(report: str) -> list[tuple[int, int]]:
    """
    Start and end of the parts of a report that say what the image shows. A section that is not read ends with the next heading
    or, where no section to be read has a heading after it, with the paragraph.
    """
    headings = list(_HEADING.finditer(report))
    spans, start = [], 0
    for number, heading in enumerate(headings):
        if start is not None:
            spans.append((start, heading.start()))
        start = heading.end()
        if heading["not_read"]:
            following = headings[number + 1 :]
            start = None
            if not any(later["read"] for later in following):
                end = following[0].start() if following else len(report)
                paragraph = _PARAGRAPH.match(report, heading.end(), end)
                start = paragraph.end() if paragraph else None
    if start is not None:
        spans.append((start, len(report)))
    return [(start, end) for start, end in spans if report[start:end].strip()]


def _mentions_of_span(report: str, start: int, end: int) -> Iterator[Mention]:
    sentence_start = start
    for stop in [*_SENTENCE_END.finditer(report, start, end), None]:
        sentence_end = stop.start() if stop else end
        # One character for each of the report, so that positions stay.
        sentence = re.sub(r"\s", " ", report[sentence_start:sentence_end].lower())
        for mention in _mentions_of_sentence(sentence):
            yield Mention(mention.label, mention.start + sentence_start, mention.end + sentence_start, mention.value)
        sentence_start = stop.end() if stop else end


def _mentions_of_sentence(sentence: str) -> Iterator[Mention]:
    context = _Context(sentence)
    found = {label: [] for label in _FINDINGS}
    for label, pattern in _FINDINGS.items():
        excluded = [match.span() for match in _EXCLUDED[label].finditer(sentence)] if label in _EXCLUDED else []
        for match in pattern.finditer(sentence):
            if any(match.start() < e and s < match.end() for s, e in excluded):
                continue
            found[label].append(match.span())
            value = context.value_of_finding(match.start(), match.end())
            if value is not None:
                yield Mention(label, match.start(), match.end(), value)
    for match in _OTHER_FINDINGS.finditer(sentence):
        value = context.value_of_finding(match.start(), match.end())
        if value is not None:
            yield Mention("No Finding", match.start(), match.end(), value)
    for label, pattern in _STRUCTURES.items():
        for match in pattern.finditer(sentence):
            if any(match.start() < e and s < match.end() for s, e in found[label]):
                continue
            value = context.value_of_structure(match.start(), match.end())
            if value is not None:
                yield Mention(label, match.start(), match.end(), value)


def _compile(pattern: str) -> re.Pattern:
    """A pattern whose spaces stand for any white space, as lines of a report are broken anywhere."""
    return re.compile(pattern.replace(" ?", r"\s*").replace(" ", r"\s+"))


def _any_of(patterns: Iterable[str]) -> re.Pattern:
    return _compile("|".join(f"(?:{pattern})" for pattern in patterns))


_NO_FINDING = CHEXPERT_LABELS.index("No Finding")
_FINDINGS = {label: _any_of(terms) for label, terms in phrases.FINDINGS.items()}
_EXCLUDED = {label: _any_of(terms) for label, terms in phrases.EXCLUDED.items()}
_STRUCTURES = {label: _compile(term) for label, term in phrases.STRUCTURES.items()}
_PSEUDO_NEGATIONS = _any_of(phrases.PSEUDO_NEGATIONS)
_NEGATIONS_BEFORE = _any_of(phrases.NEGATIONS_BEFORE)
_NEGATIONS_AFTER = _compile(rf"\W*(?:\w+\W+){{0,4}}?(?:{'|'.join(phrases.NEGATIONS_AFTER)})")
_NOT_STATED_BEFORE = _any_of(phrases.NOT_STATED_BEFORE)
_UNCERTAIN_STRONG_BEFORE = _any_of(phrases.UNCERTAIN_STRONG_BEFORE)
_UNCERTAIN_STRONG_AFTER = _compile(rf"\W*(?:\w+\W+){{0,6}}?(?:{phrases.UNCERTAIN_STRONG_AFTER})")
_UNCERTAIN_BEFORE = _any_of(phrases.UNCERTAIN_BEFORE)
_UNCERTAIN_AFTER = _compile(rf"\W*(?:\w+\W+){{0,3}}?(?:{'|'.join(phrases.UNCERTAIN_AFTER)})")
_CLAUSE_BREAK = _compile(phrases.CLAUSE_BREAK)
_PRESENT = _compile(phrases.PRESENT)
_INSTEAD = _compile(phrases.INSTEAD)
_OTHER_FINDINGS = _any_of(phrases.OTHER_FINDINGS)
_STRUCTURE_STATES = (
    (UNCERTAIN, phrases.BORDERLINE),
    (NEGATIVE, phrases.NORMAL),
    (POSITIVE, phrases.ENLARGED),
    (UNCERTAIN, phrases.UNCHANGED),
)
_UNCHANGED = f"s{len(_STRUCTURE_STATES) - 1}"
_STATE = _compile("|".join(rf"(?P<s{i}>\b(?:{words})\b)" for i, (_, words) in enumerate(_STRUCTURE_STATES)))
# How many words may be between a structure and its state.
_WORDS_AFTER, _WORDS_BEFORE = 12, 5


class _Context:
    """What the words around a mention say of it."""

    def __init__(self, sentence: str):
        self.sentence = sentence
        # Words that are no negation are blanked; positions stay.
        self.masked = _PSEUDO_NEGATIONS.sub(lambda match: "_" * len(match[0]), sentence)
        self.breaks = [match.span() for match in _CLAUSE_BREAK.finditer(sentence)]

    def _clause(self, start: int, end: int) -> tuple[int, int]:
        """Start and end of the clause that a mention is in."""
        before = [e for _, e in self.breaks if e <= start]
        after = [s for s, _ in self.breaks if s >= end]
        return max(before, default=0), min(after, default=len(self.sentence))

    def value_of_finding(self, start: int, end: int) -> float | None:
        clause_start, clause_end = self._clause(start, end)
        before, after = self.sentence[clause_start:start], self.sentence[end:clause_end]
        if _UNCERTAIN_STRONG_BEFORE.search(before) or _UNCERTAIN_STRONG_AFTER.match(after):
            return UNCERTAIN
        if _NOT_STATED_BEFORE.search(before):
            return None
        if self._negated_before(self.masked[clause_start:start], after):
            return NEGATIVE
        if _NEGATIONS_AFTER.match(self.masked[end:clause_end]):
            return NEGATIVE
        if _UNCERTAIN_BEFORE.search(before) or _UNCERTAIN_AFTER.match(after):
            return UNCERTAIN
        return POSITIVE

    def _negated_before(self, before: str, after: str) -> bool:
        cues = list(_NEGATIONS_BEFORE.finditer(before))
        if not cues:
            return False
        reach = before[cues[-1].end() :]
        if _INSTEAD.search(reach):
            return False
        ends = _PRESENT.search(reach)
        return not ends or bool(re.search(r"\b(?:or|nor)\b", reach[ends.end() :] + after))

    def value_of_structure(self, start: int, end: int) -> float | None:
        clause_start, clause_end = self._clause(start, end)
        before, after = self.sentence[clause_start:start], self.sentence[end:clause_end]
        for state in reversed(list(_STATE.finditer(before))):
            between = before[state.end() :]
            if len(re.findall(r"\w+", between)) <= _WORDS_BEFORE and "," not in between:
                return self._value_of_state(state)
        states = [m for m in _STATE.finditer(after) if len(re.findall(r"\w+", after[: m.start()])) <= _WORDS_AFTER]
        # "Stable" says less than what comes with it: "stable and enlarged".
        states.sort(key=lambda match: match.lastgroup == _UNCHANGED)
        return self._value_of_state(states[0]) if states else None

    @staticmethod
    def _value_of_state(state: re.Match) -> float:
        return _STRUCTURE_STATES[int(state.lastgroup[1:])][0]
