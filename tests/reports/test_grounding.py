import pytest

from transformers_cxr.reports import grounding_error

REPORT = (
    "The heart is enlarged. Small right pleural effusion. No pneumothorax or consolidation. 2 leads of a pacemaker."
)
OPEN, SIDE = "the report leaves it open", "the report names another side"


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("Is there a pneumothorax?", "No.", None),
        ("Is there a pleural effusion?", "Yes.", None),
        ("What is the size of the heart?", "Enlarged.", None),
        ("On which side is the effusion?", "On the right.", None),
        ("How many leads does the pacemaker have?", "2", None),
        ("What is seen?", "Small right pleural effusion. The heart is enlarged.", None),
        ("Is there a pneumothorax?", "Yes.", "the report says otherwise"),
        ("Is there a pleural effusion?", "No.", "the report says otherwise"),
        ("Is there a fracture?", "No.", "no sentence of the report is about it"),
        ("On which side is the effusion?", "Left.", "not in the report: left"),
        ("What is seen?", "A small heart.", "no sentence of the report is about it"),
        ("Is there a pleural effusion?", "Yes, a large one.", "not in the report: large, one"),
        ("Is it?", "Yes.", "the question names nothing"),
        ("What is there?", "...", "the answer says nothing"),
        ("There is an effusion.", "Yes.", "not a question"),
    ],
)
def test_an_answer_is_grounded_if_the_report_says_it(question, answer, reason):
    assert grounding_error(question, answer, REPORT) == reason


@pytest.mark.parametrize(
    ("question", "answer", "report", "reason"),
    [
        ("Is there an effusion?", "No.", "No significant change in the effusion.", OPEN),
        ("Is there pneumonia?", "Yes.", "Pneumonia cannot be excluded.", OPEN),
        ("Is there pneumonia?", "Yes.", "Pneumonia has resolved.", OPEN),
        ("Is there a pacemaker?", "Yes.", "The pacemaker has been removed.", OPEN),
        ("Is there a nodule?", "No.", "No suspicious nodule.", None),
        ("Has the pneumonia resolved?", "Yes.", "Pneumonia has resolved.", None),
        ("Is there pneumonia?", "No.", "Pneumonia was ruled out.", None),
        ("Is there a left effusion?", "Yes.", "Right effusion and left atelectasis.", SIDE),
        ("On which side is the effusion?", "Left.", "Right effusion, left atelectasis.", SIDE),
        ("What is in the left lung?", "Effusion.", "Right effusion. Left atelectasis.", SIDE),
        ("What is in the right lung?", "Effusion.", "Right effusion. Left atelectasis.", None),
        ("Is there edema?", "Yes.", "Edema on the left. No edema.", "the report says otherwise"),
    ],
)
def test_open_findings_other_sides_and_contradictions_ground_only_what_says_the_same(question, answer, report, reason):
    assert grounding_error(question, answer, report) == reason
