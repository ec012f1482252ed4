"""Evaluation of a checkpoint: tasks, metrics, results, a reader study and ReXrank submissions."""

from .._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        ".runner": ("run_evaluation",),
        ".arguments": ("EvaluationArguments",),
        ".tasks": ("TASKS", "Task"),
        ".examples": ("Example",),
        ".results.comparison": ("compare_runs",),
        ".results.intervals": ("Estimate", "bootstrap", "paired_difference"),
        ".results.model_card": ("prepare_model_card", "update_document", "update_model_card"),
        ".results.tables": ("Result",),
        ".reader_study": ("export_reader_study", "score_reader_study"),
        ".rexrank": ("write_rexrank_predictions",),
    },
)
