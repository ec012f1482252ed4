import sys
import types

import numpy as np
import pytest

from transformers_cxr.reports.labeler import CHEXPERT_LABELS, CheXbertLabeler, RuleLabeler, read_spans

# Sentences with their labels, as a reader would give them: + positive, - negative, ? uncertain.
SENTENCES = {
    "There is a small left pleural effusion.": "+Pleural Effusion",
    "No pleural effusion or pneumothorax.": "-Pleural Effusion -Pneumothorax",
    "There is no focal consolidation, large effusion, or pneumothorax.": "-Consolidation -Pleural Effusion -Pneumothorax",
    "No pneumothorax, small right effusion.": "-Pneumothorax +Pleural Effusion",
    "No pneumothorax, but there is bibasilar atelectasis.": "-Pneumothorax +Atelectasis",
    "Without evidence of edema.": "-Edema",
    "The lungs are clear of consolidation.": "-Consolidation",
    "The previously seen pneumothorax has resolved.": "-Pneumothorax",
    "Nearly resolved pleural effusion.": "+Pleural Effusion",
    "Pneumothorax is not seen.": "-Pneumothorax",
    "No significant change in the moderate left effusion.": "+Pleural Effusion",
    "The opacity has not changed.": "+Lung Opacity",
    "Left basilar opacity may represent atelectasis or pneumonia.": "+Lung Opacity ?Atelectasis ?Pneumonia",
    "Pneumonia cannot be excluded.": "?Pneumonia",
    "An underlying\n   consolidation can not be\n   entirely excluded.": "?Consolidation",
    "Findings are concerning for edema.": "?Edema",
    "Possible small pneumothorax.": "?Pneumothorax",
    "Atelectasis versus consolidation at the right base.": "?Atelectasis ?Consolidation",
    "Aspiration or infection is suspected.": "?Pneumonia",
    "Small pleural effusion, if any.": "?Pleural Effusion",
    "Pneumonia is unlikely.": "?Pneumonia",
    "Evaluate for pneumonia.": "",
    # What the rules of the CheXpert labeler take as uncertain, and that they have no "likely" and no "suggests".
    "No evidence to rule out pneumonia.": "?Pneumonia",
    "It is difficult to exclude pneumonia.": "?Pneumonia",
    "The effusion is incompletely evaluated.": "?Pleural Effusion",
    "An effusion is not clearly seen.": "?Pleural Effusion",
    "The effusion is obscured by the heart.": "?Pleural Effusion",
    "Edema could appear similar.": "?Edema",
    "Pneumonia may have this appearance.": "?Pneumonia",
    "This could be related to edema.": "?Edema",
    "Question left effusion.": "?Pleural Effusion",
    "Correlate clinically for evidence of pneumonia.": "?Pneumonia",
    "This may represent the presence of effusion.": "?Pleural Effusion",
    "Atelectasis and/or consolidation.": "?Atelectasis ?Consolidation",
    "Heart size is borderline.": "?Cardiomegaly",
    "Opacity, likely atelectasis.": "+Lung Opacity +Atelectasis",
    "Findings suggest edema.": "+Edema",
    "Patient with a history of heart failure.": "",
    "The heart is enlarged.": "+Cardiomegaly",
    "Heart size is normal.": "-Cardiomegaly",
    "Heart size is at the upper limits of normal.": "?Cardiomegaly",
    "Borderline enlargement of the cardiac silhouette.": "?Cardiomegaly",
    "Moderate cardiomegaly is stable.": "+Cardiomegaly",
    "The heart and mediastinum are within normal limits.": "-Cardiomegaly -Enlarged Cardiomediastinum",
    "The cardiomediastinal silhouette is unchanged.": "?Enlarged Cardiomediastinum",
    "The mediastinum is widened.": "+Enlarged Cardiomediastinum",
    "Old healed rib fractures.": "+Fracture",
    "No displaced rib fracture is identified.": "-Fracture",
    "A 2.5 cm nodule in the right upper lobe.": "+Lung Lesion",
    "A calcified nodule in the right upper lobe.": "",
    "Biapical pleural thickening.": "+Pleural Other",
    "The endotracheal tube ends 4 cm above the carina.": "+Support Devices",
    "Interval removal of the right chest tube.": "-Support Devices",
    "Plate-like atelectasis.": "+Atelectasis",
    "Mild pulmonary vascular congestion.": "+Edema",
    "Pericardial effusion.": "",
    "The thoracic cavity is symmetric.": "",
}


def labels_of(report: str) -> dict[str, str]:
    sign = {1: "+", 0: "-", -1: "?"}
    labels = zip(CHEXPERT_LABELS, RuleLabeler()([report])[0])
    return {label: sign[value] for label, value in labels if not np.isnan(value) and label != "No Finding"}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_sentence_has_the_labels_of_a_reader(sentence):
    names = SENTENCES[sentence].replace(" +", "|+").replace(" -", "|-").replace(" ?", "|?").split("|")
    assert labels_of(sentence) == {name[1:]: name[0] for name in names if name}


def test_positive_goes_before_uncertain_and_uncertain_before_negative():
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
        ("", False),
        (" \n", False),
    ],
)
def test_no_finding_is_what_nothing_but_devices_is_said_of(report, expected):
    value = RuleLabeler()([report])[0][CHEXPERT_LABELS.index("No Finding")]
    assert value == 1 if expected else np.isnan(value)


def test_an_empty_report_mentions_nothing():
    labels = RuleLabeler()(["", "edema"])
    assert labels.shape == (2, 14) and labels.dtype == np.float32
    assert np.isnan(labels[0]).all()


def test_sections_that_do_not_describe_the_image_are_not_read():
    report = (
        "INDICATION: fever, pneumonia?\n\nCOMPARISON: effusion of ___\n\nFINDINGS: Clear lungs.\nIMPRESSION: Edema."
    )
    assert labels_of(report) == {"Edema": "+"}
    assert [report[start:end].strip() for start, end in read_spans(report)] == ["Clear lungs.", "Edema."]


def test_a_report_without_a_heading_of_findings_is_read_from_the_next_paragraph_on():
    report = "REASON FOR EXAM: pneumonia,\nold fracture\n\nSmall effusion."
    assert labels_of(report) == {"Pleural Effusion": "+"}


def test_mentions_say_where_they_are():
    report = "FINDINGS: No effusion.\nThere is\nedema."
    assert [(m.label, report[m.start : m.end], m.value) for m in RuleLabeler().mentions(report)] == [
        ("Pleural Effusion", "effusion", 0.0),
        ("Edema", "edema", 1.0),
    ]


def test_without_radeval_chexbert_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "radeval.metrics.f1chexbert.f1chexbert", None)
    with pytest.raises(ImportError, match=r"transformers-cxr\[radeval\]"):
        CheXbertLabeler()


class FakeF1CheXbert:
    TARGET_NAMES = [*CHEXPERT_LABELS[1:], "No Finding"]

    def __init__(self, device):
        pass

    def get_labels(self, reports, mode):
        assert mode == "classification"
        return [[1, -1, *[0] * 11, 1] for _ in reports]


def use_as_radeval(monkeypatch, cls):
    for name in ("radeval", "radeval.metrics", "radeval.metrics.f1chexbert"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    module = types.SimpleNamespace(F1CheXbert=cls)
    monkeypatch.setitem(sys.modules, "radeval.metrics.f1chexbert.f1chexbert", module)


def test_chexbert_labels_are_put_into_our_order(monkeypatch):
    use_as_radeval(monkeypatch, FakeF1CheXbert)
    labels = CheXbertLabeler()(["a", "b"])
    assert labels.shape == (2, 14)
    assert labels[0, :4].tolist() == [1, 1, -1, 0]


def test_without_its_weights_chexbert_says_which_and_the_way_out(monkeypatch):
    def offline(device):
        raise OSError("no network")

    use_as_radeval(monkeypatch, offline)
    with pytest.raises(OSError, match=r"chexbert\.pth.*bert-base-uncased.*labeler 'rules' needs no download"):
        CheXbertLabeler()
