import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score, roc_auc_score

from transformers_cxr.evaluation.metrics.chexpert_labels import FIVE_LABELS, CheXpertLabels
from transformers_cxr.reports.labeler import CHEXPERT_LABELS, RuleLabeler

REFERENCES = [
    "Small effusion and atelectasis. No pneumothorax.",
    "Possible pneumonia. The heart is enlarged.",
    "Normal chest.",
    "Edema. Cardiomegaly. Effusion. PICC in place.",
    "Consolidation, possibly pneumonia.",
]
PREDICTIONS = [
    "Small effusion. Possible pneumothorax.",
    "Pneumonia. Heart size is normal.",
    "Normal chest.",
    "Edema. Effusion.",
    "",
]


@pytest.mark.parametrize(("suffix", "positive"), [("", (1, -1)), ("_uncertain_negative", (1,))])
@pytest.mark.parametrize("size", [14, 5])
def test_scores_are_those_of_scikit_learn_over_the_labels_that_occur(suffix, positive, size):
    scores = CheXpertLabels().compute(predictions=PREDICTIONS, references=REFERENCES)
    names = CHEXPERT_LABELS if size == 14 else FIVE_LABELS
    columns = [CHEXPERT_LABELS.index(name) for name in names]
    given, wanted = (np.isin(RuleLabeler()(r)[:, columns], positive) for r in (PREDICTIONS, REFERENCES))
    occurs = wanted.any(axis=0)
    for name, function in (("f1", f1_score), ("jaccard", jaccard_score), ("auroc", roc_auc_score)):
        expected = function(wanted[:, occurs], given[:, occurs], average="macro")
        assert scores[f"{name}_macro_{size}{suffix}"] == pytest.approx(expected)
    assert scores[f"f1_micro_{size}{suffix}"] == pytest.approx(f1_score(wanted, given, average="micro"))
    assert scores[f"classes_{size}{suffix}"] == occurs.sum()


def test_equal_reports_score_one_empty_ones_zero_and_absent_labels_are_nan():
    metric = CheXpertLabels()
    scores = metric.compute(predictions=REFERENCES, references=REFERENCES)
    names = ("f1_micro_14", "f1_macro_14", "auroc_macro_5", "jaccard_weighted_14", "f1_pneumonia")
    assert [scores[name] for name in names] == [1] * 5
    assert np.isnan([scores["f1_pneumonia_uncertain_negative"], scores["f1_fracture"], scores["auroc_fracture"]]).all()
    scores = metric.compute(predictions=[""] * 5, references=REFERENCES)
    assert scores["f1_micro_14"] == 0 and scores["auroc_macro_14"] == 0.5
    scores = metric.compute(predictions=REFERENCES, references=[""] * 5)
    assert np.isnan(scores["f1_micro_14"]) and scores["classes_14"] == 0
    units = metric.prepare(PREDICTIONS, REFERENCES)
    assert metric.f1_averages(units).items() <= metric.aggregate(units).items()
