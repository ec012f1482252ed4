"""CheXpert labels of generated reports against those of reference reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...reports.labeler import CHEXPERT_LABELS, POSITIVE, UNCERTAIN, CheXbertLabeler, RuleLabeler
from .classification import classification_scores
from .metric import CxrMetric, Score

# The labels of the CheXpert competition (Irvin et al. 2019, section 5).
FIVE_LABELS = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
LABELERS: dict[str, Callable[[], Callable[[Sequence[str]], np.ndarray]]] = {
    "rules": RuleLabeler,
    "chexbert": CheXbertLabeler,
}


class CheXpertLabels(CxrMetric):
    """
    F1, AUROC and Jaccard index of the CheXpert labels of generated reports against those of reference reports (arXiv
    2305.11490, tables 1 and 2).

    The scores are `{f1, auroc, jaccard}_{micro, macro, weighted}_{14, 5}` and `{f1, auroc, jaccard}_{label}`, with
    uncertain labels as positive, and the same with the suffix `_uncertain_negative`, with uncertain labels as
    negative. A finding that is not mentioned is negative. `classes_{14, 5}` counts the labels in a macro or weighted
    average. All scores are in [0, 1], higher is better; AUROC is of hard labels, 0.5 by chance. See
    [`classification_scores`] for the definitions: a label that no reference has is NaN and enters only the micro
    averages.

    The variant (`config_name`) is the labeler: `"rules"` ([`RuleLabeler`], offline) or `"chexbert"`
    ([`CheXbertLabeler`]). Scores of different labelers cannot be compared.

    A unit is a `np.ndarray` of shape `(2, 14)`: the labels of the generated and of the reference report.
    """

    CONFIG_NAMES = tuple(LABELERS)
    SCORES = {
        "f1_*_uncertain_negative": Score(
            "F1 of findings, uncertain ones negative",
            "F1 of findings, where a finding that a report calls uncertain counts as absent.",
            chance=0,
        ),
        "auroc_*_uncertain_negative": Score(
            "AUROC of findings, uncertain ones negative",
            "AUROC of findings, where a finding that a report calls uncertain counts as absent.",
            chance=0.5,
        ),
        "jaccard_*_uncertain_negative": Score(
            "Jaccard index of findings, uncertain ones negative",
            "Jaccard index of findings, where a finding that a report calls uncertain counts as absent.",
            chance=0,
        ),
        "f1_*": Score(
            "F1 of findings",
            "Harmonic mean of precision and recall of the findings in the reports. Averages: micro, over all pairs of "
            "report and finding; macro, the mean over the findings; weighted, their mean weighted by the number of "
            "references with the finding; of the 14 labels of CheXpert or the 5 of its competition. 1 is perfect.",
            chance=0,
        ),
        "auroc_*": Score(
            "AUROC of findings",
            "Mean of sensitivity and specificity of the findings in the reports, averaged as F1. 0.5 by chance, 1 is "
            "perfect.",
            chance=0.5,
        ),
        "jaccard_*": Score(
            "Jaccard index of findings",
            "Findings in both reports as a share of those in either, averaged as F1. 1 is perfect.",
            chance=0,
        ),
        "classes_*": Score("Findings averaged", "Number of findings that a reference has.", higher_is_better=None),
    }

    def prepare(self, predictions: Sequence[str], references: Sequence[str]) -> list[np.ndarray]:
        labeler = LABELERS[self.config_name]()
        return list(np.stack([labeler(predictions), labeler(references)], axis=1))

    @staticmethod
    def f1_averages(units: Sequence[np.ndarray]) -> dict[str, float]:
        """Compute only `f1_micro_14` and `f1_macro_14`, for a curve of many points."""
        predicted, reference = np.isin(np.stack(units), (POSITIVE, UNCERTAIN)).swapaxes(0, 1)
        averages, _ = classification_scores(predicted, reference)
        return {f"{name}_14": averages[name] for name in ("f1_micro", "f1_macro")}

    def aggregate(self, units: Sequence[np.ndarray]) -> dict[str, float]:
        labels = np.stack(units)
        five = [CHEXPERT_LABELS.index(label) for label in FIVE_LABELS]
        scores = {}
        for suffix, positive in (("", (POSITIVE, UNCERTAIN)), ("_uncertain_negative", (POSITIVE,))):
            predicted, reference = np.isin(labels, positive).swapaxes(0, 1)
            for columns, size in ((slice(None), 14), (five, 5)):
                averages, per_class = classification_scores(predicted[:, columns], reference[:, columns])
                scores |= {f"{name}_{size}{suffix}": value for name, value in averages.items()}
                if size == 14:
                    all_classes = per_class
            for name, values in all_classes.items():
                scores |= {
                    f"{name}_{label.lower().replace(' ', '_')}{suffix}": float(value)
                    for label, value in zip(CHEXPERT_LABELS, values)
                }
        return scores
