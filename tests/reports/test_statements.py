import pytest

from transformers_cxr.reports import etiology_of_report, finding_of_report


@pytest.mark.parametrize(
    "text",
    [
        "IMPRESSION: No pneumonia.",
        "No evidence of bacterial or viral pneumonia.",
        "IMPRESSION: No evidence of effusion, consolidation or pneumonia.",
        "IMPRESSION: Chest X-ray without pneumonia.",
        "Pneumonia is not seen.",
        "IMPRESSION: No acute cardiopulmonary process.",
        "FINDINGS: Unremarkable.",
        "impression: normal chest",
    ],
)
def test_negated_pneumonia_and_no_finding_read_as_normal(text):
    assert finding_of_report(text) == "normal"
    assert etiology_of_report(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "IMPRESSION: Pneumonia.",
        "No effusion. Pneumonia is present.",
        "No effusion, but signs of pneumonia.",
        "No abnormality other than pneumonia.",
        "Pneumonia without effusion.",
        "The heart is normal. There is bronchopneumonia.",
    ],
)
def test_pneumonia_outside_the_scope_of_a_negation_reads_as_pneumonia(text):
    assert finding_of_report(text) == "pneumonia"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "AP view of a child.",
        "IMPRESSION: No finding label is given.",
        "This X-ray is not normal.",
        "Abnormal chest X-ray.",
        "Pleural effusion, no pneumonia.",
        "Nodule. Otherwise normal.",
    ],
)
def test_text_that_states_neither_normal_nor_pneumonia_reads_as_none(text):
    assert finding_of_report(text) is None


def test_impression_decides_where_it_disagrees_with_the_findings():
    text = "FINDINGS: Signs of viral pneumonia.\nIMPRESSION: Bacterial pneumonia."
    assert etiology_of_report(text) == "bacterial"
    assert finding_of_report("FINDINGS: Signs of pneumonia.\nIMPRESSION: Normal chest X-ray.") == "normal"


def test_findings_decide_where_the_impression_states_neither():
    text = "FINDINGS: Signs of viral pneumonia.\nIMPRESSION: See above."
    assert finding_of_report(text) == "pneumonia"
    assert etiology_of_report(text) == "viral"


def test_etiology_is_read_past_a_negated_one_and_is_none_when_both_are_affirmed():
    assert etiology_of_report("Bacterial pneumonia, not viral.") == "bacterial"
    assert etiology_of_report("Bacterial or viral pneumonia.") is None
