"""Results in documents: the tables and the metadata of a model card, and chosen rows in any Markdown file."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard

from .tables import Result, format_number, markdown_table, results_to_markdown

# `<!-- metrics -->` gets all tables, `<!-- metrics: report/kermany/f1_micro, vqa/all/exact_match -->` one of the named rows.
_SECTION = re.compile(r"(<!-- metrics(?P<names>:[^>]*)? -->\n)(.*?)(<!-- end of metrics -->)", re.DOTALL)
_PIPELINE_TASKS = {
    "report": "image-to-text",
    "vqa": "visual-question-answering",
    "language": "text-generation",
    "tokenizer": "image-to-image",
}
# What a reader of a hub needs of each task; the ends of the names of `image`, whose beginnings name a feature space.
_MAIN_METRICS = {
    "report": ("finding_balanced_accuracy", "etiology_balanced_accuracy", "f1_micro_14", "f1_macro_14", "rouge_l"),
    "vqa": ("exact_match", "yes_no_accuracy"),
    "image": ("finding_balanced_accuracy", "etiology_balanced_accuracy", "f1_macro", "_fid", "closer_than_real"),
    "diversity": ("ms_ssim",),
    "language": ("perplexity", "perplexity_ratio"),
    "tokenizer": ("psnr", "ms_ssim"),
    "well-formed": ("well_formed",),
}


def update_document(path: str | Path, results: Sequence[Result]) -> None:
    """
    Writes results between `<!-- metrics -->` and `<!-- end of metrics -->` of a Markdown file: all tables, without the metrics
    that are not defined in any group, or, where the first marker names rows (`<!-- metrics: TASK/GROUP/METRIC, ... -->`), one
    table of these.

    Raises:
        ValueError: the file has no such section, or names a row that is not among the results.
    """
    path = Path(path)
    path.write_text(_filled(path.read_text(encoding="utf-8"), results, str(path)), encoding="utf-8")


def update_model_card(
    path: str | Path,
    results: Sequence[Result],
    model_name: str,
    dataset_name: str,
    dataset_split: str,
    cost: str = "",
) -> None:
    """
    Writes results into a model card: as [`update_document`] does, and the main ones as `model-index` metadata, which hubs
    and leaderboards read, an `EvalResult` a number that is defined. Where there are several sources they are of that one
    which has the most examples, since the numbers of sources that differ say little when they are mixed.

    Args:
        path (`str` or `Path`):
            The model card.
        results (`Sequence[Result]`):
            The numbers.
        model_name (`str`):
            Name of the model in the metadata.
        dataset_name (`str`):
            Name of the dataset.
        dataset_split (`str`):
            The split that was evaluated.
        cost (`str`, *optional*):
            A table of what the evaluation cost, as [`cost_summary`] gives it; it goes below the others.

    Raises:
        ValueError: the card has no section for the tables.
    """
    card = ModelCard.load(path)
    card.text = _filled(card.text, results, str(path), cost)
    card.data.model_name = model_name
    card.data.eval_results = [
        EvalResult(
            task_type=_PIPELINE_TASKS.get(result.task, "text-to-image"),
            dataset_type=re.sub(r"\W+", "-", dataset_name.lower()),
            dataset_name=dataset_name,
            dataset_config=None if result.group == "all" else result.group,
            dataset_split=dataset_split,
            metric_type=result.metric,
            # Results of one type of task and one dataset are one entry, which would hide this.
            metric_name=f"{result.task}: {result.metric.replace('_', ' ')}",
            metric_value=round(result.estimate.value, 4),
        )
        for result in _main_results(results)
    ]
    card.save(path)


def _main_results(results: Sequence[Result]) -> list[Result]:
    main = []
    for task, metrics in _MAIN_METRICS.items():
        own = [result for result in results if result.task == task]
        sources = {r.group: r.estimate.units for r in own if r.group != "all" and ": " not in r.group}
        group = max(sources, key=sources.get, default="all")
        for name in metrics:
            main += [r for r in own if r.group == group and _is_named(r, name) and not math.isnan(r.estimate.value)]
    return main


def _is_named(result: Result, name: str) -> bool:
    if result.task != "image":
        return result.metric == name
    return result.metric.endswith(name) and not result.metric.startswith(("real_", "reconstructed_"))


def _filled(text: str, results: Sequence[Result], path: str, cost: str = "") -> str:
    if not _SECTION.search(text):
        raise ValueError(f"'{path}' has no section between '<!-- metrics -->' and '<!-- end of metrics -->'.")

    def fill(match: re.Match) -> str:
        if match["names"] is None:
            defined = {(r.task, r.metric) for r in results if not math.isnan(r.estimate.value)}
            shown = [r for r in results if (r.task, r.metric) in defined]
            tables = results_to_markdown(shown, "###") + (f"\n### cost\n\n{cost}\n" if cost else "")
            return f"{match[1]}{tables}\n{match[4]}"
        known = {f"{r.task}/{r.group}/{r.metric}": r.estimate for r in results}
        rows = []
        for name in (name.strip() for name in match["names"][1:].split(",")):
            if name not in known:
                raise ValueError(f"'{path}' names '{name}', which is not among the results.")
            estimate = known[name]
            interval = (
                "" if math.isnan(estimate.low) else f"{format_number(estimate.low)} to {format_number(estimate.high)}"
            )
            task, group, metric = name.split("/", 2)
            rows.append([task, group, metric, format_number(estimate.value), interval, str(estimate.units)])
        return f"{match[1]}{markdown_table(['task', 'on', 'metric', 'value', '95 % interval', 'n'], rows)}\n{match[4]}"

    return _SECTION.sub(fill, text)
