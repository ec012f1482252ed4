"""Statements in reports: normal or pneumonia, its cause, and affirmed or negated terms."""

from __future__ import annotations

import re

from .sections import parse_report

# A negation reaches to the end of its clause, over commas: "no effusion, mass or pneumonia".
_CLAUSE_END = re.compile(r"[.;:?!\n]|\b(?:but|however|although|except|other than|apart from)\b")
_NEGATION_BEFORE = re.compile(r"\b(?:no|not|nor|neither|without|negative for|free of|absence of)\b")
_NEGATION_AFTER = re.compile(
    r"(?: \w+)? (?:is|are|was|were) (?:absent|excluded|ruled out|not (?:seen|present|found|visible))\b"
)
_PNEUMONIA = r"\w*pneumonia\b"
_OTHER_FINDING = (
    r"\b(?:atelectasis|cardiomegaly|consolidations?|edema|effusions?|emphysema|fibrosis|hernia|infiltrat(?:ion|es?)"
    r"|mass(?:es)?|nodules?|pleural thickening|pneumothorax)\b"
)
_NORMAL = r"\b(?:normal|unremarkable)\b"
# "No finding label is given" says nothing about the X-ray.
_NO_FINDING = re.compile(r"\bno (?:\w+ ){0,2}(?:findings?|abnormality|abnormalities|disease|process)\b(?! labels?\b)")


def finding_of_report(report: str) -> str | None:
    """
    Return whether a report says normal or pneumonia.

    The impression decides, or the whole report if the impression is missing or says neither. A negated pneumonia means
    normal unless the text affirms another finding.

    Args:
        report (`str`): a report, or one section without its heading.

    Returns:
        `str`, *optional*: "normal", "pneumonia", or `None` if the report says neither.
    """
    return _finding(parse_report(report).impression.lower()) or _finding(report.lower())


def etiology_of_report(report: str) -> str | None:
    """
    Return the cause of pneumonia that a report names, first in its impression, then in the whole text.

    Args:
        report (`str`): a report, or one section without its heading.

    Returns:
        `str`, *optional*: "bacterial", "viral", or `None` if the report affirms neither or both.
    """
    return _etiology(parse_report(report).impression.lower()) or _etiology(report.lower())


def affirms(text: str, term: str) -> bool:
    """
    Return whether a clause has a term without a negation before or after it ("no", "without", "... is absent").

    Args:
        text (`str`): text in lower case.
        term (`str`): a regular expression.
    """
    for clause in _CLAUSE_END.split(text):
        for match in re.finditer(term, clause):
            negated_before = _NEGATION_BEFORE.search(clause, 0, match.start())
            if not negated_before and not _NEGATION_AFTER.match(clause, match.end()):
                return True
    return False


def _finding(text: str) -> str | None:
    if affirms(text, _PNEUMONIA):
        return "pneumonia"
    if affirms(text, _OTHER_FINDING):
        return None
    is_normal = affirms(text, _NORMAL) or _NO_FINDING.search(text) or re.search(_PNEUMONIA, text)
    return "normal" if is_normal else None


def _etiology(text: str) -> str | None:
    affirmed = [etiology for etiology in ("bacterial", "viral") if affirms(text, rf"\b{etiology}\b")]
    return affirmed[0] if len(affirmed) == 1 else None
