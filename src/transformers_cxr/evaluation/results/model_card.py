"""Results in Markdown files: numbers and metadata of a model card, or selected rows of any document."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import EvalResult

from ...hub.cards import model_card, read_model_card
from ..tasks import TASKS
from .headlines import full_title, headlines
from .sections import results_to_markdown, shown_results, summary, table_of
from .tables import Result, read_run

# `<!-- metrics -->` gets all results, `<!-- metrics: report/kermany/f1_micro, vqa/all/exact_match -->` these rows.
_SECTION = re.compile(r"(<!-- metrics(?P<names>:[^>]*)? -->\n)(.*?)(<!-- end of metrics -->)", re.DOTALL)


def update_document(path: str | Path, run: str | Path) -> None:
    """
    Write results between `<!-- metrics -->` and `<!-- end of metrics -->` of a Markdown file: [`card_results`] or, if
    the first marker names rows (`<!-- metrics: TASK/GROUP/METRIC, ... -->`), one table of these.

    Args:
        path (`str` or `Path`), run (`str` or `Path`):
            The Markdown file, and the output folder of [`run_evaluation`].

    Raises:
        FileNotFoundError: `run` is not the folder of a finished evaluation.
        ValueError: the file has no such section, or names a row that is not among the results.
    """
    path, results = Path(path), read_run(run)["results"]
    path.write_text(_fill(path.read_text(encoding="utf-8"), results, str(path)), encoding="utf-8")


def prepare_model_card(path: str | Path, checkpoint: str) -> None:
    """
    Check that [`update_model_card`] can write results into a model card, and write the card if it does not exist.

    Args:
        path (`str` or `Path`), checkpoint (`str`):
            The card, and the folder or Hub name of the model; "" for the embedded checkpoint.

    Raises:
        ValueError: the card has no place for the results, or its metadata are not valid.
    """
    if not Path(path).exists():
        model_card(checkpoint).save(path)
    _check_section(read_model_card(path).text, str(path))


def update_model_card(path: str | Path, run: str | Path) -> None:
    """
    Write results into a model card: text as in [`update_document`], and the ten most important results as
    `model-index` metadata, which the Hub reads.

    Args:
        path (`str` or `Path`), run (`str` or `Path`):
            The model card, and the output folder of [`run_evaluation`].

    Raises:
        FileNotFoundError: `run` is not the folder of a finished evaluation.
        ValueError: the card has no section for the tables.
    """
    card, content = read_model_card(path), read_run(run)
    card.text = _fill(card.text, content["results"], str(path))
    arguments = content["arguments"]
    dataset = ", ".join(Path(name).stem for name in (*arguments["records"], arguments["texts"]) if name)
    card.data.model_name = card.data.model_name or Path(content["model"]).name
    card.data.eval_results = [
        EvalResult(
            task_type=TASKS[result.task].hub_task,
            dataset_type=re.sub(r"\W+", "-", dataset.lower()),
            dataset_name=dataset,
            dataset_config=None if result.group == "all" else result.group,
            dataset_split=", ".join(arguments["split"]),
            metric_type=result.metric,
            # The Hub merges results of the same type of task and dataset.
            metric_name=full_title(result.task, result.metric),
            metric_value=round(result.estimate.value, 6),
        )
        for result in headlines(content["results"])
    ]
    card.save(path)


def card_results(results: Sequence[Result]) -> str:
    """Return the results in a model card: the [`summary`], and all tables folded."""
    tables = results_to_markdown(shown_results(results), "###")
    return f"{summary(results)}\n\n<details>\n<summary>All numbers</summary>\n\n{tables}\n</details>"


def _check_section(text: str, path: str) -> None:
    if not _SECTION.search(text):
        raise ValueError(f"'{path}' has no section between '<!-- metrics -->' and '<!-- end of metrics -->'.")


def _fill(text: str, results: Sequence[Result], path: str) -> str:
    _check_section(text, path)

    def section(match: re.Match) -> str:
        if match["names"] is None:
            return f"{match[1]}{card_results(results)}\n{match[4]}"
        known = {f"{result.task}/{result.group}/{result.metric}": result for result in results}
        names = [name.strip() for name in match["names"][1:].split(",")]
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"'{path}' names '{unknown[0]}', which is not among the results.")
        return f"{match[1]}{table_of(known[name] for name in names)}\n{match[4]}"

    return _SECTION.sub(section, text)
