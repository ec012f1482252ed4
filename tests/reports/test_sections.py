"""Reports in the shapes of MIMIC-CXR (all text here is invented) and the real reports of Open-i."""

import io
import tarfile
import textwrap
import xml.etree.ElementTree as ET
from importlib.util import find_spec
from pathlib import Path

import pytest

from transformers_cxr.reports import compose_report, parse_report

MIMIC = """\
                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)
 
 INDICATION:  ___F with new onset of cough  // eval for pneumonia
 
 TECHNIQUE:  Chest PA and lateral
 
 COMPARISON:  ___.
 
 FINDINGS: 
 
 The lungs are clear.  There is no effusion
 or pneumothorax.
 
 Heart size is normal.
 
 IMPRESSION: 
 
 No acute cardiopulmonary process.
"""  # noqa: W291, W293


def test_sections_of_a_mimic_report_lose_line_breaks_and_nothing_else():
    findings = "The lungs are clear. There is no effusion or pneumothorax. Heart size is normal."
    for text in (MIMIC, MIMIC.replace("\n", "\r\n")):
        assert parse_report(text) == (findings, "No acute cardiopulmonary process.")


@pytest.mark.parametrize(
    "heading",
    [
        "FINDINGS:", "Findings\n", "finding :", "FINDINGS.", "FINDINGS --", "FINDGINGS:", "**FINDINGS:**",
        "Findings —", "FINDINGS;", "[FINDINGS]", "(Findings):", "REPORT:", "OBSERVATIONS:", "Results:",
        "CHEST, TWO VIEWS:", "PA AND LATERAL VIEWS OF THE CHEST:", "PORTABLE SEMI-UPRIGHT RADIOGRAPH:", "AP CHEST:",
    ],
)  # fmt: skip
def test_findings_are_found_under_every_spelling(heading):
    text = f"INDICATION:  Cough.\n\n{heading} Clear lungs, no effusion.\n\nIMPRESSION: Normal."
    assert parse_report(text) == ("Clear lungs, no effusion.", "Normal.")


@pytest.mark.parametrize(
    "heading",
    [
        "IMPRESSION:", "Impression\n", "impressions :", "IMPRESSION.", "IMPERSSION:", "IMPRESSION –", "[IMPRESSION]",
        "CONCLUSION:", "SUMMARY:", "Final diagnosis:", "ASSESSMENT:", "OPINION:", "FINDINGS/IMPRESSION:",
        "IMPRESSION AND FINDINGS:", "IMPRESSION AP CHEST:",
    ],
)  # fmt: skip
def test_impression_is_found_under_every_spelling(heading):
    assert parse_report(f"COMPARISON:  None.\n \n {heading}  No pneumonia.") == ("", "No pneumonia.")


WET_READ = " WET READ: ___ 8:19 AM\n  Left pneumonia.\n _______\n   FINAL REPORT\n INDICATION:  Fever.\n"
FINAL = " FINDINGS:  Right effusion.\n\n IMPRESSION:  Effusion.\n"


@pytest.mark.parametrize(
    ("text", "findings", "impression"),
    [
        # Headings in the middle of a line.
        ("COMPARISON: None. FINDINGS: Clear lungs. Impression: Normal chest.", "Clear lungs.", "Normal chest."),
        # Words, sub-headings and items of a list are no headings.
        ("FINDINGS: No change of the\nfindings\nat the left; the impression: edema.",
         "No change of the findings at the left; the impression: edema.", ""),
        ("FINDINGS:\n LUNGS: Clear.\n HEART: Normal.\nIMPRESSION:\n CHEST: 1. Normal.\n ABDOMEN: 2. Normal.",
         "LUNGS: Clear. HEART: Normal.", "CHEST: 1. Normal. ABDOMEN: 2. Normal."),
        ("IMPRESSION:\n 1. Effusion.\n 2. NOTE: CT is advised.\n 3) COMPARISON: smaller.\n\nNOTIFICATION: Dr. ___.",
         "", "1. Effusion. 2. NOTE: CT is advised. 3) COMPARISON: smaller."),
        ("IMPRESSION: Mass. DIFFERENTIAL DIAGNOSIS: Cyst.", "", "Mass. DIFFERENTIAL DIAGNOSIS: Cyst."),
        ("IMPRESSION: Nodule.\n\nRECOMMENDATION(S):  CT.\n\nNOTIFICATION:  Dr. ___ was called.", "", "Nodule."),
        # Long lines take no time.
        (f"IMPRESSION:\n{'BILATERAL ' * 60}", "", ("BILATERAL " * 60).strip()),
        # The last section with text counts; results and a diagnosis count only without others.
        ("DIAGNOSIS: R05.\nFINDINGS: Clear.\nIMPRESSION: Normal.\nRESULTS: Called.", "Clear.", "Normal."),
        ("IMPRESSION: Effusion.\n\nFINDINGS: Larger.\n\nIMPRESSION: New.\n\nIMPRESSION: ___", "Larger.", "New."),
        # Blanks of de-identification.
        ("FINDINGS: ___\n\nIMPRESSION: XXXX.", "", ""),
        ("", "", ""),
        ("IMPRESSION: As of ______, told Dr. [**Last Name**] at __.", "", "As of ___, told Dr. ___ at ___."),
        # Preliminary reads and addenda count only for sections that the final report lacks.
        (f"{WET_READ}{FINAL}", "Right effusion.", "Effusion."),
        (WET_READ, "", "Left pneumonia."),
        (f"{WET_READ}\n Small effusion.\n", "Small effusion.", "Left pneumonia."),
        ("PROVISIONAL FINDINGS IMPRESSION (PFI): No pneumothorax.\n", "", "No pneumothorax."),
        (f" FINAL ADDENDUM\n ADDENDUM:  Called.\n _____\n   FINAL REPORT\n{FINAL}", "Right effusion.", "Effusion."),
        (f"{FINAL}\n *****ADDENDUM*****\n\n IMPRESSION: Left.", "Right effusion.", "Effusion."),
        ("FINAL REPORT\n INDICATION: Cough.\n\n ADDENDUM:\n\n IMPRESSION: Effusion.", "", "Effusion."),
        # A sentence that ends with a doctor is no signature.
        ("IMPRESSION: New edema, discussed with\n Dr. ___.\n", "", "New edema, discussed with Dr. ___."),
        # Without either heading the paragraphs below the last heading are findings.
        (" FINAL REPORT\n REASON FOR EXAM:  Cough.\n \n AP film.\n \n Clear lungs.\n", "AP film. Clear lungs.", ""),
        ("LUNGS: Clear. HEART: Normal size.", "LUNGS: Clear. HEART: Normal size.", ""),
        ("INDICATION: Cough.\nLUNGS: Clear.\n\nHEART: Normal.", "LUNGS: Clear. HEART: Normal.", ""),
        ("                FINAL REPORT\n INDICATION:  Cough, fever.\n", "", ""),
    ],
)  # fmt: skip
def test_findings_and_impression_are_found(text, findings, impression):
    assert parse_report(text) == (findings, impression)


@pytest.mark.parametrize(
    "signature",
    [
        "Electronically signed by: Jane Roe, M.D.", "Dictated and signed by ___ on ___", "DR. ___ ___ ___",
        "J. Roe, MD", "APPROVED BY: ___ 10:15 AM", "DATE OF SERVICE: ___", "Signed by: ___\nTranscribed by ___",
    ],
)  # fmt: skip
def test_signatures_at_the_end_are_removed(signature):
    text = f"FINDINGS: Clear.\n\nIMPRESSION:\n 1. No change.\n\n {signature}\n"
    assert parse_report(text) == ("Clear.", "1. No change.")


@pytest.mark.parametrize(
    ("sections", "report"),
    [
        (("Clear.", "Normal."), "FINDINGS: Clear.\nIMPRESSION: Normal."),
        ((" Clear.\n", ""), "FINDINGS: Clear."),
        (("", "Normal."), "IMPRESSION: Normal."),
        (("", ""), ""),
    ],
)
def test_a_composed_report_has_the_sections_with_text_and_is_parsed_again(sections, report):
    assert compose_report(*sections) == report
    assert parse_report(report) == tuple(section.strip() for section in sections)


def in_mimic_shape(report):
    lines = [" " * 33 + "FINAL REPORT"]
    for name, text in report.items():
        lines += [f" {line}" for line in textwrap.wrap(f"{name}:  {text}", 78, break_on_hyphens=False)] + [" "]
    return "\n".join(lines)


def in_one_line(report):
    return " ".join(f"{name}: {text}" for name, text in report.items())


def below_names(report):
    return "\n\n".join(f"{name.title()}\n{text}" for name, text in report.items())


@pytest.fixture(scope="module")
def openi_reports():
    """The sections of 3,955 real reports, by number, as their XML has them."""
    folder = Path(find_spec("torchxrayvision").origin).parent
    reports = {}
    with tarfile.open(fileobj=io.BytesIO((folder / "data/NLMCXR_reports.tgz").read_bytes())) as archive:
        for member in archive:
            if member.name.endswith(".xml"):
                root = ET.parse(archive.extractfile(member)).getroot()
                texts = {item.get("Label"): " ".join((item.text or "").split()) for item in root.iter("AbstractText")}
                reports[int(Path(member.name).stem)] = {name: text for name, text in texts.items() if text}
    assert len(reports) == 3955
    return reports


def in_lower_case(report):
    return "\n\n".join(f"{name.lower()}: {text}" for name, text in report.items())


@pytest.mark.parametrize("written", [in_mimic_shape, in_one_line, below_names, in_lower_case])
def test_real_reports_are_parsed_as_their_xml_has_them(openi_reports, written):
    for number, report in openi_reports.items():
        expected = (report.get("FINDINGS", ""), report.get("IMPRESSION", ""))
        # The impression of 2415 holds the whole report again.
        assert number == 2415 or parse_report(written(report)) == expected
