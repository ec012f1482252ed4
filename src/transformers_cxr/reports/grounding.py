"""Grounding of questions and answers in the report that they were written from."""

from __future__ import annotations

import re

from .statements import affirms


def grounding_error(question: str, answer: str, report: str) -> str | None:
    """
    Checks that a report supports an answer, by words and negations alone. It is strict: what it lets pass is said in the
    report, while an answer in other words than the report's is refused.

    - "Yes" and "No": some sentence of the report has all content words of the question, and each such sentence affirms or
      denies them as the answer does. What follows the first word is checked as any other answer.
    - Any other answer: all its content words, numbers included, are in the report, and for each of its sentences some sentence
      of the report has all its content words that the question does not have, and each such sentence affirms or denies them
      alike.

    A sentence of the report that leaves it open ("possible", "may represent", "cannot be excluded", "no change in",
    "resolved"), or that names the other side than question and answer do, supports only what says the same.

    Args:
        question (`str`): the question.
        answer (`str`): its answer.
        report (`str`): the report that it was written from.

    Returns:
        `str`, *optional*: the reason to refuse it, or `None`.
    """
    if not question.endswith("?"):
        return "not a question"
    report_sentences = [sentence for sentence in _SENTENCE_END.split(report.lower()) if sentence.strip()]
    first = re.match(r"\W*(yes|no)\b", answer.lower())
    # "No" may be the whole answer, or the first word of it: "No pleural effusion."
    if first:
        rest = answer[first.end() :].strip(" ,.;:")
        if reason := _why_not_said(_words(question), first[1] == "yes", question, report_sentences):
            return reason
        answer = rest if first[1] == "yes" else f"no {rest}"
        if not _words(answer):
            return None
    known = _words(report)
    if not _words(answer):
        return "the answer says nothing"
    if foreign := sorted(_words(answer) - known - _words(question)):
        return f"not in the report: {', '.join(foreign)}"
    for sentence in _SENTENCE_END.split(answer.lower()):
        words = _words(sentence)
        own = words - _words(question) or words
        claim = f"{question} {sentence}"
        if own and (reason := _why_not_said(own, _is_affirmed(sentence, own), claim, report_sentences)):
            return reason
    return None


def _why_not_said(words: set[str], affirmed: bool, claim: str, report_sentences: list[str]) -> str | None:
    if not words:
        return "the question names nothing"
    about = [sentence for sentence in report_sentences if words <= _words(sentence)]
    if not about:
        return "no sentence of the report is about it"
    if any(_is_affirmed(sentence, words) != affirmed for sentence in about):
        return "the report says otherwise"
    if not _LEFT_OPEN.search(claim.lower()) and any(_LEFT_OPEN.search(sentence) for sentence in about):
        return "the report leaves it open"
    sides = _SIDES & _words(claim)
    if len(sides) == 1 and any(_SIDES - sides & _words(sentence) for sentence in about):
        return "the report names another side"
    return None


def _is_affirmed(sentence: str, words: set[str]) -> bool:
    return all(affirms(sentence, rf"\b{re.escape(word)}\w*") for word in words)


def _words(text: str) -> set[str]:
    """Content words in lower case, without endings of the plural."""
    words = re.findall(r"[a-z]+|\d+(?:\.\d+)?", text.lower())
    return {re.sub(r"(?<=[a-z]{3})(?<!s)(?<!u)s$", "", word) for word in words} - _EMPTY_WORDS


_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\n+|(?<=\D)\.$")
# What a sentence with one of these says of a finding, words and negations do not tell.
_LEFT_OPEN = re.compile(
    r"\b(?:no|without) (?:\w+ ){0,2}change|\b(?:cannot|can not|could not|not) (?:be )?(?:\w+ )?(?:exclude|ruled? out)"
    r"|\brul(?:e|ing) out\b|\b(?:resolved|resolution|cleared|removed|removal)\b"
    r"|\b(?:may|might|could|possibl[ey]|possibility|probabl[ey]|unlikely|questionabl[ey]|question of|versus|vs)\b"
    r"|\b(?:suspected|(?:suspicio(?:us|n)|concern(?:ing)?) (?:for|of)|(?:evaluat|assess)\w* (?:for|of))\b"
)
_SIDES = {"left", "right"}
# Words that ask and answer, and words that are said of every X-ray.
_EMPTY_WORDS = set(
    "a an the is are was were be been being has have had do does did of in on at to for from by with and or as it its this "
    "that these those there here what which where when who why how any some patient image x ray xray radiograph film study "
    "report chest show shows showed shown see seen sign evidence visible present presence noted identified found finding "
    "indicate suggest describe described can could would should will may might must i you we he she they no not without yes "
    "none nor neither absent free negative".split()
)
