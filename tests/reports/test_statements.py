import pytest

from transformers_cxr.reports import affirms, etiology_of_report, finding_of_report


@pytest.mark.parametrize(
    ("text", "finding", "etiology"),
    [
        # A negated pneumonia and "no finding" are normal.
        ("No evidence of bacterial or viral pneumonia.", "normal", None),
        ("Pneumonia is not seen.", "normal", None),
        ("IMPRESSION: No acute cardiopulmonary process.", "normal", None),
        ("impression: normal chest", "normal", None),
        # Pneumonia beyond the reach of a negation.
        ("No effusion. Pneumonia is present.", "pneumonia", None),
        ("No effusion, but signs of pneumonia.", "pneumonia", None),
        ("Pneumonia without effusion.", "pneumonia", None),
        ("The heart is normal. There is bronchopneumonia.", "pneumonia", None),
        # Neither.
        ("", None, None),
        ("IMPRESSION: No finding label is given.", None, None),
        ("This X-ray is not normal.", None, None),
        ("Pleural effusion, no pneumonia.", None, None),
        ("Nodule. Otherwise normal.", None, None),
        # The impression decides, or the findings if it says neither.
        ("FINDINGS: Signs of viral pneumonia.\nIMPRESSION: Bacterial pneumonia.", "pneumonia", "bacterial"),
        ("FINDINGS: Signs of pneumonia.\nIMPRESSION: Normal chest X-ray.", "normal", None),
        ("FINDINGS: Signs of viral pneumonia.\nIMPRESSION: See above.", "pneumonia", "viral"),
        ("Bacterial pneumonia, not viral.", "pneumonia", "bacterial"),
        ("Bacterial or viral pneumonia.", "pneumonia", None),
    ],
)
def test_finding_and_etiology_are_read_from_a_report(text, finding, etiology):
    assert (finding_of_report(text), etiology_of_report(text)) == (finding, etiology)


def test_a_negation_before_or_after_a_term_reaches_to_the_end_of_its_clause():
    assert affirms("no effusion; a mass is seen", "mass")
    assert not affirms("no effusion, mass or nodule", "mass")
    assert not affirms("a mass is not seen", "mass")
