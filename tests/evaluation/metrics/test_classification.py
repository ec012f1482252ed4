import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score, roc_auc_score

from transformers_cxr.evaluation.metrics.classification import classification_scores


@pytest.mark.parametrize("hard", [False, True])
def test_all_scores_equal_those_of_scikit_learn(hard):
    rng = np.random.default_rng(0)
    reference, predicted, scores = rng.random((40, 5)) < 0.4, rng.random((40, 5)) < 0.5, rng.random((40, 5)).round(1)
    averages, per_class = classification_scores(predicted, reference, None if hard else scores)
    scores = predicted if hard else scores
    for average in ("micro", "macro", "weighted"):
        assert averages[f"f1_{average}"] == pytest.approx(f1_score(reference, predicted, average=average))
        assert averages[f"jaccard_{average}"] == pytest.approx(jaccard_score(reference, predicted, average=average))
        assert averages[f"auroc_{average}"] == pytest.approx(roc_auc_score(reference, scores, average=average))
    np.testing.assert_allclose(per_class["f1"], f1_score(reference, predicted, average=None))
    np.testing.assert_allclose(per_class["jaccard"], jaccard_score(reference, predicted, average=None))
    np.testing.assert_allclose(per_class["auroc"], roc_auc_score(reference, scores, average=None))
    assert averages["classes"] == 5


def test_an_absent_class_is_nan_and_in_the_micro_average_only():
    reference = np.array([[1, 0], [1, 0], [0, 0]], bool)
    predicted = np.array([[1, 1], [0, 0], [0, 0]], bool)
    averages, per_class = classification_scores(predicted, reference)
    assert per_class["f1"][0] == pytest.approx(2 / 3)
    for name in ("f1", "auroc", "jaccard"):
        assert np.isnan(per_class[name][1])
        assert averages[f"{name}_macro"] == averages[f"{name}_weighted"] == per_class[name][0]
    assert averages["f1_micro"] == pytest.approx(2 / 4) and averages["classes"] == 1


def test_without_a_positive_or_a_negative_reference_auroc_is_nan():
    averages, _ = classification_scores(np.zeros((3, 2), bool), np.zeros((3, 2), bool))
    assert averages.pop("classes") == 0 and np.isnan(list(averages.values())).all()
    _, per_class = classification_scores(np.ones((3, 1), bool), np.ones((3, 1), bool))
    assert per_class["f1"][0] == 1 and np.isnan(per_class["auroc"][0])
