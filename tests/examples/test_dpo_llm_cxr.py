"""`examples/dpo_llm_cxr.py` on tiny models: pairs of reports and of images, LoRA, resuming, errors."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

from transformers_cxr import LlmCxrModel
from transformers_cxr.hub import check_model_card
from transformers_cxr.training import PolicyArguments, SavingArguments, parse_arguments

from .conftest import reset_accelerator

CONFIG = Path(__file__).parents[2] / "examples/finetune/dpo.yaml"


def user(*content):
    return [{"role": "user", "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in content]}]


def answer(content):
    return [{"role": "assistant", "content": content if isinstance(content, str) else [content]}]


IMAGE = {"type": "image"}
REPORTS = {"prompt": user("Report.", IMAGE), "chosen": answer("Clear."), "rejected": answer("Edema.")}
IMAGES = {"prompt": user("Draw.", "Normal."), "chosen": answer(IMAGE), "rejected": answer(IMAGE)}


@pytest.fixture
def write_pairs(tmp_path):
    """`write_pairs(pair, **changes)`: the path of a file of four pairs, with random codes."""

    def write(pair, **changes):
        codes = np.random.default_rng(0).integers(0, 32, (4, 2, 16)).tolist()
        slots = 1 if pair is REPORTS else 2
        rows = [pair | {"image_codes": row[:slots]} | changes for row in codes]
        (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return str(tmp_path / "pairs.jsonl")

    return write


@pytest.fixture
def run(load_script, model_dir, tmp_path, monkeypatch):
    """`run(name=value, ...)`: run the script with its recipe and some settings changed."""
    settings = {
        "model": str(model_dir), "output_dir": str(tmp_path / "run"), "max_steps": 3, "per_device_train_batch_size": 4,
        "learning_rate": 1e-3, "logging_steps": 1, "save_steps": 2, "use_cpu": True, "bf16": False,
        "warmup_steps": 0, "disable_tqdm": True,
    }  # fmt: skip

    def run(**changes):
        reset_accelerator()
        path = tmp_path / "settings.yaml"
        path.write_text(yaml.safe_dump(settings | changes))
        monkeypatch.setattr(sys, "argv", ["dpo", "--config", str(CONFIG), str(path)])
        script.main(*parse_arguments(PolicyArguments, script.DataArguments, SavingArguments, script.DPOConfig))

    with load_script("examples/dpo_llm_cxr.py") as script:
        yield run


def logs(output_dir):
    state = json.loads((output_dir / "checkpoint-3/trainer_state.json").read_text())
    return [entry for entry in state["log_history"] if "loss" in entry]


@pytest.mark.parametrize(("pair", "lora"), [(REPORTS, {}), (IMAGES, {}), (IMAGES, {"r": 4})])
def test_the_model_comes_to_prefer_the_chosen_completions(run, write_pairs, model_dir, tmp_path, pair, lora):
    run(pairs=write_pairs(pair), lora=lora, save_steps=3, learning_rate=1e-2 if lora else 1e-3)
    first, *_, last = logs(tmp_path / "run")
    # Model and reference are equal.
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert last["loss"] < 0.65 and last["rewards/margins"] > 0
    model, processor = (auto.from_pretrained(tmp_path / "run/final") for auto in (AutoModel, AutoProcessor))
    model.check_processor(processor)
    before, after = (load_file(folder / "model.safetensors") for folder in (model_dir, tmp_path / "run/final"))
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed and not any("vq_tokenizer" in name for name in changed)
    assert (tmp_path / "run/adapter/adapter_model.safetensors").is_file() == bool(lora)
    for folder in {"final", "adapter"} if lora else {"final"}:
        check_model_card(tmp_path / "run" / folder)


def test_a_killed_run_is_resumed_to_the_bit_with_the_same_settings_only(run, write_pairs, kill_after, tmp_path):
    pairs = write_pairs(REPORTS)
    run(pairs=pairs, eval_pairs=pairs, save_steps=3)
    assert json.loads((tmp_path / "run/eval_results.json").read_text())["eval_loss"] < math.log(2)
    changes = {"pairs": pairs, "output_dir": str(tmp_path / "resumed"), "save_steps": 1}
    with kill_after(LlmCxrModel, 3):
        run(**changes)
    with pytest.raises(ValueError, match="other settings: beta was 0.1 and is 0.2"):
        run(**changes, beta=0.2)
    run(**changes)
    first, second = (load_file(tmp_path / name / "final/model.safetensors") for name in ("run", "resumed"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("pair", "changes", "settings", "message"),
    [
        (REPORTS, {"rejected": answer("Clear.")}, {}, "Pair 0: `chosen` equals `rejected`"),
        (IMAGES, {"image_codes": None, "images": ["1.png", "2.png"]}, {}, "Pair 0: a completion holds an image"),
        (REPORTS, {}, {"max_length": 30}, "Pair 0: the prompt and `chosen` have .* more than the maximum of 30"),
        (REPORTS, {}, {"lora": {"rank": 4}}, r"`peft.LoraConfig` has no settings \['rank'\]"),
    ],
)
def test_errors_of_the_user_name_the_way_out(run, write_pairs, pair, changes, settings, message):
    with pytest.raises(ValueError, match=message):
        run(pairs=write_pairs(pair, **changes), **settings)
