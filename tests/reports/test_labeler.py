import sys
import types
from unittest.mock import Mock

import numpy as np
import pytest

from transformers_cxr.reports import CHEXPERT_LABELS, CheXbertLabeler, RuleLabeler

# Sentences with their labels, as a reader would give them: + positive, - negative, ? uncertain.
SENTENCES = {
    "There is a small left pleural effusion.": "+Pleural Effusion",
    "No pleural effusion or pneumothorax.": "-Pleural Effusion -Pneumothorax",
    "No pneumothorax, small right effusion.": "-Pneumothorax +Pleural Effusion",
    "No pneumothorax, but there is bibasilar atelectasis.": "-Pneumothorax +Atelectasis",
    "No effusions are present, and pneumothorax is noted on the left.": "-Pleural Effusion +Pneumothorax",
    "There is no effusion, and pneumothorax or edema is not seen.": "-Pleural Effusion -Pneumothorax -Edema",
    "No consolidation, effusion or pneumothorax is present.": "-Consolidation -Pleural Effusion -Pneumothorax",
    "No effusion, opacity or edema; this raises concern for pneumonia.": (
        "-Pleural Effusion -Lung Opacity -Edema ?Pneumonia"
    ),
    "No effusion, the opacity raises the possibility of pneumonia.": "-Pleural Effusion +Lung Opacity ?Pneumonia",
    "No effusion, new haze raises concern for pneumonia.": "-Pleural Effusion ?Pneumonia",
    "The lungs are clear of consolidation.": "-Consolidation",
    "The previously seen pneumothorax has resolved.": "-Pneumothorax",
    "No significant change in the moderate left effusion.": "+Pleural Effusion",
    "Left basilar opacity may represent atelectasis or pneumonia.": "+Lung Opacity ?Atelectasis ?Pneumonia",
    "Pneumonia cannot be excluded.": "?Pneumonia",
    "An underlying\n   consolidation can not be\n   entirely excluded.": "?Consolidation",
    "Atelectasis versus consolidation at the right base.": "?Atelectasis ?Consolidation",
    "Evaluate for pneumonia.": "",
    # What the rules of the CheXpert labeler take as uncertain, and that they have no "likely" and no "suggests".
    "No evidence to rule out pneumonia.": "?Pneumonia",
    "The effusion is incompletely evaluated.": "?Pleural Effusion",
    "Edema could appear similar.": "?Edema",
    "Opacity, likely atelectasis.": "+Lung Opacity +Atelectasis",
    "Patient with a history of heart failure.": "",
    "Heart size is at the upper limits of normal.": "?Cardiomegaly",
    "The cardiomediastinal silhouette is unchanged.": "?Enlarged Cardiomediastinum",
    "A 2.5 cm nodule in the right upper lobe.": "+Lung Lesion",
    "A calcified nodule in the right upper lobe.": "",
    "The endotracheal tube ends 4 cm above the carina.": "+Support Devices",
    "Interval removal of the right chest tube.": "-Support Devices",
    "Pericardial effusion.": "",
}


def labels_of(report: str) -> dict[str, str]:
    sign = {1: "+", 0: "-", -1: "?"}
    labels = zip(CHEXPERT_LABELS, RuleLabeler()([report])[0])
    return {label: sign[value] for label, value in labels if not np.isnan(value) and label != "No Finding"}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_sentence_has_the_labels_that_a_reader_gives_it(sentence):
    names = SENTENCES[sentence].replace(" +", "|+").replace(" -", "|-").replace(" ?", "|?").split("|")
    assert labels_of(sentence) == {name[1:]: name[0] for name in names if name}


def test_labels_are_one_row_of_14_floats_a_report_and_nan_for_an_empty_one():
    labels = RuleLabeler()(["", "edema"])
    assert labels.shape == (2, 14) and labels.dtype == np.float32 and np.isnan(labels[0]).all()


def test_positive_mentions_override_uncertain_ones_and_these_negative_ones():
    assert labels_of("No effusion. Possible effusion.") == {"Pleural Effusion": "?"}
    assert labels_of("Possible effusion. Small effusion. No effusion.") == {"Pleural Effusion": "+"}


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("Normal chest X-ray of a child.", True),
        ("No effusion. The endotracheal tube is in place.", True),
        ("Possible effusion.", False),
        ("Emphysema. No effusion.", False),
        ("No emphysema.", True),
        (" \n", False),
    ],
)
def test_no_finding_is_positive_without_any_other_finding_than_devices(report, expected):
    value = RuleLabeler()([report])[0][CHEXPERT_LABELS.index("No Finding")]
    assert value == 1 if expected else np.isnan(value)


@pytest.mark.parametrize(
    ("report", "labels"),
    [
        (
            "INDICATION: fever, pneumonia?\n\nCOMPARISON: fracture ___\n\nFINDINGS: No effusion.\nIMPRESSION: Edema.",
            {"Pleural Effusion": "-", "Edema": "+"},
        ),
        ("REASON FOR EXAM: pneumonia,\nold fracture\n\nSmall effusion.", {"Pleural Effusion": "+"}),
        ("WET READ: Edema.\n\nFINAL REPORT\nIMPRESSION: No edema.", {"Edema": "-"}),
    ],
)
def test_only_findings_and_impression_are_labeled(report, labels):
    assert labels_of(report) == labels


def test_without_radeval_chexbert_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "radeval.metrics.f1chexbert.f1chexbert", None)
    with pytest.raises(ImportError, match=r"transformers-cxr\[radeval\]"):
        CheXbertLabeler()


@pytest.fixture
def f1_chexbert(monkeypatch):
    """A stand-in for radeval's class of this name."""
    fake = Mock(TARGET_NAMES=[*CHEXPERT_LABELS[1:], "No Finding"])
    fake.get_labels.side_effect = lambda reports, mode: [[1, -1, *[0] * 11, 1] for _ in reports]
    make = Mock(return_value=fake)
    for name in ("radeval", "radeval.metrics", "radeval.metrics.f1chexbert"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "radeval.metrics.f1chexbert.f1chexbert", types.SimpleNamespace(F1CheXbert=make))
    return make


def test_chexbert_labels_are_in_the_order_of_chexpert(f1_chexbert):
    assert CheXbertLabeler()(["a", "b"])[:, :4].tolist() == [[1, 1, -1, 0]] * 2


def test_without_its_weights_chexbert_names_them_and_the_way_out(f1_chexbert):
    f1_chexbert.side_effect = OSError("no network")
    with pytest.raises(OSError, match=r"chexbert\.pth.*bert-base-uncased.*labeler 'rules' needs no download"):
        CheXbertLabeler()
