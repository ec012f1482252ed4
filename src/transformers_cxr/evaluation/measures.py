"""What is measured of each task of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..classifiers import load_classifier
from ..data.store import open_records
from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
from ..llm_cxr.processing_llm_cxr import LlmCxrProcessor
from .examples import Example
from .generations import is_well_formed
from .metrics.image_distribution import ImageDistribution, PromptDiversity, TrainingImageDistance
from .metrics.image_features import load_image_features
from .metrics.image_labels import ImageLabels
from .metrics.metric import CxrMetric
from .metrics.perplexity import Perplexity
from .metrics.pneumonia import PneumoniaAgreement, PneumoniaOfImages
from .metrics.radeval_metrics import RadEvalScore
from .metrics.reconstruction import codebook_statistics, image_distances, radial_energy
from .metrics.report_labels import CheXpertLabels
from .metrics.report_text import Meteor, TextOverlap
from .metrics.vqa import VqaAccuracy
from .results.intervals import means

if TYPE_CHECKING:
    from .runner import EvaluationArguments


@dataclass(frozen=True)
class Measure:
    """
    Numbers of a task.

    units (`Sequence`): a unit an example.
    aggregate (`Callable[[list], dict[str, float]]`): the numbers of any selection of units.
    prefix (`str`): stands before their names.
    distinct (`bool`): whether they are of a set of different things, see [`bootstrap`].
    """

    units: Sequence[Any]
    aggregate: Callable[[list], dict[str, float]]
    prefix: str = ""
    distinct: bool = False


def measures_of(
    task: str,
    examples: list[Example],
    outputs: list | None,
    model: LlmCxrForCausalLM,
    processor: LlmCxrProcessor,
    arguments: EvaluationArguments,
) -> list[Measure]:
    """What is measured of a task, from its examples and what the model gave for them (of drawings their paths)."""
    if task in ("report", "robustness"):
        return report_measures(examples, outputs, arguments, tables=task == "report")
    if task == "vqa":
        return vqa_measures(examples, outputs, arguments)
    if task == "language":
        return [_perplexity(examples, model, processor, arguments)]
    if task == "image":
        asked = arguments.classifier or arguments.features
        reconstructions = reconstructed(examples, model, processor, arguments.batch_size) if asked else None
        return image_measures(examples, outputs, arguments, reconstructions)
    if task == "diversity":
        codes = np.stack(outputs).astype(np.int64).reshape(len(outputs), -1, processor.num_image_tokens)
        return [_of_metric(PromptDiversity(), [processor.decode_codes(of_prompt) for of_prompt in codes], None)]
    if task == "well-formed":
        units = [{"well_formed": float(is_well_formed(output, processor))} for output in outputs]
        return [Measure(units, means)]
    units = _reconstructions(examples, outputs, model, processor, arguments.batch_size)
    codes = [torch.from_numpy(output.astype(np.int64)) for output in outputs]
    codebook = Measure(
        codes, lambda codes: codebook_statistics(torch.stack(codes), processor.codebook_size), distinct=True
    )
    return [Measure(units, _reconstruction_numbers), codebook]


def _of_metric(metric: CxrMetric, predictions: Sequence, references: Sequence | None, prefix: str = "") -> Measure:
    return Measure(metric.prepare(predictions, references), metric.aggregate, prefix)


def report_measures(
    examples: list[Example], reports: list[str], arguments: EvaluationArguments, tables: bool = True
) -> list[Measure]:
    """Labels and texts of reports; without `tables` only the numbers that make a curve."""
    given = [example.reference for example in examples]
    labels = _of_metric(CheXpertLabels(arguments.labeler), reports, given)
    measures = []
    if not arguments.reports:
        measures.append(_of_metric(PneumoniaAgreement(), reports, given))
    if not tables:
        return [*measures, Measure(labels.units, CheXpertLabels.f1_averages)]
    measures += [labels, _of_metric(TextOverlap(), reports, given), _of_metric(Meteor(), reports, given)]
    return measures + [_of_metric(RadEvalScore(name), reports, given) for name in arguments.radeval]


def vqa_measures(examples: list[Example], answers: list[str], arguments: EvaluationArguments) -> list[Measure]:
    """Accuracy of answers; the questions of a type are a group of their own."""
    return [_of_metric(VqaAccuracy(), answers, [{"answer": e.reference, "question_type": ""} for e in examples])]


def _perplexity(
    examples: list[Example], model: LlmCxrForCausalLM, processor: LlmCxrProcessor, arguments: EvaluationArguments
) -> Measure:
    base_model = base_tokenizer = None
    if arguments.base_model:
        base_model = AutoModelForCausalLM.from_pretrained(arguments.base_model).eval().to(model.device)
        base_tokenizer = AutoTokenizer.from_pretrained(arguments.base_model)
    longest = [m.config.get_text_config().max_position_embeddings for m in (model, base_model) if m is not None]
    max_length = min(1024, *longest)
    metric = Perplexity(
        model, processor.tokenizer, base_model, base_tokenizer, max_length=max_length, stride=max_length // 2
    )
    return _of_metric(metric, [example.prompt for example in examples], None)


def image_measures(
    examples: list[Example],
    drawn: list[str],
    arguments: EvaluationArguments,
    reconstructions: list[PIL.Image.Image] | None = None,
) -> list[Measure]:
    """
    Labels and distributions of drawings (paths), with the classifier and the features that are asked for. The same numbers
    of `reconstructions`, which are the best that can be drawn with these codes, get names with "reconstructed_" before them.
    """
    real, prompts = [str(example.image_path) for example in examples], [example.prompt for example in examples]
    measures = []
    if arguments.classifier:
        classifier = load_classifier(arguments.classifier).to("cuda" if torch.cuda.is_available() else "cpu")
        images = {"": drawn} | ({"reconstructed_": reconstructions} if reconstructions else {})
        probabilities = {name: classifier.probabilities(of, arguments.batch_size) for name, of in images.items()}
        of_real = classifier.probabilities(real, arguments.batch_size)
        if not arguments.reports and set(classifier.label_names) == PneumoniaOfImages.CLASSES:
            metric = PneumoniaOfImages(classifier)
            for name, rows in [*probabilities.items(), ("real_", of_real)]:
                measures.append(Measure(metric.units_of(rows, prompts), metric.aggregate, name))
        labels = ImageLabels(classifier)
        measures += [Measure(labels.units_of(rows, of_real), labels.aggregate, n) for n, rows in probabilities.items()]
    for name in arguments.features:
        features = load_image_features(name, batch_size=arguments.batch_size)
        prefix = f"{Path(name).name}_"
        measures.append(_distributions(ImageDistribution(features), drawn, real, reconstructions, prefix))
        if arguments.training_split:
            training = [s.image for s in open_records(arguments.data_dir, arguments.training_split)]
            measures.append(_of_metric(TrainingImageDistance(features, training), drawn, real, prefix))
    return measures


def _distributions(
    metric: ImageDistribution,
    drawn: list[str],
    real: list[str],
    reconstructions: list[PIL.Image.Image] | None,
    prefix: str,
) -> Measure:
    """Distances of drawings and, if there are any, of reconstructions from the same real images, and their ratio."""
    units = metric.prepare(drawn, real)
    if not reconstructions:
        return Measure(units, metric.aggregate, prefix, distinct=True)
    features = metric.image_features(reconstructions)
    units = [np.stack([of_drawn, of_real, own]) for (of_drawn, of_real), own in zip(units, features)]

    def aggregate(units: Sequence[np.ndarray]) -> dict[str, float]:
        scores = metric.aggregate([unit[[0, 1]] for unit in units])
        reconstructed = metric.aggregate([unit[[2, 1]] for unit in units])
        ratio = scores["fid"] / reconstructed["fid"] if reconstructed["fid"] > 0 else float("nan")
        return (
            scores | {f"reconstructed_{name}": value for name, value in reconstructed.items()} | {"fid_ratio": ratio}
        )

    return Measure(units, aggregate, prefix, distinct=True)


@torch.no_grad()
def reconstructed(
    examples: list[Example], model: LlmCxrForCausalLM, processor: LlmCxrProcessor, batch_size: int
) -> list[PIL.Image.Image]:
    """The X-rays of examples, encoded and decoded."""
    images = []
    for start in tqdm(range(0, len(examples), batch_size), desc="image: reconstructions", unit="batch"):
        paths = [example.image_path for example in examples[start : start + batch_size]]
        pixel_values = processor.image_processor(paths, return_tensors="pt").pixel_values.to(model.device)
        decoded = model.vq_tokenizer.decode(model.vq_tokenizer.encode(pixel_values))
        images += [image.convert("L") for image in processor.postprocess(decoded)]
    return images


@torch.no_grad()
def _reconstructions(
    examples: list[Example],
    codes: list[np.ndarray],
    model: LlmCxrForCausalLM,
    processor: LlmCxrProcessor,
    batch_size: int,
) -> list[dict]:
    units, tokenizer = [], model.vq_tokenizer
    # A ring is at least as wide as the step of the frequencies.
    num_rings = min(16, tokenizer.config.image_size // 4)
    for start in tqdm(range(0, len(examples), batch_size), desc="tokenizer: reconstructions", unit="batch"):
        batch = examples[start : start + batch_size]
        pixel_values = processor.image_processor([e.image_path for e in batch], return_tensors="pt").pixel_values
        pixel_values = pixel_values.to(model.device)
        batch_codes = torch.from_numpy(np.stack(codes[start : start + batch_size]).astype(np.int64))
        reconstruction = tokenizer.decode(batch_codes.to(model.device))
        values = image_distances(reconstruction, pixel_values) | {
            "energy": radial_energy(pixel_values, num_rings),
            "reconstructed_energy": radial_energy(reconstruction, num_rings),
        }
        values = {name: value.cpu().numpy() for name, value in values.items()}
        units += [{name: value[i] for name, value in values.items()} for i in range(len(batch))]
    return units


def _reconstruction_numbers(units: Sequence[dict]) -> dict[str, float]:
    scalars = [name for name, value in units[0].items() if np.ndim(value) == 0]
    numbers = {name: float(np.mean([unit[name] for unit in units])) for name in scalars}
    energy = {name: np.mean([unit[name] for unit in units], axis=0) for name in ("energy", "reconstructed_energy")}
    spectrum = energy["reconstructed_energy"] / energy["energy"]
    return numbers | {"spectral_ratio_mean": float(spectrum.mean()), "spectral_ratio_min": float(spectrum.min())}
