"""A whole evaluation: the outputs of a checkpoint for each task, their metrics, and the files with the results."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..checkpoints import load_checkpoint, model_fingerprint
from ..data.readers.image_folder import READ_ERRORS
from ..data.records import StudyRecord, records_fingerprint
from ..data.store import open_records
from ..files import atomic_write
from ..llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor
from .arguments import EvaluationArguments
from .examples import Example
from .predictions import Prediction, distributed_state, predict
from .results.intervals import Estimate, bootstrap
from .results.page import html_report
from .results.sections import results_to_markdown, shown_results
from .results.tables import Result, write_run
from .tasks import TASKS, Task

_NUM_SAMPLES = 6


def run_evaluation(arguments: EvaluationArguments) -> list[Result] | None:
    """
    Evaluate a checkpoint and write to `arguments.output_dir`

    - `results.json`: all results with intervals and cost, and the arguments; `tables.md`: those that are defined, as
      tables;
    - `report.html`: a self-contained page with the most important results, samples, plots and tables;
    - `predictions/TASK/`: outputs beside their references, from which an interrupted run resumes. With all outputs
      only the metrics are computed again;
    - `images/`: generated images.

    X-rays that cannot be read are named on the standard error output, and their examples left out. Under `accelerate
    launch` all processes generate, and the main process computes the metrics.

    Args:
        arguments ([`EvaluationArguments`]):
            Model, data, tasks and metrics.

    Returns:
        `list[Result]`: the results; `None` in all processes but the main one.

    Raises:
        ImportError: a package of the extra `evaluate` is not installed.
        FileNotFoundError: there are no such records, texts or checkpoint.
        ValueError: a task is unknown or has no examples or no readable X-ray, the checkpoint is not an LLM-CXR, or the
            output folder has outputs of other settings.
    """
    folder, state = Path(arguments.output_dir), distributed_state()
    records = _read_records(arguments)
    examples = _examples_of_tasks(arguments, records)
    # A server on this machine has the memory of the GPU.
    model, processor = load_checkpoint(arguments.model, "cpu" if arguments.server else state.device)
    server_model = None
    if arguments.server:
        from ..serving.client import ServerModel

        server_model = ServerModel(arguments.server, model.config, model.generation_config, model.vq_tokenizer)
        server_model.check_weights(model)
    unreadable = _unreadable_images(records, examples, processor.image_processor)
    for image, error in unreadable.items() if state.is_main_process else ():
        tqdm.write(f"Not read: {image}: {error}", file=sys.stderr)
    examples = {task: [e for e in own if e.image_path not in unreadable] for task, own in examples.items()}
    if emptied := [task.name for task, own in examples.items() if not own]:
        raise ValueError(f"No X-ray of the tasks {', '.join(emptied)} can be read.")
    fingerprint = model_fingerprint(model, processor)
    data, predictions = records_fingerprint(records), {}
    for task in filter(lambda task: task.generate is not None, examples):
        settings = {name: getattr(arguments, name) for name in ("sections", "seed", *task.settings)}
        generator = model
        if server_model is not None and task.runs_on_server:
            # It has random numbers of its own.
            generator, settings["server"] = server_model, True
        predictions[task] = predict(
            examples[task],
            lambda batch, task=task, generator=generator: task.generate(generator, processor, batch),
            folder / "predictions" / task.name,
            {"model": fingerprint, "data": data} | settings,
            arguments.batch_size,
            task.name,
        )
    if not state.is_main_process:
        return None

    results, samples = [], {}
    for task, own in examples.items():
        outputs = [prediction.output for prediction in predictions.get(task, ())]
        outputs = task.load_outputs(folder, own, outputs, processor)
        results += _results(task, own, task.metrics(own, outputs, model, processor))
        shown = slice(_NUM_SAMPLES)
        samples[task.name] = task.samples(own[shown], outputs[shown], processor.image_processor)
    for task, own in predictions.items():
        results += _cost(task, own)
    name = arguments.model or "llm-cxr"
    write_run(folder, {"model": name, "fingerprint": fingerprint, "arguments": asdict(arguments)}, results)
    facts = _facts(arguments, examples) | ({"Not read": f"{len(unreadable)} X-rays"} if unreadable else {})
    page = html_report(f"Evaluation of {Path(name).name}", facts, results, samples)
    texts = {"tables.md": results_to_markdown(shown_results(results)), "report.html": page}
    for file, text in texts.items():
        with atomic_write(folder / file) as partial:
            partial.write_text(text + "\n", encoding="utf-8")
    return results


def _read_records(arguments: EvaluationArguments) -> list[StudyRecord]:
    records = [
        record for path in arguments.records for split in arguments.split for record in open_records(path, split)
    ]
    return [record for record in records if not arguments.views or record.view in arguments.views]


def _examples_of_tasks(arguments: EvaluationArguments, records: Sequence[StudyRecord]) -> dict[Task, list[Example]]:
    """Return the examples of the tasks that were asked for, or of all that have examples."""
    if unknown := sorted(set(arguments.tasks) - set(TASKS)):
        raise ValueError(f"Unknown tasks {unknown}; expected some of {', '.join(TASKS)}.")
    if arguments.training_split and not (arguments.records and arguments.features):
        raise ValueError(
            "`--training-split` needs `--records` with the training images and `--features` to compare them in."
        )
    tasks = [TASKS[name](arguments) for name in TASKS if not arguments.tasks or name in arguments.tasks]
    examples = {task: task.examples(records) for task in tasks}
    for task in [task for task in tasks if not examples[task]]:
        if arguments.tasks:
            raise ValueError(f"The task '{task.name}' has no examples in `--records` or `--texts`.")
        del examples[task]
    if not examples:
        raise ValueError("No task has examples in `--records` or `--texts`. Give at least one of them.")
    for task, own in examples.items():
        id_, count = Counter(example.id for example in own).most_common(1)[0]
        if count > 1:
            raise ValueError(f"Expected unique ids for the task '{task.name}', but '{id_}' occurs {count} times.")
    return examples


def _unreadable_images(
    records: Sequence[StudyRecord], examples: dict[Task, list[Example]], image_processor: LlmCxrImageProcessor
) -> dict[Path, Exception]:
    """Return the X-rays of examples that cannot be read, with the errors."""
    # The file of an example without an X-ray is of texts.
    used = {example.image_path for own in examples.values() for example in own}
    paths = sorted(used.intersection(Path(record.image) for record in records))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        errors = pool.map(partial(_read_error, image_processor), paths)
        errors = list(tqdm(errors, desc="reading", total=len(paths), unit="image", leave=False))
    return {path: error for path, error in zip(paths, errors) if error is not None}


def _read_error(image_processor: LlmCxrImageProcessor, path: Path) -> Exception | None:
    """Return why an X-ray cannot be read."""
    try:
        image_processor(path)
    except READ_ERRORS as error:
        return error
    return None


def _facts(arguments: EvaluationArguments, examples: dict[Task, list[Example]]) -> dict[str, str]:
    """Return what was evaluated, in words."""
    of_images = [example for own in examples.values() for example in own if example.source]
    images = {example.image_path: example.source for example in of_images}
    references = {example.label_derived for example in of_images if example.reference}
    facts = {}
    if images:
        counts = ", ".join(f"{source} {count}" for source, count in Counter(images.values()).most_common())
        patients = len({example.patient for example in of_images})
        facts["X-rays"] = f"{counts} (split {', '.join(arguments.split)}, {patients} patients)"
    if references:
        facts["References"] = "written from labels" if references == {True} else "reports and answers of the data"
        facts["References"] += ", some written from labels" if len(references) > 1 else ""
    if arguments.texts:
        facts["Texts"] = Path(arguments.texts).name
    return facts


def _results(task: Task, examples: Sequence[Example], measurements: Sequence) -> list[Result]:
    results, arguments = [], task.arguments
    steps = [(group, rows, m) for group, rows in task.groups(examples).items() for m in measurements]
    for group, rows, measurement in tqdm(steps, desc=f"{task.name}: intervals", unit="table"):
        estimates = bootstrap(
            measurement.aggregate,
            [measurement.units[row] for row in rows],
            [examples[row].patient for row in rows],
            arguments.num_resamples,
            arguments.seed,
            measurement.distinct,
        )
        results += [Result(task.name, group, measurement.prefix + name, e) for name, e in estimates.items()]
    return results


def _cost(task: Task, predictions: Sequence[Prediction]) -> list[Result]:
    """Return the cost of all outputs of a task, which an earlier run may have generated."""
    cost = {
        "seconds_per_100_examples": float(np.mean([prediction.seconds for prediction in predictions])) * 100,
        "peak_mib": max(prediction.peak_mib for prediction in predictions),
    }
    size = (len(predictions), len({prediction.example.patient for prediction in predictions}))
    nan = float("nan")
    return [Result("cost", task.name, name, Estimate(value, nan, nan, *size)) for name, value in cost.items()]
