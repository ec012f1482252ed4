"""Overlap of the words of generated and reference reports: BLEU, ROUGE-L, CIDEr and METEOR."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Features, Value

from .metric import CxrMetric

try:
    from nltk.stem.porter import PorterStemmer
    from nltk.tokenize import TreebankWordTokenizer
    from nltk.translate.meteor_score import single_meteor_score
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer, cook_refs, cook_test
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
except ImportError as error:
    raise ImportError("BLEU, ROUGE-L, CIDEr and METEOR need `pip install transformers-cxr[evaluate]`.") from error

# What pycocoevalcap leaves out after tokenization, as the Treebank tokenizer of NLTK writes it.
_PUNCTUATION = frozenset(["''", "'", "``", "`", "(", ")", "{", "}", ".", "?", "!", ",", ":", "-", "--", "...", ";"])


def tokenize(report: str) -> list[str]:
    """
    The words of a report in lower case: Penn Treebank tokens without punctuation, as in pycocoevalcap, but made by NLTK, which
    needs no Java. A full stop within a sentence stays with its word there, so each line and sentence is tokenized by itself.
    """
    tokenizer = TreebankWordTokenizer()
    sentences = [part for line in report.lower().splitlines() for part in line.replace(". ", " . ").split(" . ")]
    return [token for sentence in sentences for token in tokenizer.tokenize(sentence) if token not in _PUNCTUATION]


@dataclass(frozen=True)
class TextUnit:
    """
    What [`TextOverlap`] keeps of a report.

    bleu (`dict`): the counts of n-grams that match, as pycocoevalcap keeps them.
    rouge_l, cider (`float`): the scores of this report.
    """

    bleu: dict
    rouge_l: float
    cider: float


class TextOverlap(CxrMetric):
    """
    BLEU-1 to 4, ROUGE-L and CIDEr as pycocoevalcap computes them (arXiv 2305.11490, table 5), with one reference a report and
    the tokens of [`tokenize`].

    - `bleu_1` to `bleu_4` (Papineni et al. 2002): of the corpus, not a mean over reports; in [0, 1].
    - `rouge_l` (Lin 2004): mean over reports of the F of the longest common subsequence, beta 1.2; in [0, 1].
    - `cider` (Vedantam et al. 2015, arXiv 1411.5726, the CIDEr-D of COCO): mean over reports, in [0, 10]. Its weights come from
      how many reference reports hold an n-gram, so it is NaN for one report alone, it is low where all references are alike,
      and numbers of different sets of references do not compare. The weights are those of all studies that were prepared.

    A unit is a [`TextUnit`].
    """

    FEATURES = Features({"predictions": Value("string"), "references": Value("string")})

    def _units(self, predictions: Sequence[str], references: Sequence[str]) -> list[TextUnit]:
        given = {i: [" ".join(tokenize(report))] for i, report in enumerate(predictions)}
        wanted = {i: [" ".join(tokenize(report))] for i, report in enumerate(references)}
        if len(wanted) > 1 and any(reference for (reference,) in wanted.values()):
            _, cider = Cider().compute_score(wanted, given)
        else:
            cider = [float("nan")] * len(wanted)
        _, rouge_l = Rouge().compute_score(wanted, given)
        return [
            TextUnit(cook_test(given[i][0], cook_refs(wanted[i])), float(rouge_l[i]), float(cider[i])) for i in wanted
        ]

    def aggregate(self, units: Sequence[TextUnit]) -> dict[str, float]:
        scorer = BleuScorer(n=4)
        scorer.ctest = [unit.bleu for unit in units]
        bleu, _ = scorer.compute_score(option="closest", verbose=0)
        return {
            **{f"bleu_{n}": float(score) for n, score in enumerate(bleu, start=1)},
            "rouge_l": float(np.mean([unit.rouge_l for unit in units])),
            "cider": float(np.mean([unit.cider for unit in units])),
        }


class Meteor(CxrMetric):
    """
    METEOR, in [0, 1], with the tokens of [`tokenize`]. The variants (`config_name`) do not compare:

    - `"stem"`: NLTK's (Banerjee and Lavie 2005), a mean over reports, of words and Porter stems. It has no synonyms, whose
      WordNet would be a download.
    - `"1.5"`: METEOR 1.5 with synonyms and paraphrases (Denkowski and Lavie 2014), of the corpus, as pycocoevalcap computes it
      and papers report it. It needs Java.

    A unit is the score of a report (`"stem"`) or its counts, `np.ndarray` of shape `(23,)` (`"1.5"`).

    Raises:
        OSError: `"1.5"`, and there is no Java (raised by `prepare`).
    """

    CONFIG_NAMES = ("stem", "1.5")
    FEATURES = Features({"predictions": Value("string"), "references": Value("string")})

    def _units(self, predictions: Sequence[str], references: Sequence[str]) -> list[float] | list[np.ndarray]:
        given, wanted = [tokenize(report) for report in predictions], [tokenize(report) for report in references]
        if self.config_name == "stem":
            stemmer, synonyms = PorterStemmer(), _NoSynonyms()
            return [single_meteor_score(w, g, stemmer=stemmer, wordnet=synonyms) for g, w in zip(given, wanted)]
        if shutil.which("java") is None:
            raise OSError("METEOR 1.5 needs Java, and there is no 'java' on the PATH. The variant 'stem' needs none.")
        from pycocoevalcap.meteor.meteor import Meteor as MeteorOfJava

        meteor = MeteorOfJava()
        lines = [meteor._stat(" ".join(g), [" ".join(w)]) for g, w in zip(given, wanted)]
        units = [np.array(line.split(), dtype=np.float64) for line in lines]
        for counts in units:
            # METEOR takes the one chunk of a perfect report for none.
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
    METEOR 1.5 (Denkowski and Lavie 2014, section 2) with its parameters for English.

    Args:
        counts (`np.ndarray` of shape `(23,)`):
            Words of hypothesis and reference, function words of both; for each of the four matchers the matched content words
            of both and the matched function words of both; chunks, and the matched words of both.
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
