"""BLEU, ROUGE-L and CIDEr of generated reports."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .metric import CxrMetric, Score

try:
    from nltk.tokenize import TreebankWordTokenizer
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer, cook_refs, cook_test
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
except ImportError as error:
    raise ImportError("BLEU, ROUGE-L and CIDEr need `pip install transformers-cxr[evaluate]`.") from error

# The tokens that pycocoevalcap removes, in the notation of NLTK's Treebank tokenizer.
_PUNCTUATION = frozenset(["''", "'", "``", "`", "(", ")", "{", "}", ".", "?", "!", ",", ":", "-", "--", "...", ";"])


def tokenize(report: str) -> list[str]:
    """
    Split a report into lower-case Penn Treebank tokens without punctuation, as pycocoevalcap does, but with NLTK,
    which needs no Java. NLTK leaves a full stop within a text at its word, so each line and sentence is tokenized
    separately.
    """
    tokenizer = TreebankWordTokenizer()
    sentences = [part for line in report.lower().splitlines() for part in line.replace(". ", " . ").split(" . ")]
    return [token for sentence in sentences for token in tokenizer.tokenize(sentence) if token not in _PUNCTUATION]


class TextOverlap(CxrMetric):
    """
    BLEU-1 to 4, ROUGE-L and CIDEr as pycocoevalcap computes them (arXiv 2305.11490, table 5), with one reference per
    report and the tokens of [`tokenize`].

    - `bleu_1` to `bleu_4` (Papineni et al. 2002): of the corpus, not a mean over reports; in [0, 1].
    - `rouge_l` (Lin 2004): mean over reports of the F-measure of the longest common subsequence, beta 1.2; in [0, 1].
    - `cider` (Vedantam et al. 2015, arXiv 1411.5726, the CIDEr-D of COCO): mean over reports, in [0, 10]. An n-gram is
      weighted by the number of reference reports that contain it, over all examples of `prepare`. CIDEr is therefore
      NaN for a single report and low if all references are alike, and values for different sets of references cannot
      be compared.

    A unit is a `dict` of `bleu` (counts of matching n-grams, in the format of pycocoevalcap), `rouge_l` and `cider`.
    """

    SCORES = {
        "bleu_*": Score(
            "BLEU", "Precision of sequences of up to 1, 2, 3 or 4 words, in [0, 1]. Rewards wording, not truth."
        ),
        "rouge_l": Score(
            "ROUGE-L",
            "Words in common with the reference in the same order, in [0, 1]. It rewards wording, not truth.",
        ),
        "cider": Score("CIDEr", "Words in common with the reference, in [0, 10]; rare ones count more."),
    }

    def prepare(self, predictions: Sequence[str], references: Sequence[str]) -> list[dict]:
        predictions = {i: [" ".join(tokenize(report))] for i, report in enumerate(predictions)}
        references = {i: [" ".join(tokenize(report))] for i, report in enumerate(references)}
        if len(references) > 1 and any(reference for (reference,) in references.values()):
            _, cider = Cider().compute_score(references, predictions)
        else:
            cider = [float("nan")] * len(references)
        _, rouge_l = Rouge().compute_score(references, predictions)
        bleu = [cook_test(predictions[i][0], cook_refs(references[i])) for i in references]
        return [dict(zip(("bleu", "rouge_l", "cider"), unit)) for unit in zip(bleu, rouge_l, cider)]

    def aggregate(self, units: Sequence[dict]) -> dict[str, float]:
        scorer = BleuScorer(n=4)
        scorer.ctest = [unit["bleu"] for unit in units]
        bleu, _ = scorer.compute_score(option="closest", verbose=0)
        return {
            **{f"bleu_{n}": float(score) for n, score in enumerate(bleu, start=1)},
            "rouge_l": float(np.mean([unit["rouge_l"] for unit in units])),
            "cider": float(np.mean([unit["cider"] for unit in units])),
        }
