"""Model cards: written from a training, and checked before they are published."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers.utils import cached_file

from ..checkpoints import checkpoint
from ..files import read_json

NOTICE = "Research only: not a medical device, not for clinical use. Its reports and images are generated."
TAGS = ["chest-x-ray", "radiology", "research-only"]
# Metadata that a published card has.
REQUIRED = ("license", "language", "library_name", "pipeline_tag", "datasets")

_TEXT = """\
# {name}

{subject} **{notice}**

## Use

```python
{usage}
```

{needs}

## Training

{training}

## Numbers

<!-- metrics -->
Not evaluated yet. `transformers-cxr evaluate --model-card` writes its results here.
<!-- end of metrics -->

## Limits

Reports and answers miss and invent findings; a fluent report is no evidence of a correct one. Generated X-rays show no
patient. Do not use any of them for a decision about a patient.
"""
_NEEDS_CODE = (
    "`trust_remote_code=True` runs the code in this repository, which needs `torch`, `diffusers` and, for DICOM, "
    "`pydicom`. It is not needed after `import transformers_cxr`."
)
_NEEDS_PACKAGE = "This needs the package `transformers-cxr`."


@dataclass(frozen=True)
class _Kind:
    """What a card says about a kind of checkpoint."""

    subject: str
    pipeline_tag: str
    library: str
    tags: tuple[str, ...]
    usage: str


_MODEL = _Kind(
    "An LLM-CXR ([arXiv 2305.11490](https://arxiv.org/abs/2305.11490)): one causal language model that reads and "
    "generates chest X-rays.",
    "image-text-to-text",
    "transformers",
    ("image-text-to-text", "text-to-image"),
    """\
from transformers import pipeline

report = pipeline("cxr-report", model="{name}"{trust})
print(report("xray.png")[0]["generated_text"])""",
)
_ADAPTER = _Kind(
    "A LoRA adapter of an LLM-CXR ([arXiv 2305.11490](https://arxiv.org/abs/2305.11490)), one causal language model "
    "that reads and generates chest X-rays.",
    "image-text-to-text",
    "peft",
    ("image-text-to-text", "text-to-image", "lora"),
    """\
from peft import PeftModel
from transformers import AutoModel, AutoProcessor

base = AutoModel.from_pretrained("{base}"{trust})
model = PeftModel.from_pretrained(base, "{name}").merge_and_unload()
processor = AutoProcessor.from_pretrained("{name}"{trust})""",
)
_VQ_TOKENIZER = _Kind(
    "The image tokenizer of an LLM-CXR ([arXiv 2305.11490](https://arxiv.org/abs/2305.11490)), a VQ-GAN that turns "
    "chest X-rays into codes and back.",
    "image-feature-extraction",
    "transformers",
    ("image-to-image", "vq-gan"),
    """\
from transformers import AutoImageProcessor, AutoModel

vq_tokenizer = AutoModel.from_pretrained("{name}"{trust})
image_processor = AutoImageProcessor.from_pretrained("{name}"{trust})
codes = vq_tokenizer.encode(image_processor("xray.png", return_tensors="pt").pixel_values)""",
)


@dataclass(frozen=True)
class Training:
    """
    What a model card says about a training.

    base (`str`): the checkpoint or language model before it, a folder or Hub name; "" for random weights.
    datasets (`Sequence[str]`): names of the training data.
    settings (`dict`): settings of the run.
    losses (`dict[str, float]`): losses of the trained model on the evaluation data.
    """

    base: str
    datasets: Sequence[str]
    settings: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)


def read_model_card(path: str | os.PathLike) -> ModelCard:
    """
    Read a model card.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: its metadata are not valid.
    """
    try:
        return ModelCard(Path(path).read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(
            f"The metadata of the model card '{path}' are not valid: {' '.join(str(error).split())}"
        ) from error


def load_card_data(name: str | os.PathLike) -> ModelCardData | None:
    """Return the metadata in the model card of a checkpoint (a folder or Hub name), or `None` if it has no card."""
    try:
        path = cached_file(name, "README.md")
    except (OSError, HFValidationError):
        return None
    return read_model_card(path).data


def model_card(name: str | os.PathLike, training: Training | None = None) -> ModelCard:
    """
    Return a new model card.

    Args:
        name (`str` or `os.PathLike`):
            The checkpoint: the folder of an LLM-CXR, an image tokenizer or an adapter, or the Hub name of an LLM-CXR;
            the embedded checkpoint by default, "".
        training ([`Training`], *optional*):
            The training that made it. The license is that of its base.
    """
    folder = Path(name or checkpoint("llm-cxr")).resolve()
    kind, base_card, base_name = _kind_of(folder), None, None
    if training is not None and training.base:
        base_card, base_name = load_card_data(training.base), training.base
        if Path(training.base).exists():
            # The path on this machine tells nobody anything.
            base_name = base_card and (base_card.base_model or base_card.model_name)
        base_name = base_name if _is_hub_name(base_name) else None
    base_data = base_card.to_dict() if base_card else {}
    data = ModelCardData(
        language=base_data.get("language", "en"),
        **{key: base_data[key] for key in ("license", "license_name", "license_link") if key in base_data},
        library_name=kind.library,
        pipeline_tag=kind.pipeline_tag,
        tags=[*TAGS, *kind.tags],
        base_model=base_name,
        datasets=[re.sub(r"[^\w/]+", "-", name.lower()) for name in training.datasets] if training else None,
        model_name=(folder.parent if folder.name in ("final", "adapter") else folder).name,
    )
    has_code = (folder / "modeling_llm_cxr.py").exists()
    usage = kind.usage.format(
        name=data.model_name, base=base_name or "BASE", trust=", trust_remote_code=True" if has_code else ""
    )
    text = _TEXT.format(
        name=data.model_name,
        subject=kind.subject,
        notice=NOTICE,
        usage=usage if has_code else f"import transformers_cxr  # registers the model\n{usage}",
        needs=_NEEDS_CODE if has_code else _NEEDS_PACKAGE,
        training="Not known." if training is None else _describe(training, base_name),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def _kind_of(folder: Path) -> _Kind:
    if (folder / "adapter_config.json").exists():
        return _ADAPTER
    config = folder / "config.json"
    is_vq_tokenizer = config.exists() and read_json(config)["model_type"] == "cxr_vq_tokenizer"
    return _VQ_TOKENIZER if is_vq_tokenizer else _MODEL


def _is_hub_name(name: Any) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _describe(training: Training, base_name: str | None) -> str:
    """Return the tables of a training."""
    software = [f"{package} {metadata.version(package)}" for package in ("transformers-cxr", "transformers", "torch")]
    rows = {
        "Base": base_name or Path(training.base).name or "random weights",
        "Data": ", ".join(training.datasets),
        **{f"`{name}`": f"{value:.4g}" for name, value in training.losses.items()},
        "Software": ", ".join(software),
    }
    settings = {name: value for name, value in training.settings.items() if value not in (None, "", [], {})}
    # The place of a file on this machine tells nobody anything.
    settings = {name: Path(v).name if isinstance(v, str) and os.path.isabs(v) else v for name, v in settings.items()}
    settings_table = _table({f"`{name}`": f"`{value}`" for name, value in settings.items()})
    return f"{_table(rows)}\n\n<details>\n<summary>Settings</summary>\n\n{settings_table}\n\n</details>"


def _table(rows: dict[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def check_model_card(folder: str | os.PathLike) -> None:
    """
    Check that the model card of a checkpoint can be published.

    Raises:
        FileNotFoundError: the folder has no model card.
        ValueError: the card lacks metadata, or does not say that the model is for research only. The error names all
            that is missing.
    """
    path = Path(folder) / "README.md"
    if not path.is_file():
        raise FileNotFoundError(
            f"'{folder}' has no model card (README.md). Training writes one, and so does `transformers-cxr evaluate "
            f"--model-card {path}`."
        )
    card = read_model_card(path)
    data = card.data.to_dict()
    missing = [f"`{name}`" for name in REQUIRED if not data.get(name)]
    if "research only" not in card.text.lower():
        missing.append(f'a notice such as "{NOTICE}"')
    if missing:
        raise ValueError(f"The model card '{path}' lacks {', '.join(missing)}. Add what is missing, then push again.")
