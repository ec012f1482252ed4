"""What is made of finished evaluations: the comparison of two runs, and the pairs of a reader study."""

from __future__ import annotations

from pathlib import Path

import PIL.Image
import pyarrow.parquet

from ...llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor
from ..examples import Example
from ..measures import image_measures, report_measures, vqa_measures
from ..reader_study import ImagePair, ReportPair
from ..runner import EvaluationArguments
from .intervals import Difference, paired_difference
from .tables import read_run


def compare_runs(
    first: str | Path, second: str | Path, num_resamples: int = 1000, seed: int = 0
) -> list[tuple[str, str, Difference]]:
    """
    Compares the reports, the answers and the drawings of two evaluations on the same examples, by the metrics of the first.

    Args:
        first, second (`str` or `Path`):
            Output folders of [`run_evaluation`].
        num_resamples (`int`, *optional*, defaults to 1000), seed (`int`, *optional*, defaults to 0):
            As in [`paired_difference`].

    Returns:
        `list[tuple[str, str, Difference]]`: task, metric and difference, second less first.

    Raises:
        FileNotFoundError: a folder is not that of a finished evaluation.
        ValueError: the two have no such task in common, or other examples or references in it.
    """
    arguments = EvaluationArguments(**read_run(first)["arguments"])
    read_run(second)
    differences = []
    for task in ("report", "vqa", "image"):
        paths = [Path(folder) / "predictions" / f"{task}.parquet" for folder in (first, second)]
        if not all(path.is_file() for path in paths):
            continue
        (examples, one), (others, other) = (_predictions(path) for path in paths)
        if set(examples) != set(others):
            different = len(set(examples) ^ set(others))
            raise ValueError(
                f"The examples of the task '{task}' are not those of the other run ({different} are in one run only, or have "
                "another reference): evaluate both with the same data, limits and seed."
            )
        outputs = dict(zip(others, other))
        runs = (one, [outputs[example] for example in examples])
        if task == "image":
            rows = ({example: row for row, example in enumerate(run)} for run in (examples, others))
            runs = tuple(
                [str(Path(folder) / "images" / f"{of[example]:05d}.png") for example in examples]
                for folder, of in zip((first, second), rows)
            )
        make = {"report": report_measures, "vqa": vqa_measures, "image": image_measures}[task]
        patients = [example.patient for example in examples]
        for before, after in zip(*(make(examples, run, arguments) for run in runs)):
            found = paired_difference(
                before.aggregate,
                before.units,
                after.units,
                patients,
                num_resamples,
                seed=seed,
                distinct=before.distinct,
            )
            differences += [(task, before.prefix + name, difference) for name, difference in found.items()]
    if not differences:
        raise ValueError(f"'{first}' and '{second}' have no metric of reports, answers or drawings in common.")
    return differences


def reader_study_pairs(
    evaluation: str | Path, num_images: int, num_reports: int
) -> tuple[list[ImagePair], list[ReportPair]]:
    """
    The first drawings and reports of a finished evaluation, whose order is random, beside what is real.

    Args:
        evaluation (`str` or `Path`):
            Output folder of [`run_evaluation`].
        num_images, num_reports (`int`):
            Pairs of each kind.

    Raises:
        FileNotFoundError: the folder is not that of a finished evaluation.
        ValueError: it has fewer drawings or reports.
    """
    read_run(evaluation)
    found = {}
    for task, wanted in (("image", num_images), ("report", num_reports)):
        path = Path(evaluation) / "predictions" / f"{task}.parquet"
        pairs = list(zip(*_predictions(path))) if path.is_file() else []
        if len(pairs) < wanted:
            raise ValueError(f"'{evaluation}' has {len(pairs)} examples of the task '{task}', fewer than {wanted}.")
        found[task] = pairs[:wanted]
    image_pairs = []
    for row, (example, _) in enumerate(found["image"]):
        with PIL.Image.open(Path(evaluation) / "images" / f"{row:05d}.png") as file:
            generated = file.convert("L")
        image_pairs.append(
            ImagePair(example.patient, example.prompt, _grey(example.image_path, generated.height), generated)
        )
    report_pairs = [
        ReportPair(example.patient, _grey(example.image_path, 256), example.reference, report)
        for example, report in found["report"]
    ]
    return image_pairs, report_pairs


def _predictions(path: Path) -> tuple[list[Example], list]:
    rows = pyarrow.parquet.read_table(path).to_pylist()
    examples = [
        Example(r["id"], r["patient"], r["source"], Path(r["image"]), r["prompt"], r["reference"], r["kind"])
        for r in rows
    ]
    return examples, [row["prediction"] for row in rows]


def _grey(path: Path, size: int) -> PIL.Image.Image:
    """An X-ray of mode "L", prepared as for a model of images of `size` pixels a side."""
    square = {"height": size, "width": size}
    processor = LlmCxrImageProcessor(size={"shortest_edge": size}, crop_size=square, do_convert_rgb=False)
    return processor.postprocess(processor([path], return_tensors="pt").pixel_values)[0]
