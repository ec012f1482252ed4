"""METEOR of generated reports."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import numpy as np

from .metric import CxrMetric, Score
from .text_overlap import tokenize

try:
    from nltk.stem.porter import PorterStemmer
    from nltk.translate.meteor_score import single_meteor_score
except ImportError as error:
    raise ImportError("METEOR needs `pip install transformers-cxr[evaluate]`.") from error


class Meteor(CxrMetric):
    """
    METEOR, in [0, 1], with the tokens of [`tokenize`]. The values of the variants (`config_name`) cannot be compared:

    - `"stem"`: NLTK's METEOR (Banerjee and Lavie 2005) of words and Porter stems, mean over reports. It has no
      synonyms, because WordNet would be a download.
    - `"1.5"`: METEOR 1.5 with synonyms and paraphrases (Denkowski and Lavie 2014), of the corpus, as pycocoevalcap
      computes it and papers report it. It needs Java.

    A unit is the score of a report (`"stem"`) or its counts, `np.ndarray` of shape `(23,)` (`"1.5"`).

    Raises:
        OSError: Java is not installed (raised by `prepare` of `"1.5"`).
    """

    CONFIG_NAMES = ("stem", "1.5")
    SCORES = {
        "meteor": Score("METEOR", "Words and word stems in common with the reference, in [0, 1]; order counts little.")
    }

    def prepare(self, predictions: Sequence[str], references: Sequence[str]) -> list[float] | list[np.ndarray]:
        pairs = [(tokenize(prediction), tokenize(reference)) for prediction, reference in zip(predictions, references)]
        if self.config_name == "stem":
            stemmer, synonyms = PorterStemmer(), _NoSynonyms()
            return [single_meteor_score(r, p, stemmer=stemmer, wordnet=synonyms) for p, r in pairs]
        if shutil.which("java") is None:
            raise OSError(
                "METEOR 1.5 needs Java, but 'java' is not on the PATH. Install Java or use the variant 'stem'."
            )
        from pycocoevalcap.meteor.meteor import Meteor as MeteorOfJava

        meteor = MeteorOfJava()
        lines = [meteor._stat(" ".join(p), [" ".join(r)]) for p, r in pairs]
        units = [np.array(line.split(), dtype=np.float64) for line in lines]
        for counts in units:
            # METEOR counts the single chunk of a perfect report as zero chunks.
            if counts[20] == 1 and (counts[21:23] == counts[0:2]).all():
                counts[20] = 0
        return units

    def aggregate(self, units: Sequence[float] | Sequence[np.ndarray]) -> dict[str, float]:
        score = np.mean(units) if self.config_name == "stem" else _meteor_of_counts(np.sum(units, axis=0))
        return {"meteor": float(score)}


class _NoSynonyms:
    """A WordNet without entries."""

    def synsets(self, word: str) -> list:
        return []


def _meteor_of_counts(counts: np.ndarray) -> float:
    """
    Compute METEOR 1.5 (Denkowski and Lavie 2014, section 2) with its parameters for English.

    Args:
        counts (`np.ndarray` of shape `(23,)`):
            Number of words of hypothesis and reference; of function words of both; for each of the four matchers, of
            matched content words of both and of matched function words of both; of chunks; of matched words of both.
    """
    alpha, beta, gamma, delta = 0.85, 0.2, 0.6, 0.75
    matchers = np.array([1.0, 0.6, 0.8, 0.6])
    words, function_words, matches = counts[0:2], counts[2:4], counts[4:20].reshape(4, 4)
    content, function = matchers @ matches[:, 0:2], matchers @ matches[:, 2:4]
    weighted = delta * content + (1 - delta) * function
    total = delta * (words - function_words) + (1 - delta) * function_words
    if not weighted.all():
        return 0.0
    precision, recall = weighted / total
    f_mean = precision * recall / (alpha * precision + (1 - alpha) * recall)
    fragmentation = counts[20] / counts[21:23].mean()
    return (1 - gamma * fragmentation**beta) * f_mean
