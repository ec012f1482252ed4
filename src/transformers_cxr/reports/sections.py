"""Finding findings and impression in the free text of a radiology report."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from itertools import product

# What a heading may be called, by the section it begins.
_SPELLINGS = {
    "findings": "finding, findings, report, observation, observations, description, interpretation, reference findings",
    "impression": "impression, impressions, conclusion, conclusions, summary, opinion, final impression, "
    "findings and impression, findings/impression, findings / impression, findings/ impression, impression and findings, "
    "impression/findings",
    # These count where the report has nothing under one of the former.
    "results": "result, results",
    "diagnosis": "diagnosis, final diagnosis, assessment",
    "indication": "indication, indications, clinical indication, reason for exam, reason for examination, "
    "reason for this examination, reason for study, reason, clinical question, indication for study",
    "history": "history, clinical history, patient history, medical history, clinical information, clinical data, "
    "underlying medical condition, admitting diagnosis, clinical background",
    "comparison": "comparison, comparisons, comparison exam, comparison film, comparison study, comparison date, "
    "reference exam, prior study, prior studies, prior",
    "technique": "technique, techniques, procedure, procedure comments, contrast, dose, fluoroscopy time",
    "examination": "examination, examinations, exam, type of examination, type of exam, study, exam type, title",
    "recommendation": "recommendation, recommendations, recommendation(s), follow-up, follow up",
    "notification": "notification, notifications, communication, critical results, results communication",
    "comment": "comment, comments, note, notes, technologist's note, technologist note",
    "signature": "signed, signed by, dictated by, approved by, electronically signed by, interpreted by, transcribed by, "
    "reviewed by, read by, radiologist, attending, attending radiologist, date, date of service, date of exam, "
    "date of examination, dictated, approved, cc, to, from, job number",
    # What is below one of these, up to the next of them, is not (yet) the report.
    "final": "final report, final",
    "addendum": "addendum, final addendum, addenda, addendum to report",
    "preliminary": "wet read, wetread, wet read version, preliminary report, preliminary read, preliminary, pfi, "
    "provisional findings impression, provisional findings impression (pfi), provisional findings, initial report",
}
_SECTION_OF_SPELLING = {
    spelling.strip(): section for section, spellings in _SPELLINGS.items() for spelling in spellings.split(",")
}
_PARTS = ("final", "addendum", "preliminary")
_SECTIONS_OF = {"findings": ("findings", "results"), "impression": ("impression", "diagnosis")}
_TEXTS = sum(_SECTIONS_OF.values(), ())
# A mistyped heading ("IMPRESSON", "FINIDNGS") is close to one of these.
_OFTEN_MISTYPED = [
    spelling
    for spelling in _SECTION_OF_SPELLING
    if len(spelling) >= 7 and _SECTION_OF_SPELLING[spelling] in ("findings", "impression", "indication", "comparison")
]
# "CHEST, PA AND LATERAL:" and its like begin the findings of reports that do not say so.
_VIEW = re.compile(r"\b(?:chest|portable|views?|radiographs?|films?|frontal|lateral|pa|ap|upright|supine)\b")


def _names(*sections: str) -> str:
    """Longest first, so that a name is not taken for the end of a longer one."""
    names = [name for name, section in _SECTION_OF_SPELLING.items() if section in sections]
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


# "DIFFERENTIAL DIAGNOSIS:" is no heading in the middle of a line.
_INLINE_NAMES = _names(*(set(_SPELLINGS) - {"results", "diagnosis"})).upper()
# Headings that are known with any mark: a name such as "date" stands for a blank in brackets.
_MARKED_NAMES = _names(*_TEXTS, "indication", "history", "comparison", "technique")
_NAME = r"[A-Za-z][A-Za-z ()/,&'’-]{0,70}?"
_MARKS = r"[ \t*_#=>-]*"
_HEADING = re.compile(
    # A wet read may have its time beside it.
    r"^[ \t*_]*(?P<wet>WET ?READ)(?: VERSION)?(?: ?#\d+)?(?:[^\n]*\b[AP]M\b)?[ \t]*:?"
    # A line that begins with a name and a colon.
    rf"|^{_MARKS}(?P<line>{_NAME}){_MARKS}:[*_]*"
    # A name that has its line for itself, or, in capitals, is followed by a full stop, a dash or a wide space.
    rf"|^{_MARKS}(?P<alone>{_NAME}){_MARKS}$"
    r"|^[ \t*_]*(?P<capitals>FINDINGS?|IMPRESSIONS?|CONCLUSIONS?|COMPARISONS?|INDICATIONS?|HISTORY|TECHNIQUE)"
    r"(?:\.(?=\s)|[ \t]*-+|[ \t]{2,}|(?=[ \t]+(?:[A-Z]{1,2} )?[A-Z]?[a-z0-9]))"
    # A name in brackets, or with another mark than a colon.
    rf"|^{_MARKS}[\[(<](?P<bracketed>(?i:{_MARKED_NAMES}))[\])>][ \t]*[:;–—-]*"
    rf"|^{_MARKS}(?P<marked>(?i:{_MARKED_NAMES}))[ \t]*[;–—]+"
    # A name in the middle of a line, as in reports that lost their line breaks.
    rf"|(?<=\s)(?P<inline>{_INLINE_NAMES})[ \t]*:"
    r"|(?<=[.!?] )(?P<sentence>Findings|Impression|Conclusion|Comparison|Indication|Technique|History"
    r"|RESULTS?|FINAL DIAGNOSIS|DIAGNOSIS|ASSESSMENT)s?[ \t]*:",
    re.MULTILINE,
)
# "2. NOTE: ..." is an item of a list.
_NUMBER = re.compile(r"\s\d{1,2}[.)][ \t]*\Z")
_SIGNATURE = re.compile(
    r"(?i:(?:electronically |digitally )?(?:signed|dictated|approved|interpreted|reviewed|verified|transcribed|read|prepared)"
    r"(?:[ ,]+(?:and|&)? ?(?:signed|dictated|approved|interpreted|reviewed|electronically|finali[sz]ed))*"
    r" (?:by|on|at)\b.*|(?:job|transcription) ?(?:id|number|#).*)"
    # Nothing but names: "Dr. ___ ___", "A. B. Smith, M.D."
    r"|(?:D[Rr][Ss]?\.?|P[Rr][Oo][Ff]\.?)(?:,? +(?:[A-Z_][\w.'-]*|and))+[.,]?"
    r"|[A-Z_][\w.'-]*(?: [A-Z_][\w.'-]*){0,4}, ?(?:M\.?D\.?|D\.?O\.?|Ph\.?D\.?)[., ]*"
)
# Blanks of de-identification: "___" of MIMIC-CXR, "[** ... **]" of MIMIC-III, "XXXX" of Open-i.
_BLANK = re.compile(r"_{2,}|\[\*\*.*?\*\*\]")
_NO_WORD = re.compile(r"(?:_++|X{2,}+|\W|\d|\b(?:n/?a|none)\b)*+", re.IGNORECASE)


@dataclass(frozen=True)
class ReportSections:
    """
    findings (`str`): one line of text, "" where there are none.
    impression (`str`): one line of text, "" where there is none.
    """

    findings: str
    impression: str


def parse_report(text: str) -> ReportSections:
    """
    Finds the findings and the impression of a radiology report.

    Headings are found in capitals, in brackets or with a colon at the beginning of a line, alone in a line, or in capitals with
    a colon in the middle of one; in all usual spellings, and mistyped. "FINDINGS AND IMPRESSION" and "CONCLUSION" are an
    impression, the name of a view ("CHEST, TWO VIEWS:") begins findings where no heading does. Sub-headings ("LUNGS:") and
    items of a list ("2. NOTE:") stay in their text. Of several findings or impressions the last one that has text counts, as in
    MIMIC-CXR's own extraction (github MIT-LCP/mimic-cxr); results are findings, and a diagnosis or an assessment an impression,
    where there are no others. Wet reads, other preliminary reads and addenda count only where the report itself lacks the
    section. A report without either section gives as findings what stands in paragraphs of its own below the last heading, if
    anything does.

    Blanks of de-identification become "___" or stay as they are (Open-i's "XXXX"); rules, signatures at the end, and line
    breaks are removed. A section of nothing but blanks is none.

    Args:
        text (`str`): the report.

    Returns:
        [`ReportSections`]
    """
    text = _BLANK.sub("___", text.replace("\r\n", "\n").replace("\r", "\n"))
    # Lines of underscores, dashes or stars are rules.
    text = re.sub(r"^[ \t]*(?:___|[-=*]{3,})[ \t]*$", "", text, flags=re.MULTILINE)
    pieces = _pieces(text)
    found = _headed(pieces, _PARTS)
    if not _headed(pieces, ("final",)):
        found["findings"] = _unheaded(pieces) or found.get("findings", "")
    return ReportSections(found.get("findings", ""), found.get("impression", ""))


def compose_report(findings: str, impression: str) -> str:
    """
    Write a report as the model is trained on it and writes it.

    Args:
        findings (`str`): its findings, "" for a report without.
        impression (`str`): its impression, "" for a report without.

    Returns:
        `str`: "FINDINGS: ...\\nIMPRESSION: ...", or the one section that has text, or "".
    """
    sections = {"FINDINGS": findings.strip(), "IMPRESSION": impression.strip()}
    return "\n".join(f"{heading}: {text}" for heading, text in sections.items() if text)


def _headed(pieces: list[tuple[str, str, str]], parts: tuple[str, ...]) -> dict[str, str]:
    """The findings and the impression that stand under a heading, of the first of the parts that has them."""
    found = {}
    for wanted, sections in _SECTIONS_OF.items():
        for part in product(parts, sections):
            texts = [_clean(body) for *place, body in pieces if tuple(place) == part]
            if texts := [text for text in texts if not _NO_WORD.fullmatch(text)]:
                found[wanted] = texts[-1]
                break
    return found


def _pieces(text: str) -> list[tuple[str, str, str]]:
    """The text in order as (part of the report, section, body)."""
    pieces = [["final", "preamble", ""]]
    begin = place = 0
    while match := _HEADING.search(text, place):
        part, section, _ = pieces[-1]
        new = _section_of(match, section)
        if section in _TEXTS and new not in _TEXTS and _NUMBER.search(text, begin, match.start()):
            new = None
        if new is None:
            # A heading may follow in the middle of what looked like one.
            place = match.start() + 1 if match.lastgroup == "line" else match.end()
            continue
        pieces[-1][2] = text[begin : match.start()]
        begin = place = match.end()
        if new in _PARTS:
            # Text right below the name of the part is read as an impression, which a wet read and an addendum mostly are.
            pieces.append([new, "preamble" if new == "final" else "impression", ""])
        else:
            pieces.append([part, new, ""])
    pieces[-1][2] = text[begin:]
    return [tuple(piece) for piece in pieces]


def _section_of(match: re.Match, current: str) -> str | None:
    """The section that a heading begins, or `None` if it is none, or one within the current section."""
    kind = match.lastgroup
    name = match[kind].strip(" \t*_#")
    capitals = name.isupper()
    known = _known_section(name.lower(), capitals)
    if kind == "wet":
        return "preliminary"
    if kind == "alone":
        # A word that a line break has left alone is no heading.
        return known if name[0].isupper() and (capitals or name.istitle() or " " in name) else None
    if kind == "inline":
        return _SECTION_OF_SPELLING.get(name.lower())
    if known or kind != "line" or not capitals or len(name) < 2:
        # In lower case it must be spelled as it should.
        exact = kind == "line" and re.fullmatch(_MARKED_NAMES, name)
        return known if name[0].isupper() or exact else None
    if current in _TEXTS:
        return None
    return "findings" if _VIEW.search(name.lower()) else "other"


def _known_section(name: str, capitals: bool) -> str | None:
    name = re.sub(r"\s+", " ", name)
    if name in _SECTION_OF_SPELLING:
        return _SECTION_OF_SPELLING[name]
    if " " not in name and (close := difflib.get_close_matches(name, _OFTEN_MISTYPED, n=1, cutoff=0.82)):
        return _SECTION_OF_SPELLING[close[0]]
    if capitals:
        # "IMPRESSION AP CHEST", "COMPARISON TO PRIOR".
        for section in ("impression", "findings", "comparison", "addendum", "history", "indication"):
            if re.search(rf"\b{section}\b", name):
                return section
    return None


def _unheaded(pieces: list[tuple[str, str, str]]) -> str:
    """Paragraphs of their own below the last section that is neither a signature nor a preliminary read."""
    bodies = [
        body for part, section, body in pieces if part == "final" and section not in ("signature", "notification")
    ]
    if not bodies:
        return ""
    paragraphs = re.split(r"\n[ \t]*\n", bodies[-1].strip("\n"))
    # The first paragraph is the content of the heading; in a report without any heading it is the title, if it is no sentence.
    if len(bodies) > 1 or (len(paragraphs) > 1 and not re.search(r"[a-z]{3,}.*\.", paragraphs[0])):
        paragraphs = paragraphs[1:]
    text = _clean("\n\n".join(paragraphs))
    return "" if _NO_WORD.fullmatch(text) else text


def _clean(body: str) -> str:
    lines = [line.strip() for line in body.rstrip().split("\n")]
    while lines and (not lines[-1] or (_SIGNATURE.fullmatch(lines[-1]) and _ends_before_last(lines))):
        lines.pop()
    return " ".join(" ".join(lines).split())


def _ends_before_last(lines: list[str]) -> bool:
    """Whether a sentence or a paragraph ends before the last line, so that this is not the end of a wrapped sentence."""
    return len(lines) < 2 or not lines[-2] or lines[-2][-1] in ".!?:_" or bool(_SIGNATURE.fullmatch(lines[-2]))


__all__ = ["ReportSections", "compose_report", "parse_report"]
