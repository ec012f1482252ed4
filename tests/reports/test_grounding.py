import pytest

from transformers_cxr.reports import grounding_error

REPORT = (
    "The heart is enlarged. Small right pleural effusion. No pneumothorax or consolidation. 2 leads of a pacemaker."
)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Is there a pneumothorax?", "No."),
        ("Is there consolidation?", "no"),
        ("Is there a pleural effusion?", "Yes."),
        ("Is there a pleural effusion?", "Yes, a small right pleural effusion."),
        ("Is there a pneumothorax?", "No, no pneumothorax or consolidation."),
        ("Is the heart enlarged?", "Yes"),
        ("What is the size of the heart?", "Enlarged."),
        ("On which side is the effusion?", "On the right."),
        ("How many leads does the pacemaker have?", "2"),
        ("What is seen?", "Small right pleural effusion. The heart is enlarged."),
    ],
)
def test_answers_that_the_report_gives_are_grounded(question, answer):
    assert grounding_error(question, answer, REPORT) is None


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("Is there a pneumothorax?", "Yes.", "the report says otherwise"),
        ("Is there a pleural effusion?", "No.", "the report says otherwise"),
        ("Is there a fracture?", "No.", "no sentence of the report is about it"),
        ("Is the effusion enlarged?", "Yes.", "no sentence of the report is about it"),
        ("On which side is the effusion?", "Left.", "not in the report: left"),
        ("How many leads does the pacemaker have?", "3", "not in the report: 3"),
        ("What else is there?", "A pneumothorax.", "the report says otherwise"),
        ("What is seen?", "A small heart.", "no sentence of the report is about it"),
        ("Is there a pleural effusion?", "Yes, a large one.", "not in the report: large, one"),
        ("Is it?", "Yes.", "the question names nothing"),
        ("What is there?", "...", "the answer says nothing"),
        ("There is an effusion.", "Yes.", "not a question"),
    ],
)
def test_answers_that_the_report_does_not_give_are_refused(question, answer, reason):
    assert grounding_error(question, answer, REPORT) == reason


@pytest.mark.parametrize(
    ("question", "answer", "report", "reason"),
    [
        ("Is there an effusion?", "No.", "No significant change in the effusion.", "the report leaves it open"),
        ("Is there an effusion?", "Yes.", "Effusion without change.", "the report leaves it open"),
        ("Is there pneumonia?", "Yes.", "Pneumonia cannot be excluded.", "the report leaves it open"),
        ("Is there pneumonia?", "Yes.", "Pneumonia could not be entirely ruled out.", "the report leaves it open"),
        ("Is there pneumonia?", "Yes.", "Rule out pneumonia.", "the report leaves it open"),
        ("Is there pneumonia?", "Yes.", "Pneumonia has resolved.", "the report leaves it open"),
        ("What is there?", "Pneumonia.", "Pneumonia cannot be excluded.", "the report leaves it open"),
        ("Is there pneumonia?", "Yes.", "This may represent pneumonia.", "the report leaves it open"),
        ("Is there pneumonia?", "Yes.", "Atelectasis versus possible pneumonia.", "the report leaves it open"),
        ("Is there pneumonia?", "Yes.", "Opacity suspicious for pneumonia.", "the report leaves it open"),
        ("Is there pneumonia?", "Yes.", "Pneumonia is unlikely.", "the report leaves it open"),
        ("Is there a pacemaker?", "Yes.", "The pacemaker has been removed.", "the report leaves it open"),
        ("Is there a nodule?", "No.", "No suspicious nodule.", None),
        ("What is there?", "Possible pneumonia.", "Possible pneumonia.", None),
        ("Has the pneumonia resolved?", "Yes.", "Pneumonia has resolved.", None),
        ("Is there pneumonia?", "No.", "Pneumonia was ruled out.", None),
        ("Is there a left effusion?", "Yes.", "Right effusion and left atelectasis.", "the report names another side"),
        (
            "On which side is the effusion?",
            "Left.",
            "Right effusion, left atelectasis.",
            "the report names another side",
        ),
        (
            "What is in the left lung?",
            "Effusion.",
            "Right effusion. Left atelectasis.",
            "the report names another side",
        ),
        ("What is in the right lung?", "Effusion.", "Right effusion. Left atelectasis.", None),
        ("Where are the effusions?", "Left and right.", "Left and right effusion.", None),
    ],
)
def test_what_a_report_leaves_open_or_says_of_another_side_is_refused(question, answer, report, reason):
    assert grounding_error(question, answer, report) == reason


def test_a_report_that_contradicts_itself_grounds_nothing():
    report = "Pleural effusion on the left. No pleural effusion."
    for answer in ("Yes.", "No."):
        assert grounding_error("Is there a pleural effusion?", answer, report) == "the report says otherwise"
