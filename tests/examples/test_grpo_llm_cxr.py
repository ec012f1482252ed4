"""`examples/grpo_llm_cxr.py` on tiny models: rewards of reports and of images, resuming, errors."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, AutoProcessor

from transformers_cxr.classifiers import XrayClassifier
from transformers_cxr.hub import check_model_card
from transformers_cxr.training import PolicyArguments, SavingArguments, parse_arguments

from .conftest import reset_accelerator

FINETUNE = Path(__file__).parents[2] / "examples/finetune"


class BrightnessLogit(nn.Module):
    def forward(self, features):
        return 5 * features.mean(dim=1, keepdim=True)


@pytest.fixture
def run(load_script, model_dir, records, tmp_path, monkeypatch):
    """`run(recipe, name=value, ...)`: run the script with the recipe of a task and some settings changed."""
    settings = {
        "model": str(model_dir), "records": str(records), "output_dir": str(tmp_path / "run"), "max_steps": 2,
        "per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 24, "logging_steps": 1,
        "learning_rate": 1e-3, "save_steps": 1, "save_total_limit": 2, "use_cpu": True, "bf16": False,
        "warmup_steps": 0, "disable_tqdm": True,
    }  # fmt: skip
    classifier = XrayClassifier(nn.Flatten(), 4, (-1, 1), BrightnessLogit(), ["Pneumonia"], thresholds=[0.5])

    def run(recipe, **changes):
        reset_accelerator()
        path = tmp_path / "settings.yaml"
        path.write_text(yaml.safe_dump(settings | changes))
        monkeypatch.setattr(sys, "argv", ["grpo", "--config", str(FINETUNE / f"grpo_{recipe}.yaml"), str(path)])
        monkeypatch.setattr(script, "load_classifier", lambda name: classifier)
        types = (PolicyArguments, script.DataArguments, script.RewardArguments, SavingArguments, script.GRPOConfig)
        script.main(*parse_arguments(*types))

    with load_script("examples/grpo_llm_cxr.py") as script:
        run.script = script
        yield run


@pytest.mark.parametrize("task", ["report", "image"])
def test_a_run_is_rewarded_trains_saves_and_resumes(run, model_dir, tmp_path, task):
    changes = {}
    if task == "image":
        # A random model hardly begins an image.
        begin = AutoProcessor.from_pretrained(model_dir).boi_token_id
        changes = {"classifier": "brightness", "generation_kwargs": {"sequence_bias": [[[begin], 100.0]]}}
    run(task, **changes)
    check_model_card(tmp_path / "run/final")
    output_dir = tmp_path / "run"
    logged = json.loads((output_dir / "checkpoint-2/trainer_state.json").read_text())["log_history"]
    names = {"report": ("label_f1", "report_format"), "image": ("finding_probability", "whole_image")}[task]
    assert all(0 <= entry[f"rewards/{name}/mean"] <= 1 for entry in logged if "loss" in entry for name in names)
    model, processor = (auto.from_pretrained(output_dir / "final") for auto in (AutoModel, AutoProcessor))
    model.check_processor(processor)
    before, after = (load_file(folder / "model.safetensors") for folder in (model_dir, output_dir / "final"))
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed and not any("vq_tokenizer" in name for name in changed)
    shutil.rmtree(output_dir / "checkpoint-2")
    for _ in range(2):  # from the first checkpoint, and when it is finished
        run(task, **changes)
    check_model_card(tmp_path / "run/final")
    again = load_file(output_dir / "final/model.safetensors")
    assert all(torch.equal(again[name], after[name]) for name in after)
    with pytest.raises(ValueError, match="other settings: temperature was 1.0 and is 0.5"):
        run(task, **changes, temperature=0.5)


def test_a_prompt_is_a_record_with_its_report_and_labels(run, model_dir, records):
    processor = AutoProcessor.from_pretrained(model_dir)
    args = run.script.DataArguments(str(records), "report")
    prompts = run.script.load_prompts(args, processor, None, seed=0)
    assert len(prompts) == 16 and prompts[1]["labels"] == [{"name": "Pneumonia", "value": 1}]
    assert prompts[1]["reference"].startswith("FINDINGS: ")
    assert prompts[1]["prompt"][0]["content"][1]["text"].startswith("<|cxr_start|><|cxr_")


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("report", {"task": "vqa"}, "Expected the `--task` report or image, got 'vqa'"),
        ("image", {}, "`--task image` needs a `--classifier`"),
        ("image", {"classifier": "a", "max_completion_length": 20}, "`--max_completion_length` of 21, got 20"),
    ],
)
def test_errors_of_the_user_name_the_way_out(run, recipe, changes, message):
    with pytest.raises(ValueError, match=message):
        run(recipe, **changes)
