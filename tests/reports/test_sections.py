"""Reports in the shapes of MIMIC-CXR (all text here is invented) and the real reports of Open-i."""

import io
import tarfile
import textwrap
import xml.etree.ElementTree as ET
from importlib.util import find_spec
from pathlib import Path

import pytest

from transformers_cxr.reports.sections import parse_report

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
"""  # noqa: W293


def sections(text):
    report = parse_report(text)
    return report.findings, report.impression


def test_sections_of_a_mimic_report_lose_line_breaks_and_nothing_else():
    findings = "The lungs are clear. There is no effusion or pneumothorax. Heart size is normal."
    assert sections(MIMIC) == (findings, "No acute cardiopulmonary process.")


def test_line_ends_of_windows_make_no_difference():
    assert sections(MIMIC.replace("\n", "\r\n")) == sections(MIMIC)


@pytest.mark.parametrize(
    "heading",
    [
        "FINDINGS:", "Findings:", "FINDINGS", "Findings\n", "FINDING:", "FINDINGS :", "FINDINGS.", "FINDINGS --",
        "FINIDNGS:", "FINDNGS:", "FINDGINGS:", "**FINDINGS:**", "_FINDINGS_:", "REPORT:", "OBSERVATIONS:",
        "findings:", "FINDINGS –", "Findings —", "FINDINGS;", "[FINDINGS]", "(Findings):", "RESULT:", "Results:",
        "CHEST, TWO VIEWS:", "PA AND LATERAL VIEWS OF THE CHEST:", "PORTABLE SEMI-UPRIGHT CHEST RADIOGRAPH:", "AP CHEST:",
    ],
)  # fmt: skip
def test_findings_are_found_under_every_spelling(heading):
    text = f"INDICATION:  Cough.\n\n{heading} Clear lungs, no effusion.\n\nIMPRESSION: Normal."
    assert sections(text) == ("Clear lungs, no effusion.", "Normal.")


@pytest.mark.parametrize(
    "heading",
    [
        "IMPRESSION:", "Impression:", "IMPRESSION", "Impression\n", "IMPRESSION :", "IMPRESSION.", "IMPRESSION --",
        "IMPRESSIONS:", "IMPRESSON:", "IMPERSSION:", "MPRESSION:", "IMPRESION:", "CONCLUSION:", "Conclusions:", "SUMMARY:",
        "impression:", "IMPRESSION –", "Impression —", "IMPRESSION;", "[IMPRESSION]", "(Impression):", "DIAGNOSIS:",
        "Final diagnosis:", "ASSESSMENT:", "OPINION:", "FINDINGS AND IMPRESSION:", "FINDINGS/IMPRESSION:",
        "IMPRESSION AND FINDINGS:", "IMPRESSION AP CHEST:",
    ],
)  # fmt: skip
def test_impression_is_found_under_every_spelling(heading):
    assert sections(f"COMPARISON:  None.\n \n {heading}  No pneumonia.") == ("", "No pneumonia.")


def test_headings_without_line_breaks_are_found_in_capitals_and_after_sentences():
    text = "INDICATION: Cough. COMPARISON: None. FINDINGS: Clear lungs. Impression: Normal chest."
    assert sections(text) == ("Clear lungs.", "Normal chest.")


def test_heading_after_text_without_a_full_stop_is_found():
    assert sections("FINDINGS: Clear lungs IMPRESSION: Normal") == ("Clear lungs", "Normal")
    assert sections("FINDINGS:\nClear lungs IMPRESSION: Normal") == ("Clear lungs", "Normal")


def test_long_lines_of_capitals_and_blanks_take_no_time():
    line = " ".join(["BILATERAL"] * 60)
    assert sections(f"IMPRESSION:\n{line}") == ("", line)
    assert sections("IMPRESSION: " + "XXXX " * 60 + "X") == ("", ("XXXX " * 60 + "X"))


def test_words_of_a_sentence_are_no_headings():
    text = (
        "FINDINGS: No change of the\nfindings\nin the left lung; the impression: mild edema.\nIMPRESSION: Mild edema."
    )
    assert sections(text) == ("No change of the findings in the left lung; the impression: mild edema.", "Mild edema.")


def test_sub_headings_stay_in_their_section():
    text = "FINDINGS:\n LUNGS: Clear.\n HEART AND MEDIASTINUM: Normal.\nIMPRESSION:\n CHEST: 1. Normal.\n ABDOMEN: 2. Normal."
    assert sections(text) == ("LUNGS: Clear. HEART AND MEDIASTINUM: Normal.", "CHEST: 1. Normal. ABDOMEN: 2. Normal.")


def test_items_of_a_list_stay_in_their_impression():
    text = "IMPRESSION:\n 1. Effusion.\n 2. NOTE: CT is advised.\n 3) COMPARISON: smaller.\n\nNOTIFICATION: Dr. ___."
    assert sections(text) == ("", "1. Effusion. 2. NOTE: CT is advised. 3) COMPARISON: smaller.")
    assert sections("IMPRESSION: Of grade 2.\nNOTIFICATION: Dr. ___.") == ("", "Of grade 2.")


def test_results_and_a_diagnosis_count_where_there_are_no_findings_and_no_impression():
    text = "DIAGNOSIS: Cough.\nFINDINGS: Clear.\nIMPRESSION: Normal.\nDIAGNOSIS: R05.\nRESULTS: Called at 10:15."
    assert sections(text) == ("Clear.", "Normal.")
    assert sections("RESULTS: Clear. ASSESSMENT: Normal.") == ("Clear.", "Normal.")
    text = "IMPRESSION: Mass. DIFFERENTIAL DIAGNOSIS: Cyst."
    assert sections(text) == ("", "Mass. DIFFERENTIAL DIAGNOSIS: Cyst.")


def test_of_several_impressions_the_last_one_with_text_counts():
    text = "IMPRESSION: Left effusion.\n\nFINDINGS: Larger.\n\nIMPRESSION: Larger left effusion.\n\nIMPRESSION: ___"
    assert sections(text) == ("Larger.", "Larger left effusion.")


def test_sections_of_nothing_but_blanks_are_none():
    assert sections("FINDINGS: ___\n\nIMPRESSION: XXXX.") == ("", "")
    assert sections("FINDINGS: N/A.\n\nIMPRESSION:\n") == ("", "")
    assert sections("") == ("", "")


def test_blanks_of_deidentification_are_three_underscores():
    assert sections("IMPRESSION: As of ___________, told Dr. [**Last Name**] at __.") == (
        "",
        "As of ___, told Dr. ___ at ___.",
    )


def test_wet_read_gives_way_to_the_final_report():
    text = """\
 WET READ: ___ ___ ___ 8:19 AM
  Possible left pneumonia.
 WET READ VERSION #1 ___ ___ 7:02 AM
  No pneumonia.
 ______________________________________________________________________________
                                 FINAL REPORT
 INDICATION:  Fever.

 FINDINGS:  Left basal atelectasis.

 IMPRESSION:  No pneumonia, left basal atelectasis.
"""
    assert sections(text) == ("Left basal atelectasis.", "No pneumonia, left basal atelectasis.")


def test_wet_read_counts_where_there_is_nothing_else():
    text = (
        "WET READ: ___ 8:19 AM\n  Possible left pneumonia.\n ______________\n   FINAL REPORT\n INDICATION:  Fever.\n"
    )
    assert sections(text) == ("", "Possible left pneumonia.")
    assert sections("WET READ: No pneumothorax.\n") == ("", "No pneumothorax.")
    assert sections("PROVISIONAL FINDINGS IMPRESSION (PFI): No pneumothorax.\n") == ("", "No pneumothorax.")


def test_a_wet_read_does_not_replace_a_final_report_without_headings():
    text = "WET READ: ___ 8:19 AM\n  Mild edema.\n ______________\n   FINAL REPORT\n INDICATION:  Fever.\n\n Small effusion.\n"
    assert sections(text) == ("Small effusion.", "Mild edema.")


def test_addenda_before_and_after_do_not_replace_the_report():
    report = " FINDINGS:  Right effusion.\n\n IMPRESSION:  Effusion.\n"
    before = "                                 FINAL ADDENDUM\n ADDENDUM:  Dr. ___ was called.\n ________________\n"
    assert sections(before + "                                 FINAL REPORT\n" + report) == (
        "Right effusion.",
        "Effusion.",
    )
    assert sections(report + "\n ADDENDUM:  The side is left.\n") == ("Right effusion.", "Effusion.")
    assert sections(report + "\n **********ADDENDUM**********\n\n IMPRESSION: Left.") == (
        "Right effusion.",
        "Effusion.",
    )


def test_findings_of_an_addendum_count_where_the_report_has_none():
    text = "FINAL REPORT\n INDICATION: Cough.\n\n ADDENDUM:\n\n IMPRESSION: Small effusion."
    assert sections(text) == ("", "Small effusion.")


@pytest.mark.parametrize(
    "signature",
    [
        "Electronically signed by: Jane Roe, M.D.",
        "Dictated and signed by ___ on ___",
        "DR. ___ ___ ___",
        "Dr. A. B. Roe",
        "J. Roe, MD",
        "APPROVED BY: ___ 10:15 AM",
        "DATE OF SERVICE: ___",
        "Signed by: ___\nTranscribed by ___ at 10:15",
    ],
)
def test_signatures_at_the_end_are_removed(signature):
    assert sections(f"FINDINGS: Clear.\n\nIMPRESSION:\n 1. No change.\n\n {signature}\n") == (
        "Clear.",
        "1. No change.",
    )


def test_the_end_of_a_sentence_about_a_doctor_is_no_signature():
    text = "IMPRESSION: New pneumothorax, discussed by phone with\n Dr. ___.\n"
    assert sections(text) == ("", "New pneumothorax, discussed by phone with Dr. ___.")
    text = "IMPRESSION: New pneumothorax.\n Dr. ___ was informed at 10:15.\n"
    assert sections(text) == ("", "New pneumothorax. Dr. ___ was informed at 10:15.")


def test_recommendations_and_notifications_are_not_part_of_the_impression():
    text = "IMPRESSION: Nodule.\n\nRECOMMENDATION(S):  CT.\n\nNOTIFICATION:  Dr. ___ was called."
    assert sections(text) == ("", "Nodule.")


def test_report_without_either_section_gives_its_unheaded_paragraphs_as_findings():
    text = "            FINAL REPORT\n REASON FOR EXAMINATION:  Dyspnea.\n \n Portable AP film of ___.\n \n Lungs are clear.\n"
    assert sections(text) == ("Portable AP film of ___. Lungs are clear.", "")
    assert sections("CHEST RADIOGRAPH\n\nThe lungs are clear.\n\nNo effusion.") == (
        "The lungs are clear. No effusion.",
        "",
    )
    assert sections("The lungs are clear.") == ("The lungs are clear.", "")


def test_report_of_an_indication_alone_has_neither():
    assert sections("                FINAL REPORT\n INDICATION:  Cough, fever.\n") == ("", "")
    assert sections("EXAM: Chest\nCOMPARISON: ___\n\n CC: ___") == ("", "")


def in_mimic_shape(report):
    lines = [" " * 33 + "FINAL REPORT"]
    for name, text in report.items():
        lines += [f" {line}" for line in textwrap.wrap(f"{name}:  {text}", 78, break_on_hyphens=False)] + [" "]
    return "\n".join(lines)


def in_one_line(report):
    return " ".join(f"{name}: {text}" for name, text in report.items())


def below_names(report):
    return "\n\n".join(f"{name.title()}\n{text}" for name, text in report.items())


def in_lower_case(report):
    return "\n\n".join(f"{name.lower()}: {text}" for name, text in report.items())


@pytest.fixture(scope="module")
def openi_reports():
    """The sections of 3,955 real reports, by number, as their XML has them."""
    if find_spec("torchxrayvision") is None:
        pytest.skip("torchxrayvision, which ships the reports, is not installed")
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


@pytest.mark.parametrize(
    ("written", "every"), [(in_mimic_shape, 1), (in_one_line, 4), (below_names, 4), (in_lower_case, 4)]
)
def test_real_reports_are_parsed_as_their_xml_has_them(openi_reports, written, every):
    different = []
    for number in list(openi_reports)[::every]:
        report = openi_reports[number]
        if sections(written(report)) != (report.get("FINDINGS", ""), report.get("IMPRESSION", "")):
            different.append(number)
    # One holds the whole report again inside of its impression, one a mistyped "Pression:" inside of its findings.
    assert set(different) <= {2415, 3368}
