"""Arguments of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal


def _argument(default: Any, help: str) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class EvaluationArguments:
    """
    Arguments of [`run_evaluation`].

    Items of a list may also be separated by commas: `["report", "vqa"]` and `["report,vqa"]` are the same.
    """

    output_dir: str = field(metadata={"help": "Folder to write. An interrupted run resumes from it."})
    records: list[str] = _argument(
        [],
        "Parquet files of records, or folders with a metadata.csv. Missing reports are composed from labels.",
    )
    split: list[str] = _argument(["validation"], "Splits of the records to evaluate on.")
    views: list[str] = _argument([], "View positions of the records, such as AP and PA. Default: all.")
    sections: Literal["findings+impression", "impression"] = _argument(
        "findings+impression", "Sections of the reports of the records."
    )
    model: str = _argument("", "Checkpoint: a folder or a name on the Hub. Default: the embedded checkpoint.")
    server: str = _argument(
        "", "URL of a server that runs the checkpoint, such as http://localhost:8000 of `vllm serve`. Default: none."
    )
    tasks: list[str] = _argument(
        [],
        "Tasks: report, image, diversity, vqa, language, tokenizer, well-formed, robustness. Default: all that have "
        "examples.",
    )
    limit: int | None = _argument(None, "Maximum number of examples of each task, for a quick look.")
    batch_size: int = _argument(32, "Examples per batch; with a server, requests at the same time.")
    num_resamples: int = _argument(1000, "Bootstrap resamples of the intervals; 0: no intervals.")
    seed: int = _argument(0, "Seed of all random choices.")
    # Reports and answers
    instruction: str = _argument("", "Instruction of reports. Default: that of the checkpoint.")
    max_new_tokens: int = _argument(256, "Maximum length of a report or an answer in tokens.")
    labeler: Literal["rules", "chexbert"] = _argument("rules", "Labeler of reports. chexbert needs its weights.")
    radeval: list[str] = _argument(
        [], "Metrics of radeval: radgraph, radcliq, green, ratescore, bertscore. Each needs its weights."
    )
    num_questions: int = _argument(400, "Maximum number of questions, sampled from all.")
    num_corrupted: int = _argument(
        50, "Maximum number of X-rays to corrupt. The model reports on each once per corruption and level."
    )
    # Generated images
    num_generated: int = _argument(200, "Maximum number of X-rays to generate.")
    num_diverse: int = _argument(20, "Maximum number of reports to generate several X-rays from, for their diversity.")
    guidance_scale: float | None = _argument(
        None, "Classifier-free guidance of generated images. Default: that of the checkpoint."
    )
    top_p: float | None = _argument(None, "`top_p` of generated images. Default: that of the checkpoint.")
    torch_compile: bool = _argument(False, "Compile the generation of images: a later start, then faster.")
    classifier: str = _argument(
        "", "Classifier of generated images: xray-classifier-0, a folder or a torchxrayvision name."
    )
    features: list[str] = _argument(
        [],
        "Networks whose features compare generated and real images: inception, rad-dino, names of "
        "torchxrayvision, folders.",
    )
    training_split: str = _argument(
        "", "Split of the records with the training images. Generated images are compared with them to find copies."
    )
    # Language
    texts: str = _argument("", "Text file for perplexity. Empty lines separate the texts.")
    base_model: str = _argument("", "The language model before fine-tuning, for its perplexity.")

    def __post_init__(self):
        for argument in fields(self):
            value = getattr(self, argument.name)
            if isinstance(value, list):
                items = (item.strip() for text in value for item in text.split(","))
                setattr(self, argument.name, list(filter(None, items)))
