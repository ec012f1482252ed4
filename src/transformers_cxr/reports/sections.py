"""Sections of radiology reports: parse findings and impression from free text, and compose a report of them."""

from __future__ import annotations

import re
from typing import NamedTuple

# Headings by the section that they begin, misspelled ones included.
_SPELLINGS = {
    "findings": "finding, findings, report, observation, observations, description, interpretation, "
    "reference findings, "
    "fidings, fidnings, findigns, findindgs, findgings, findigs, findinds, findines, findins, findngs, findnigs, "
    "findnings, finidings, finidngs, finings, fnidings, indings",
    "impression": "impression, impressions, conclusion, conclusions, summary, opinion, final impression, "
    "findings and impression, findings/impression, findings / impression, findings/ impression, "
    "impression and findings, impression/findings, "
    "imperssion, impession, impresion, impressin, impressino, impressio, impressiom, impressiong, impressionn, "
    "impressoin, impresson, impress, impresssion, imprression, imprssion, imression, imrpession, ipmression, "
    "ipression, mpression, conclsuion, conclsion, conclusoin",
    # Taken for findings and impression only if the report has no others.
    "results": "result, results",
    "diagnosis": "diagnosis, final diagnosis, assessment",
    "indication": "indication, indications, clinical indication, reason for exam, reason for examination, "
    "reason for this examination, reason for study, reason, clinical question, indication for study, "
    "indicaiton, indicaton, indciation, indiction",
    "history": "history, clinical history, patient history, medical history, clinical information, clinical data, "
    "underlying medical condition, admitting diagnosis, clinical background",
    "comparison": "comparison, comparisons, comparison exam, comparison film, comparison study, comparison date, "
    "reference exam, prior study, prior studies, prior, "
    "comaprison, comparision, comparsion, comparson, comparions",
    "technique": "technique, techniques, procedure, procedure comments, contrast, dose, fluoroscopy time",
    "examination": "examination, examinations, exam, type of examination, type of exam, study, exam type, title",
    "recommendation": "recommendation, recommendations, recommendation(s), follow-up, follow up",
    "notification": "notification, notifications, communication, critical results, results communication",
    "comment": "comment, comments, note, notes, technologist's note, technologist note",
    "signature": "signed, signed by, dictated by, approved by, electronically signed by, interpreted by, "
    "transcribed by, reviewed by, read by, radiologist, attending, attending radiologist, date, date of service, "
    "date of exam, date of examination, dictated, approved, cc, to, from, job number",
    # Parts of a report: what follows one of these, up to the next, is not (yet) the final report.
    "final": "final report, final",
    "addendum": "addendum, final addendum, addenda, addendum to report",
    "preliminary": "wet read, wetread, wet read version, preliminary report, preliminary read, preliminary, pfi, "
    "provisional findings impression, provisional findings impression (pfi), provisional findings, initial report",
}
_SECTION_OF_SPELLING = {
    spelling.strip(): section for section, spellings in _SPELLINGS.items() for spelling in spellings.split(",")
}
_PARTS = ("final", "addendum", "preliminary")
_FINDINGS, _IMPRESSION = ("findings", "results"), ("impression", "diagnosis")
_TEXTS = _FINDINGS + _IMPRESSION


def _spellings(*sections: str) -> str:
    """Return a pattern of the spellings of sections, the longest first."""
    spellings = [spelling for spelling, section in _SECTION_OF_SPELLING.items() if section in sections]
    return "|".join(re.escape(spelling) for spelling in sorted(spellings, key=len, reverse=True))


_ANY = _spellings(*_SPELLINGS)
# These are also found in lower case and with another mark than a colon.
_MAIN = _spellings(*_TEXTS, "indication", "history", "comparison", "technique")
# "DIFFERENTIAL DIAGNOSIS:" in the middle of a line is not a heading.
_INLINE = _spellings(*(set(_SPELLINGS) - {"results", "diagnosis"})).upper()
_MARKS = r"[ \t*_#=>-]*"
_HEADING = re.compile(
    # "WET READ: ___ 8:19 AM"
    r"^[ \t*_]*(?P<wet>WET ?READ)(?: VERSION)?(?: ?#\d+)?(?:[^\n]*\b[AP]M\b)?[ \t]*:?"
    # "FINDINGS:", "Clinical history:", "**Impression**:"
    rf"|^{_MARKS}(?P<colon>(?=[A-Z])(?i:{_ANY})|(?i:{_MAIN})){_MARKS}:[*_]*"
    # "FINDINGS" on a line of its own.
    rf"|^{_MARKS}(?P<alone>(?=[A-Z])(?i:{_ANY})){_MARKS}$"
    # "[FINDINGS]", "Impression –"
    rf"|^{_MARKS}[\[(<](?P<bracketed>(?i:{_MAIN}))[\])>][ \t]*[:;–—-]*"
    rf"|^{_MARKS}(?P<dash>(?i:{_MAIN}))[ \t]*[;–—]+"
    # "IMPRESSION. Normal.", "IMPRESSION  Normal.", "IMPRESSION No effusion."
    r"|^[ \t*_]*(?P<capitals>FINDINGS?|IMPRESSIONS?|CONCLUSIONS?|COMPARISONS?|INDICATIONS?|HISTORY|TECHNIQUE)"
    r"(?:\.(?=\s)|[ \t]*-+|[ \t]{2,}|(?=[ \t]+(?:[A-Z]{1,2} )?[A-Z]?[a-z0-9]))"
    # "IMPRESSION AP CHEST:", "CHEST, TWO VIEWS:" and other names in capitals.
    rf"|^{_MARKS}(?P<other>[A-Z][A-Z ()/,&'’-]{{1,70}}?){_MARKS}:[*_]*"
    # In the middle of a line, for reports that lost their line breaks.
    rf"|(?<=\s)(?P<inline>{_INLINE})[ \t]*:"
    r"|(?<=[.!?] )(?P<sentence>Findings?|Impressions?|Conclusions?|Comparisons?|Indications?|Technique|History"
    r"|RESULTS?|FINAL DIAGNOSIS|DIAGNOSIS|ASSESSMENT)[ \t]*:",
    re.MULTILINE,
)
# "CHEST, PA AND LATERAL:" begins the findings of a report that does not name them.
_VIEW = re.compile(r"\b(?:chest|portable|views?|radiographs?|films?|frontal|lateral|pa|ap|upright|supine)\b")
# A paragraph ends at an empty line and before a sub-heading.
_PARAGRAPH_END = re.compile(r"\n[ \t]*\n|\n(?=[ \t]*[A-Z][A-Z ]+:)")
_ENDINGS = ("signature", "notification")
# "2. NOTE: ..." is an item of a list.
_NUMBER = re.compile(r"\s\d{1,2}[.)][ \t]*\Z")
_SIGNATURE = re.compile(
    r"(?i:(?:electronically |digitally )?"
    r"(?:signed|dictated|approved|interpreted|reviewed|verified|transcribed|read|prepared)"
    r"(?:[ ,]+(?:and|&)? ?(?:signed|dictated|approved|interpreted|reviewed|electronically|finali[sz]ed))*"
    r" (?:by|on|at)\b.*|(?:job|transcription) ?(?:id|number|#).*)"
    # Nothing but names: "Dr. ___ ___", "A. B. Smith, M.D."
    r"|(?:D[Rr][Ss]?\.?|P[Rr][Oo][Ff]\.?)(?:,? +(?:[A-Z_][\w.'-]*|and))+[.,]?"
    r"|[A-Z_][\w.'-]*(?: [A-Z_][\w.'-]*){0,4}, ?(?:M\.?D\.?|D\.?O\.?|Ph\.?D\.?)[., ]*"
)
# Blanks of de-identification: "___" in MIMIC-CXR, "[** ... **]" in MIMIC-III, "XXXX" in Open-i.
_BLANK = re.compile(r"_{2,}|\[\*\*.*?\*\*\]")
_NO_WORD = re.compile(r"(?:_++|X{2,}+|\W|\d|\b(?:n/?a|none)\b)*+", re.IGNORECASE)


class ReportSections(NamedTuple):
    """
    Findings and impression of a report.

    findings (`str`): one line of text, "" if the report has no findings.
    impression (`str`): one line of text, "" if the report has no impression.
    """

    findings: str
    impression: str


def parse_report(text: str) -> ReportSections:
    """
    Find the findings and the impression of a radiology report.

    - A heading is a known name, in any usual spelling or frequent misspelling: with a colon at the beginning of a
      line, on a line of its own, in brackets, or in capitals with a colon in the middle of a line. Sub-headings
      ("LUNGS:") and items of a list ("2. NOTE:") stay in their section.
    - "FINDINGS AND IMPRESSION" and "CONCLUSION" are an impression. Without a heading of findings, the name of a view
      ("CHEST, TWO VIEWS:") begins them. "RESULTS" count as findings, and "DIAGNOSIS" and "ASSESSMENT" as impression,
      if there are no others.
    - Of several findings or impressions the last one that has text counts, as in MIMIC-CXR's own extraction
      (https://github.com/MIT-LCP/mimic-cxr). Preliminary reads ("WET READ") and addenda count only if the final report
      lacks the section.
    - The findings of a report without either heading are its paragraphs below the last known heading.
    - Blanks of de-identification become "___" or stay (Open-i's "XXXX"); a section of nothing but blanks is empty.
      Rules, signatures at the end and line breaks are removed.

    Args:
        text (`str`): the report.

    Returns:
        [`ReportSections`]
    """
    text = _BLANK.sub("___", text.replace("\r\n", "\n").replace("\r", "\n"))
    # Lines of underscores, dashes, equals signs or stars are rules.
    text = re.sub(r"^[ \t]*(?:___|[-=*]{3,})[ \t]*$", "", text, flags=re.MULTILINE)
    pieces = _pieces(text)
    findings, impression = (_last_text(pieces, "final", sections) for sections in (_FINDINGS, _IMPRESSION))
    if not findings and not impression:
        findings = _text_without_heading(pieces)
    for part in ("addendum", "preliminary"):
        findings = findings or _last_text(pieces, part, _FINDINGS)
        impression = impression or _last_text(pieces, part, _IMPRESSION)
    return ReportSections(findings, impression)


def compose_report(findings: str, impression: str) -> str:
    """
    Write findings and impression as the report that LLM-CXR is trained on.

    Args:
        findings (`str`): the findings, or "".
        impression (`str`): the impression, or "".

    Returns:
        `str`: "FINDINGS: ...\\nIMPRESSION: ...", without the section that is empty.
    """
    sections = {"FINDINGS": findings.strip(), "IMPRESSION": impression.strip()}
    return "\n".join(f"{heading}: {text}" for heading, text in sections.items() if text)


def _pieces(text: str) -> list[tuple[str, str, str]]:
    """Split a report into (part, section, text) in order."""
    pieces = []
    part, section, begin, place = "final", "preamble", 0, 0
    while match := _HEADING.search(text, place):
        new = _section_of(match, section)
        if section in _TEXTS and new not in _TEXTS and _NUMBER.search(text, begin, match.start()):
            new = None
        if new is None:
            # A heading may follow in the middle of what looked like one.
            place = match.start() + 1 if match.lastgroup == "other" else match.end()
            continue
        pieces.append((part, section, text[begin : match.start()]))
        begin = place = match.end()
        part, section = (new, "preamble") if new in _PARTS else (part, new)
        if section == "preamble" and part != "final":
            # Text right below the heading of a wet read or an addendum is mostly an impression.
            section = "impression"
    return [*pieces, (part, section, text[begin:])]


def _section_of(match: re.Match, current: str) -> str | None:
    """Return the section that a heading begins, or `None` for a sub-heading of the current section."""
    name = match[match.lastgroup].lower()
    if name in _SECTION_OF_SPELLING:
        return _SECTION_OF_SPELLING[name]
    # "IMPRESSION AP CHEST", "COMPARISON TO PRIOR"
    for section in ("impression", "findings", "comparison", "addendum", "history", "indication"):
        if re.search(rf"\b{section}\b", name):
            return section
    return "findings" if current not in _TEXTS and _VIEW.search(name) else None


def _last_text(pieces: list[tuple[str, str, str]], part: str, sections: tuple[str, ...]) -> str:
    """Return the last text of the first of the sections that has any in this part of the report."""
    for section in sections:
        texts = [_one_line(text) for *place, text in pieces if place == [part, section]]
        if texts := [text for text in texts if not _NO_WORD.fullmatch(text)]:
            return texts[-1]
    return ""


def _text_without_heading(pieces: list[tuple[str, str, str]]) -> str:
    """Return the paragraphs below the last heading of a report whose headings name neither findings nor impression."""
    texts = [(section, text) for part, section, text in pieces if part == "final" and section not in _ENDINGS]
    if not texts:
        return ""
    section, text = texts[-1]
    paragraphs = _PARAGRAPH_END.split(text.strip("\n"))
    # The first paragraph belongs to the heading; without any heading it is a title, unless it is a sentence.
    if section != "preamble" or (len(paragraphs) > 1 and not re.search(r"[a-z]{3,}.*\.|[A-Za-z]:", paragraphs[0])):
        paragraphs = paragraphs[1:]
    text = _one_line("\n\n".join(paragraphs))
    return "" if _NO_WORD.fullmatch(text) else text


def _one_line(text: str) -> str:
    """Join the lines of a text and remove signatures at its end."""
    lines = [line.strip() for line in text.rstrip().split("\n")]
    while lines and (not lines[-1] or (_SIGNATURE.fullmatch(lines[-1]) and _is_sentence_end(lines[:-1]))):
        lines.pop()
    return " ".join(" ".join(lines).split())


def _is_sentence_end(lines: list[str]) -> bool:
    # Otherwise what looks like a signature is the end of a sentence that is wrapped: "discussed with\nDr. ___."
    return not lines or not lines[-1] or lines[-1][-1] in ".!?:_" or bool(_SIGNATURE.fullmatch(lines[-1]))
