"""A whole evaluation: what a checkpoint gives for each task, what is measured of it, and the files that tell of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet
import torch
from tqdm import tqdm
from transformers import AutoModel, AutoProcessor

from ..checkpoints import checkpoint
from ..data.store import open_records
from ..files import atomic_write, file_fingerprint
from ..llm_cxr.image_processing_llm_cxr import save_image
from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
from ..llm_cxr.processing_llm_cxr import REPORT_INSTRUCTION, LlmCxrProcessor
from . import examples as references
from .examples import Example
from .generations import (
    code_generator,
    fingerprint,
    generate,
    image_generator,
    interleaved_generator,
    processes,
    read_generations,
    seed_of,
    text_generator,
)
from .measures import Measure, measures_of
from .results.intervals import bootstrap
from .results.page import Sample, html_report
from .results.tables import Result, markdown_table, results_to_json, results_to_markdown
from .tasks.corruptions import CORRUPTIONS, LEVELS, corrupt

TASKS = ("report", "image", "diversity", "vqa", "language", "tokenizer", "well-formed", "robustness")
_NUM_SAMPLES = 6
_IMAGES_A_PROMPT = 4
_CLEAN = "none"


@dataclass
class EvaluationArguments:
    """Settings of [`run_evaluation`]; each has its help where it is declared."""

    output_dir: str = field(metadata={"help": "where all of it is written; a run that was cut off goes on from there"})
    data_dir: str = field(
        default="", metadata={"help": "imagefolder with a metadata.csv, for label-derived references"}
    )
    reports: str = field(
        default="", metadata={"help": "reference reports, JSON or Parquet, in place of label-derived ones"}
    )
    questions: str = field(
        default="", metadata={"help": "reference answers, JSON or Parquet, in place of label-derived ones"}
    )
    texts: str = field(default="", metadata={"help": "text file, a paragraph a text, whose perplexity is measured"})
    model: str = field(default="", metadata={"help": "checkpoint; the embedded one by default"})
    base_model: str = field(
        default="", metadata={"help": "the language model before it was fine-tuned, for its perplexity"}
    )
    split: str = field(default="validation", metadata={"help": "split of the metadata"})
    tasks: list[str] = field(
        default_factory=list,
        metadata={"help": f"some of {', '.join(TASKS)}; by default all that there are references for"},
    )
    limit: int | None = field(
        default=None, metadata={"help": "examples of each task, for a quick look; all by default"}
    )
    num_questions: int = field(default=400, metadata={"help": "questions, drawn from all that there are"})
    num_drawings: int = field(default=200, metadata={"help": "X-rays that are drawn"})
    num_corrupted: int = field(default=50, metadata={"help": "X-rays that are read under every corruption"})
    num_diverse: int = field(
        default=20, metadata={"help": "reports that several X-rays are drawn of, for their diversity"}
    )
    labeler: str = field(
        default="rules", metadata={"help": "labeler of reports: rules, or chexbert (needs its weights)"}
    )
    radeval: list[str] = field(
        default_factory=list,
        metadata={"help": "radgraph, radcliq, green, ratescore, bertscore (each needs its weights)"},
    )
    classifier: str = field(
        default="",
        metadata={"help": "classifier of X-rays: folder, or name of torchxrayvision, for labels of drawings"},
    )
    features: list[str] = field(
        default_factory=list,
        metadata={"help": "feature spaces of drawings: inception, rad-dino, a name of torchxrayvision, a folder"},
    )
    training_split: str = field(default="", metadata={"help": "split that is searched for copies among the drawings"})
    max_new_tokens: int = field(default=256, metadata={"help": "longest report and answer"})
    guidance_scale: float | None = field(
        default=None, metadata={"help": "classifier-free guidance of drawing; that of the checkpoint by default"}
    )
    top_p: float | None = field(
        default=None, metadata={"help": "nucleus of drawing; that of the checkpoint by default"}
    )
    instruction: str = field(default=REPORT_INSTRUCTION, metadata={"help": "the prompt of reports"})
    batch_size: int = field(default=32, metadata={"help": "sequences at once"})
    num_resamples: int = field(default=1000, metadata={"help": "resamples of the intervals"})
    seed: int = field(default=0, metadata={"help": "seed of wording, samples, drawings and resamples"})


def run_evaluation(arguments: EvaluationArguments) -> list[Result] | None:
    """
    Evaluates a checkpoint, and writes in `arguments.output_dir`

    - `results.json`: every number with its interval, what was evaluated, and what it cost; `tables.md`: the same as tables;
    - `report.html`: a page of tables, plots and samples, which needs nothing beside itself;
    - `predictions/TASK.parquet`: what the model gave, beside the references; `images/`: what it drew;
    - `generations/`: the cache of [`generate`], with which a run that was cut off goes on, and metrics are computed again
      without the model giving anything again.

    Under `accelerate launch` all processes generate, and the main one measures.

    Args:
        arguments ([`EvaluationArguments`]):
            What to evaluate, on what, and how.

    Returns:
        `list[Result]`: the numbers; `None` in all processes but the main one.

    Raises:
        ImportError: a package of the extra `evaluate` is not installed.
        FileNotFoundError: data or references are not there.
        ValueError: a task is unknown or has no references, references are empty or have an id twice, the checkpoint is no
            LLM-CXR, or the output folder is that of another run.
    """
    tasks = _tasks(arguments)
    examples = _examples(arguments, tasks)
    folder, state = Path(arguments.output_dir), processes()
    # An evaluation of language alone generates nothing.
    begun = any((folder / name).is_dir() for name in ("generations", "predictions"))
    if folder.is_dir() and any(folder.iterdir()) and not begun:
        raise ValueError(f"'{folder}' holds other files than those of an evaluation: choose another output folder.")
    model, processor = load_checkpoint(arguments.model or checkpoint("llm-cxr"), state.device)

    settings = {"model": fingerprint(model, processor)}
    outputs = {}
    for task, (produce, own) in _generators(arguments, tasks, model, processor).items():
        own = settings | _data_settings(arguments, task) | own
        cache = folder / "generations" / task
        size = max(1, arguments.batch_size // _IMAGES_A_PROMPT) if task == "diversity" else arguments.batch_size
        outputs[task] = generate(examples[task], produce, cache, own, size, task)
    if not state.is_main_process:
        return None

    processor.vq_tokenizer = model.vq_tokenizer
    results, began = [], time.perf_counter()
    _write_predictions(folder, examples, outputs)
    if "image" in outputs:
        outputs["image"] = _write_drawings(folder / "images", outputs["image"], processor)
    for task in tasks:
        measures = measures_of(task, examples[task], outputs.get(task), model, processor, arguments)
        results += _results(task, examples[task], measures, arguments)
    cost = _cost(folder, examples)
    cost["metrics"] = {"seconds": time.perf_counter() - began}
    run = {
        "model": arguments.model or "llm-cxr",
        "fingerprint": settings["model"],
        "arguments": asdict(arguments),
        "cost": cost,
    }
    _write(folder / "results.json", json.dumps(run | {"results": results_to_json(results)}, indent=1, allow_nan=False))
    header, rows = _cost_table(cost)
    _write(folder / "tables.md", f"{results_to_markdown(results)}\n## cost\n\n{markdown_table(header, rows)}")
    facts = [("model", f"{run['model']} ({run['fingerprint']})"), ("data", _data_name(arguments))]
    facts += [(task, cost) for task, cost in rows]
    _write(folder / "report.html", html_report("Evaluation", facts, results, _samples(examples, outputs, processor)))
    return results


def cost_summary(output_dir: str | Path) -> str:
    """Time and memory of a finished evaluation as a Markdown table."""
    run = json.loads((Path(output_dir) / "results.json").read_text(encoding="utf-8"))
    return markdown_table(*_cost_table(run["cost"]))


def _tasks(arguments: EvaluationArguments) -> list[str]:
    if unknown := [task for task in arguments.tasks if task not in TASKS]:
        raise ValueError(f"No task {', '.join(map(repr, unknown))}; there are {', '.join(TASKS)}.")
    needed = {
        "report": "`data_dir` or `reports`" if not (arguments.data_dir or arguments.reports) else "",
        "vqa": "`data_dir` or `questions`" if not (arguments.data_dir or arguments.questions) else "",
        "language": "" if arguments.texts else "`texts`",
    }
    needed |= dict.fromkeys(("image", "diversity", "tokenizer", "well-formed", "robustness"), needed["report"])
    if lacking := [task for task in arguments.tasks if needed[task]]:
        raise ValueError(f"The task '{lacking[0]}' needs {needed[lacking[0]]}.")
    if arguments.training_split and not (arguments.data_dir and arguments.features):
        raise ValueError(
            "`training_split` needs `data_dir`, where its images are, and `features`, to compare them in."
        )
    tasks = arguments.tasks or [task for task in TASKS if not needed[task]]
    if not tasks:
        raise ValueError("There is nothing to evaluate on: give `data_dir`, `reports`, `questions` or `texts`.")
    return [task for task in TASKS if task in tasks]


def _examples(arguments: EvaluationArguments, tasks: list[str]) -> dict[str, list[Example]]:
    """The examples of each task, in an order of which a smaller evaluation takes the beginning."""
    seed, studies = arguments.seed, []
    if arguments.data_dir:
        studies = open_records(arguments.data_dir, arguments.split)
    found: dict[str, Callable[[], list[Example]]] = {
        "report": lambda: references.label_derived_reports(studies, arguments.instruction, seed),
        "image": lambda: references.label_derived_drawings(studies, seed),
        "vqa": lambda: references.label_derived_questions(studies, seed),
        "language": lambda: references.read_texts(arguments.texts),
        "tokenizer": lambda: references.images_of(studies),
    }
    if arguments.reports:
        reports = references.read_reports(arguments.reports, arguments.instruction)
        found |= {"report": lambda: reports, "image": lambda: references.drawings_of(reports)}
        found |= {"tokenizer": lambda: reports}
    if arguments.questions:
        found["vqa"] = lambda: references.read_questions(arguments.questions)
    found |= {"diversity": found["image"], "well-formed": found["image"], "robustness": found["report"]}
    sizes = {"vqa": arguments.num_questions, "image": arguments.num_drawings, "well-formed": arguments.num_drawings}
    sizes |= {"diversity": arguments.num_diverse, "robustness": arguments.num_corrupted}
    examples = {}
    for task in tasks:
        limits = [size for size in (sizes.get(task), arguments.limit) if size is not None]
        examples[task] = references.sample(
            references.checked(found[task](), f"the task '{task}'"), min(limits, default=None), seed
        )
    if "robustness" in tasks:
        grades = [(_CLEAN, 0)] + [(name, level) for name in CORRUPTIONS for level in LEVELS]
        examples["robustness"] = [
            Example(
                f"{e.id}@{name} {level}", e.patient, e.source, e.image_path, e.prompt, e.reference, f"{name} {level}"
            )
            for name, level in grades
            for e in examples["robustness"]
        ]
    return examples


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> tuple[LlmCxrForCausalLM, LlmCxrProcessor]:
    """
    A checkpoint and its processor, for generation.

    Raises:
        ValueError: the checkpoint is no LLM-CXR.
    """
    model = AutoModel.from_pretrained(path)
    if not isinstance(model, LlmCxrForCausalLM):
        raise ValueError(f"'{path}' is a {type(model).__name__}; expected an LLM-CXR checkpoint.")
    processor = AutoProcessor.from_pretrained(path)
    model.check_processor(processor)
    return model.eval().to(device), processor


def _generators(
    arguments: EvaluationArguments, tasks: list[str], model: LlmCxrForCausalLM, processor: LlmCxrProcessor
) -> dict[str, tuple[Callable, dict]]:
    """For each task that the model gives something for: what gives it, and what it depends on."""
    seed, text = arguments.seed, {"max_new_tokens": arguments.max_new_tokens}
    given = {"guidance_scale": arguments.guidance_scale, "top_p": arguments.top_p}
    drawing = model.generation_config.image_generation | {name: value for name, value in given.items() if value is not None}
    read = text_generator(model, processor, **text)

    def corrupted(pixels: torch.FloatTensor, example: Example) -> torch.FloatTensor:
        name, level = example.kind.split(" ")
        return pixels if name == _CLEAN else corrupt(pixels, name, int(level), seed_of(seed, example))

    generators = {
        "report": (read, text),
        "vqa": (read, text),
        "image": (image_generator(model, processor, seed, **drawing), drawing | {"seed": seed}),
        "diversity": (
            image_generator(model, processor, seed, num_images=_IMAGES_A_PROMPT, **drawing),
            drawing | {"seed": seed, "num_images": _IMAGES_A_PROMPT},
        ),
        "tokenizer": (code_generator(model, processor), {}),
        "well-formed": (
            interleaved_generator(model, processor, seed, temperature=2.0),
            {"temperature": 2.0, "seed": seed},
        ),
        "robustness": (text_generator(model, processor, transform=corrupted, **text), text | {"seed": seed}),
    }
    return {task: generators[task] for task in tasks if task in generators}


def _data_settings(arguments: EvaluationArguments, task: str) -> dict[str, str]:
    file = arguments.questions if task == "vqa" else arguments.reports
    if file:
        return {"data": file_fingerprint(file)}
    return {"data": file_fingerprint(Path(arguments.data_dir) / "metadata.csv"), "split": arguments.split}


def _data_name(arguments: EvaluationArguments) -> str:
    paths = [arguments.data_dir, arguments.reports, arguments.questions, arguments.texts]
    names = [Path(path).name for path in paths if path]
    return ", ".join(names) + (f", {arguments.split} split" if arguments.data_dir else "")


def _groups(task: str, examples: list[Example]) -> dict[str, list[int]]:
    """The rows of each group of examples that gets numbers of its own."""
    if task == "robustness":
        return _rows_by(examples, lambda e: [e.kind])
    groups = {"all": list(range(len(examples)))}
    by_source = _rows_by(examples, lambda e: [e.source])
    if len(by_source) > 1:
        groups |= dict(sorted(by_source.items()))
    if task == "image":
        by_finding = _rows_by(examples, lambda e: [f"finding: {kind}" for kind in e.kind.split("|") if kind])
        groups |= dict(sorted(by_finding.items()))
    if task == "vqa":
        by_kind = _rows_by(
            examples, lambda e: [f"type: {', '.join(filter(None, (e.kind, e.source)))}"] if e.kind else []
        )
        groups |= dict(sorted(by_kind.items()))
    return groups


def _rows_by(examples: list[Example], names: Callable[[Example], list[str]]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, example in enumerate(examples):
        for name in names(example):
            rows.setdefault(name, []).append(row)
    return rows


def _results(
    task: str, examples: list[Example], measures: list[Measure], arguments: EvaluationArguments
) -> list[Result]:
    results = []
    steps = [(name, rows, measure) for name, rows in _groups(task, examples).items() for measure in measures]
    for name, rows, measure in tqdm(steps, desc=f"{task}: intervals", unit="table"):
        estimates = bootstrap(
            measure.aggregate,
            [measure.units[row] for row in rows],
            [examples[row].patient for row in rows],
            arguments.num_resamples,
            seed=arguments.seed,
            distinct=measure.distinct,
        )
        results += [Result(task, name, measure.prefix + metric, estimate) for metric, estimate in estimates.items()]
    return results


def _cost(folder: Path, examples: dict[str, list[Example]]) -> dict[str, dict[str, float]]:
    """What the outputs of each task cost when they were produced, which may have been in an earlier run."""
    cost = {}
    for task, own in examples.items():
        kept = read_generations(folder / "generations" / task)
        rows = [kept[example.id] for example in own if example.id in kept]
        if rows:
            seconds = float(np.sum([row["seconds"] for row in rows]))
            cost[task] = {"examples": len(rows), "seconds": seconds, "peak_mib": max(row["peak_mib"] for row in rows)}
    return cost


def _cost_table(cost: dict[str, dict[str, float]]) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            f"cost of {task}",
            f"{of['seconds'] / of['examples'] * 100:.1f} s per 100 examples, {of['seconds']:.0f} s in all, peak memory "
            f"{of['peak_mib']:.0f} MiB",
        ]
        for task, of in cost.items()
        if task != "metrics"
    ]
    return ["what", "time and memory"], [*rows, ["cost of metrics", f"{cost['metrics']['seconds']:.0f} s in all"]]


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def _write_predictions(folder: Path, examples: dict[str, list[Example]], outputs: dict[str, list]) -> None:
    (folder / "predictions").mkdir(parents=True, exist_ok=True)
    for task, own in outputs.items():
        columns = {name: [getattr(e, name) for e in examples[task]] for name in ("id", "patient", "source", "kind")}
        columns |= {"image": [str(e.image_path.resolve()) for e in examples[task]]}
        columns |= {name: [getattr(e, name) for e in examples[task]] for name in ("prompt", "reference")}
        if isinstance(own[0], str):
            columns["prediction"] = own
        else:
            columns["prediction"] = pa.array(own, type=pa.list_(pa.uint16()))
        with atomic_write(folder / "predictions" / f"{task}.parquet") as partial:
            pyarrow.parquet.write_table(pa.table(columns), partial)


def _write_drawings(folder: Path, codes: list[np.ndarray], processor: LlmCxrProcessor) -> list[str]:
    """Decodes drawings, and gives their paths."""
    folder.mkdir(exist_ok=True)
    paths = [str(folder / f"{row:05d}.png") for row in range(len(codes))]
    for of_image, path in zip(tqdm(codes, desc="image: decoding", unit="image"), paths):
        save_image(processor.decode_codes([of_image.tolist()])[0], path)
    return paths


def _samples(examples: dict[str, list[Example]], outputs: dict[str, list], processor: LlmCxrProcessor) -> list[Sample]:
    samples = []
    for task in ("report", "vqa", "image"):
        for example, output in list(zip(examples.get(task, []), outputs.get(task, [])))[:_NUM_SAMPLES]:
            images = [("X-ray", real_image(example.image_path, processor))]
            if task == "image":
                with PIL.Image.open(output) as file:
                    images.append(("generated", file.convert("L")))
                samples.append(Sample(images, [("report that was drawn", example.prompt)]))
            else:
                texts = [("question", example.prompt)] if task == "vqa" else []
                samples.append(Sample(images, [*texts, ("reference", example.reference), ("generated", output)]))
    return samples


def real_image(path: str | Path, processor: LlmCxrProcessor) -> PIL.Image.Image:
    """An X-ray as the model sees it, of mode "L" or "RGB"."""
    pixel_values = processor.image_processor([Path(path)], return_tensors="pt").pixel_values
    return processor.image_processor.postprocess(pixel_values)[0]
