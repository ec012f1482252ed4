"""Calibration of probabilities of yes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasets import Features, Value

from .metric import CxrMetric, Score

NUM_BINS = 10


class Calibration(CxrMetric):
    """
    Calibration of the probabilities of yes against the answers, in bins of equal width.

    - `calibration_error`: the difference between the share of yes and the mean probability of a bin, averaged over the
      examples (expected calibration error, Guo et al. 2017, arXiv 1706.04599, equation 3, for the answer yes).
    - `yes_share_0.05` to `yes_share_0.95`: share of yes in the bin around a probability; NaN for an empty bin.

    A unit is a pair of a probability and its answer (1 yes, 0 no); NaN for an example that does not count.
    """

    SCORES = {
        "calibration_error": Score(
            "Calibration error",
            "How far the probability of yes is from the share of yes, on average. 0 is perfect.",
            higher_is_better=False,
        ),
        "yes_share_*": Score(
            "Share of yes by its probability",
            "Share of yes among questions for which the model gives yes a probability within 0.05 of this one.",
            higher_is_better=None,
        ),
    }
    FEATURES = Features({"predictions": Value("float64"), "references": Value("float64")})

    def prepare(self, predictions: Sequence[float], references: Sequence[float]) -> list[tuple[float, float]]:
        for probability in predictions:
            if probability < 0 or probability > 1:
                raise ValueError(f"Expected probabilities in [0, 1], got {probability}.")
        return list(zip(predictions, references))

    def aggregate(self, units: Sequence[tuple[float, float]]) -> dict[str, float]:
        pairs = np.array(units, dtype=float).reshape(-1, 2)
        pairs = pairs[~np.isnan(pairs).any(axis=1)]
        bins = (pairs[:, 0] * NUM_BINS).astype(int).clip(max=NUM_BINS - 1)
        shares, distance = {}, 0.0
        for number in range(NUM_BINS):
            probabilities, answers = pairs[bins == number].T
            shares[f"yes_share_{(number + 0.5) / NUM_BINS}"] = answers.mean() if len(answers) else float("nan")
            distance += abs((answers - probabilities).sum())
        return {"calibration_error": distance / len(pairs) if len(pairs) else float("nan")} | shares
