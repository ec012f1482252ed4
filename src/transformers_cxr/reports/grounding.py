"""Grounding of questions and answers in the report that they were written from."""

from __future__ import annotations

import re

from .statements import affirms

_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\n+|(?<=\D)\.$")
# Words that leave a finding open.
_LEFT_OPEN = re.compile(
    r"\b(?:no|without) (?:\w+ ){0,2}change|\b(?:cannot|can not|could not|not) (?:be )?(?:\w+ )?(?:exclude|ruled? out)"
    r"|\brul(?:e|ing) out\b|\b(?:resolved|resolution|cleared|removed|removal)\b"
    r"|\b(?:may|might|could|possibl[ey]|possibility|probabl[ey]|unlikely|questionabl[ey]|question of|versus|vs)\b"
    r"|\b(?:suspected|(?:suspicio(?:us|n)|concern(?:ing)?) (?:for|of)|(?:evaluat|assess)\w* (?:for|of))\b"
)
_SIDES = {"left", "right"}
# Words of questions and answers, and words that fit every X-ray.
_EMPTY_WORDS = set(
    "a an the is are was were be been being has have had do does did of in on at to for from by with and or as it its "
    "this that these those there here what which where when who why how any some patient image x ray xray radiograph "
    "film study report chest show shows showed shown see seen sign evidence visible present presence noted identified "
    "found finding indicate suggest describe described can could would should will may might must i you we he she "
    "they no not without yes none nor neither absent free negative".split()
)


def grounding_error(question: str, answer: str, report: str) -> str | None:
    """
    Return why a report does not support an answer, by words and negations alone.

    The check is strict: it may refuse an answer in other words than those of the report.

    - "Yes" and "No": at least one sentence of the report has all content words of the question, and each such sentence
      affirms or negates them as the answer does. What follows "Yes" or "No" is checked as any other answer.
    - Any other answer: all its content words, numbers included, are in the report or the question. For each sentence
      of the answer, at least one sentence of the report has all content words that the question does not have, and
      each such sentence affirms or negates them as the answer does.

    A sentence of the report that leaves a finding open ("possible", "cannot be excluded", "no change in", "resolved"),
    or that names the other side than question and answer, supports only an answer that says the same.

    Args:
        question (`str`): the question.
        answer (`str`): its answer.
        report (`str`): the report that question and answer were written from.

    Returns:
        `str`, *optional*: the reason to refuse the answer, or `None` if the report supports it.
    """
    if not question.endswith("?"):
        return "not a question"
    report_sentences = [sentence for sentence in _SENTENCE_END.split(report.lower()) if sentence.strip()]
    # "No" may be the whole answer, or the first word of it: "No pleural effusion."
    if yes_or_no := re.match(r"\W*(yes|no)\b", answer.lower()):
        is_yes = yes_or_no[1] == "yes"
        if reason := _claim_error(_words(question), is_yes, question, report_sentences):
            return reason
        rest = answer[yes_or_no.end() :].strip(" ,.;:")
        answer = rest if is_yes else f"no {rest}"
        if not _words(answer):
            return None
    if not _words(answer):
        return "the answer says nothing"
    if foreign := sorted(_words(answer) - _words(report) - _words(question)):
        return f"not in the report: {', '.join(foreign)}"
    for sentence in _SENTENCE_END.split(answer.lower()):
        words = _words(sentence) - _words(question) or _words(sentence)
        claim = f"{question} {sentence}"
        if words and (reason := _claim_error(words, _is_affirmed(sentence, words), claim, report_sentences)):
            return reason
    return None


def _claim_error(words: set[str], affirmed: bool, claim: str, report_sentences: list[str]) -> str | None:
    """Return why a report does not affirm or negate words as a claim, which consists of question and answer, does."""
    if not words:
        return "the question names nothing"
    matching = [sentence for sentence in report_sentences if words <= _words(sentence)]
    if not matching:
        return "no sentence of the report is about it"
    if any(_is_affirmed(sentence, words) != affirmed for sentence in matching):
        return "the report says otherwise"
    if not _LEFT_OPEN.search(claim.lower()) and any(_LEFT_OPEN.search(sentence) for sentence in matching):
        return "the report leaves it open"
    sides = _SIDES & _words(claim)
    if len(sides) == 1 and any(_SIDES - sides & _words(sentence) for sentence in matching):
        return "the report names another side"
    return None


def _is_affirmed(sentence: str, words: set[str]) -> bool:
    return all(affirms(sentence, rf"\b{re.escape(word)}\w*") for word in words)


def _words(text: str) -> set[str]:
    """Return content words in lower case, without plural endings."""
    words = re.findall(r"[a-z]+|\d+(?:\.\d+)?", text.lower())
    return {re.sub(r"(?<=[a-z]{3})(?<!s)(?<!u)s$", "", word) for word in words} - _EMPTY_WORDS
