"""Pneumonia, its cause and negation in the text of a report."""

from __future__ import annotations

import re

# A negation reaches to the end of its clause, over commas: "no effusion, mass or pneumonia".
_CLAUSE_END = re.compile(r"[.;:?!\n]|\b(?:but|however|although|except|other than|apart from)\b")
_NEGATION_BEFORE = re.compile(r"\b(?:no|not|nor|neither|without|negative for|free of|absence of)\b")
_NEGATION_AFTER = re.compile(
    r"(?: \w+)? (?:is|are|was|were) (?:absent|excluded|ruled out|not (?:seen|present|found|visible))\b"
)
_PNEUMONIA = r"\w*pneumonia\b"
_OTHER_LABEL = (
    r"\b(?:atelectasis|cardiomegaly|consolidations?|edema|effusions?|emphysema|fibrosis|hernia|infiltrat(?:ion|es?)"
    r"|mass(?:es)?|nodules?|pleural thickening|pneumothorax)\b"
)
_NORMAL = r"\b(?:normal|unremarkable)\b"
# "no finding label is given" says nothing of the X-ray.
_NO_FINDING = re.compile(r"\bno (?:\w+ ){0,2}(?:findings?|abnormality|abnormalities|disease|process)\b(?! labels?\b)")


def finding_of_report(text: str) -> str | None:
    """
    Reads from a report what it says of pneumonia.

    The impression decides; the whole text is read where the impression says neither, or is missing. A negated pneumonia
    counts as normal unless another finding is affirmed beside it.

    Args:
        text (`str`): a report, or one section of a report without its heading.

    Returns:
        `str`, *optional*: "normal", "pneumonia", or `None` if neither is stated.
    """
    text = text.lower()
    return _finding_of_section(_impression(text)) or _finding_of_section(text)


def etiology_of_report(text: str) -> str | None:
    """
    Reads from a report the cause that it names for pneumonia, first from the impression, then from the whole text.

    Args:
        text (`str`): a report, or one section of a report without its heading.

    Returns:
        `str`, *optional*: "bacterial", "viral", or `None` if neither or both are affirmed.
    """
    text = text.lower()
    return _etiology_of_section(_impression(text)) or _etiology_of_section(text)


def affirms(text: str, term: str) -> bool:
    """
    Whether a clause of a text has a term with no negation before or after it ("no", "without", "... is absent").

    Args:
        text (`str`): in lower case.
        term (`str`): a regular expression.
    """
    for clause in _CLAUSE_END.split(text):
        for match in re.finditer(term, clause):
            negated_before = _NEGATION_BEFORE.search(clause, 0, match.start())
            if not negated_before and not _NEGATION_AFTER.match(clause, match.end()):
                return True
    return False


def _impression(text: str) -> str:
    return text.partition("impression:")[2]


def _finding_of_section(text: str) -> str | None:
    if affirms(text, _PNEUMONIA):
        return "pneumonia"
    if affirms(text, _OTHER_LABEL):
        return None
    if affirms(text, _NORMAL) or _NO_FINDING.search(text) or re.search(_PNEUMONIA, text):
        return "normal"
    return None


def _etiology_of_section(text: str) -> str | None:
    affirmed = [etiology for etiology in ("bacterial", "viral") if affirms(text, rf"\b{etiology}\b")]
    return affirmed[0] if len(affirmed) == 1 else None
