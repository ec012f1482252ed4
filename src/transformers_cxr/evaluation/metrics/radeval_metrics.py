"""The metrics of reports that need a language model of their own, as radeval runs them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasets import Features, Value

from .metric import CxrMetric

# What each metric loads, which radeval does not say.
_DOWNLOADS = {
    "radgraph": "'radgraph-xl.tar.gz' of 'StanfordAIMI/RRG_scorers' and the encoder that it names",
    "radcliq": "'radgraph.tar.gz' and 'chexbert.pth' of 'StanfordAIMI/RRG_scorers', 'bert-base-uncased', 'distilroberta-base'",
    "green": "'StanfordAIMI/GREEN-radllama2-7b'",
    "ratescore": "'Angelakeke/RaTE-NER-Deberta' and 'FremyCompany/BioLORD-2023-C'",
    "bertscore": "'distilbert-base-uncased'",
}


class RadEvalScore(CxrMetric):
    """
    A metric of radeval (Xu et al. 2025), chosen by `config_name`; a number is the mean over the reports.

    - `"radgraph"`: F1 of entities and relations (Delbrouck et al. 2022, arXiv 2210.12186): `radgraph_simple`,
      `radgraph_partial`, `radgraph_complete`, in [0, 1].
    - `"radcliq"`: `radcliq_v1` (Yu et al. 2023, doi 10.1016/j.patter.2023.100802), an estimate of the number of errors, lower
      is better.
    - `"green"`: `green` (Ostmeier et al. 2024, arXiv 2405.03595), in [0, 1].
    - `"ratescore"`: `ratescore` (Zhao et al. 2024, arXiv 2406.16845), in [0, 1].
    - `"bertscore"`: `bertscore` (Zhang et al. 2020, arXiv 1904.09675) of distilbert-base-uncased, at most 1.

    A unit is the numbers of a report by their names.

    Raises:
        ImportError: radeval is not installed, or cannot import what the metric needs (raised by `prepare`).
        OSError: the weights are neither there nor can be downloaded (raised by `prepare`).
    """

    CONFIG_NAMES = tuple(_DOWNLOADS)
    FEATURES = Features({"predictions": Value("string"), "references": Value("string")})

    def _units(self, predictions: Sequence[str], references: Sequence[str]) -> list[dict[str, float]]:
        try:
            from radeval import RadEval
        except ImportError as error:
            raise ImportError(
                f"'{self.config_name}' needs radeval: `pip install transformers-cxr[radeval]`."
            ) from error
        try:
            evaluator = RadEval(metrics=[self.config_name], per_sample=True)
        # Compiled parts made for another numpy raise ValueError when they are imported.
        except (ImportError, ValueError) as error:
            raise ImportError(f"The installed radeval cannot load '{self.config_name}': {error}.") from error
        except OSError as error:
            raise OSError(
                f"radeval could not load the weights of '{self.config_name}'. It needs {_DOWNLOADS[self.config_name]}: run it "
                "once where there is a network, and bring the folder '~/.cache' here."
            ) from error
        columns = evaluator(refs=list(references), hyps=list(predictions))
        return [dict(zip(columns, map(float, row))) for row in zip(*columns.values())]

    def aggregate(self, units: Sequence[dict[str, float]]) -> dict[str, float]:
        return {name: float(np.mean([unit[name] for unit in units])) for name in units[0]}
