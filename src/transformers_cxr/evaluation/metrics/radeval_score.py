"""Metrics of generated reports that need a model of their own, computed by radeval."""

from __future__ import annotations

from collections.abc import Sequence

from .metric import CxrMetric, Score

# The weights that each metric downloads; radeval's own errors do not name them.
_DOWNLOADS = {
    "radgraph": "'radgraph-xl.tar.gz' of 'StanfordAIMI/RRG_scorers' and the encoder that it names",
    "radcliq": "'radgraph.tar.gz' and 'chexbert.pth' of 'StanfordAIMI/RRG_scorers', 'bert-base-uncased', "
    "'distilroberta-base'",
    "green": "'StanfordAIMI/GREEN-radllama2-7b'",
    "ratescore": "'Angelakeke/RaTE-NER-Deberta' and 'FremyCompany/BioLORD-2023-C'",
    "bertscore": "'distilbert-base-uncased'",
}


class RadEvalScore(CxrMetric):
    """
    A metric of radeval (Xu et al. 2025), selected by `config_name`; a score is the mean over the reports.

    - `"radgraph"`: F1 of entities and relations (Delbrouck et al. 2022, arXiv 2210.12186): `radgraph_simple`,
      `radgraph_partial`, `radgraph_complete`, in [0, 1].
    - `"radcliq"`: `radcliq_v1` (Yu et al. 2023, doi 10.1016/j.patter.2023.100802), an estimate of the number of
      errors, lower is better.
    - `"green"`: `green` (Ostmeier et al. 2024, arXiv 2405.03595), in [0, 1].
    - `"ratescore"`: `ratescore` (Zhao et al. 2024, arXiv 2406.16845), in [0, 1].
    - `"bertscore"`: `bertscore` (Zhang et al. 2020, arXiv 1904.09675) of distilbert-base-uncased, at most 1.

    A unit is a `dict` of the scores of a report.

    Raises:
        ImportError: radeval or a dependency of the metric is not installed (raised by `prepare`).
        OSError: the weights cannot be read or downloaded (raised by `prepare`).
    """

    CONFIG_NAMES = tuple(_DOWNLOADS)
    SCORES = {
        "radgraph_*": Score("RadGraph-F1", "F1 of clinical entities and their relations, in [0, 1]."),
        "radcliq_v1": Score("RadCliQ", "Estimated number of errors in a report.", higher_is_better=False),
        "green": Score("GREEN", "Share of the findings that a language model judges as right, in [0, 1]."),
        "ratescore": Score("RaTEScore", "Similarity of the medical entities of the reports, in [0, 1]."),
        "bertscore": Score("BERTScore", "Similarity of the words of the reports in context, at most 1."),
    }

    def prepare(self, predictions: Sequence[str], references: Sequence[str]) -> list[dict[str, float]]:
        try:
            from radeval import RadEval
        except ImportError as error:
            raise ImportError(
                f"'{self.config_name}' needs radeval: `pip install transformers-cxr[radeval]`."
            ) from error
        try:
            evaluator = RadEval(metrics=[self.config_name], per_sample=True)
        # Extensions compiled for another numpy raise ValueError at import.
        except (ImportError, ValueError) as error:
            raise ImportError(f"The installed radeval cannot load '{self.config_name}': {error}.") from error
        except OSError as error:
            raise OSError(
                f"radeval could not load the weights of '{self.config_name}': {_DOWNLOADS[self.config_name]}. Run it "
                "once on a machine with internet access and copy its '~/.cache' to this machine."
            ) from error
        columns = evaluator(refs=list(references), hyps=list(predictions))
        return [dict(zip(columns, map(float, row))) for row in zip(*columns.values())]
