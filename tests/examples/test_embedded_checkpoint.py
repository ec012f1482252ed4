"""The recipe of the embedded checkpoint, `examples/embedded_checkpoint/run.sh`, on tiny models."""

import copy
import json
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import TrainingArguments

from transformers_cxr import CXRVQTokenizer, LlmCxrForCausalLM, LlmCxrImageProcessor, LlmCxrProcessor
from transformers_cxr.data import StudyRecord, write_records

from .conftest import TINY_LLAMA, reset_accelerator

FOLDER = Path(__file__).parents[2] / "examples/embedded_checkpoint"


@pytest.fixture
def scripts(load_script):
    with load_script("examples/embedded_checkpoint/teach_reading.py") as reading:
        import code_classifier
        import distillation
        import train_code_classifier as classifier

        yield SimpleNamespace(reading=reading, classifier=classifier, codes=code_classifier, distillation=distillation)


@pytest.fixture
def vq_tokenizer(untouched_vq_tokenizer):
    """With a grid of 8x8 codes, larger than the 7x7 codes of a local feature."""
    config = copy.deepcopy(untouched_vq_tokenizer.config)
    config.image_size *= 8 // config.grid_size
    vq_tokenizer = CXRVQTokenizer(config).eval()
    vq_tokenizer.load_state_dict(untouched_vq_tokenizer.state_dict())
    return vq_tokenizer


@pytest.fixture
def folder(tmp_path, llama, text_tokenizer, vq_tokenizer):
    """Records of three classes with codes, an image tokenizer and a model."""
    rng, labels = np.random.default_rng(0), [{"No Finding": 1}, {"Bacterial Pneumonia": 1}, {"Viral Pneumonia": 1}]
    records = [
        StudyRecord(
            id=str(i), patient=str(i), image="", source="kermany", split="train" if i < 6 else "validation", view="AP",
            age_group="child", labels=labels[i % 3], codes=rng.integers(0, 32, 64).tolist(),
        )
        for i in range(12)
    ]  # fmt: skip
    write_records(records, tmp_path / "records.parquet")
    for part in LlmCxrForCausalLM.from_language_model(llama, text_tokenizer, vq_tokenizer):
        part.save_pretrained(tmp_path / "model")
    vq_tokenizer.save_pretrained(tmp_path / "vq")
    return tmp_path


def training_arguments(output_dir, **settings):
    reset_accelerator()
    return TrainingArguments(
        output_dir=str(output_dir), per_device_train_batch_size=3, use_cpu=True, report_to="none", disable_tqdm=True,
        remove_unused_columns=False, label_names=["labels"], logging_steps=1, **settings,
    )  # fmt: skip


def test_a_classifier_of_codes_is_resumed_and_teaches_a_model(scripts, folder):
    records = str(folder / "records.parquet")
    arguments, ends = scripts.classifier.ScriptArguments(records, str(folder / "vq")), []
    for _ in range(2):
        scripts.classifier.main(
            arguments, training_arguments(folder / "teacher", num_train_epochs=2, save_strategy="epoch")
        )
        ends.append(load_file(folder / "teacher/final/model.safetensors"))
        # The next run resumes after the first epoch.
        shutil.rmtree(folder / "teacher/checkpoint-4")
    torch.testing.assert_close(*ends, rtol=0, atol=0)
    assert set(json.loads((folder / "teacher/metrics.json").read_text())) >= {"finding_balanced_accuracy"}

    def teach(model, output, seed=0, **settings):
        args = scripts.reading.ScriptArguments(
            records, str(folder / model), teacher=str(folder / "teacher/final"), finding_weight=0.5, **settings
        )
        training_args = training_arguments(folder / output, max_steps=2, learning_rate=1e-3, seed=seed)
        scripts.reading.main(args, training_args)
        return load_file(folder / output / "student.safetensors")

    first = teach("model", "first", codebook_embeddings=True)
    before, after = (LlmCxrForCausalLM.from_pretrained(folder / name) for name in ("model", "first/final"))
    known = before.config.image_token_offset
    old, new = (model.get_input_embeddings().weight for model in (before, after))
    assert torch.equal(old[:known], new[:known]) and not torch.allclose(old[known:], new[known:], atol=0.1)
    # The rows of codes are a linear map of the codebook and frozen, and the head has weights of its own.
    directions = scripts.codes.codebook_directions(after.vq_tokenizer)
    inputs = torch.cat([directions, torch.ones(len(directions), 1)], dim=1)
    rows = new[known : known + len(inputs)]
    torch.testing.assert_close(inputs @ torch.linalg.lstsq(inputs, rows).solution, rows, rtol=1e-3, atol=1e-3)
    assert not torch.equal(after.get_output_embeddings().weight, new)
    assert not [name for name, _ in after.named_parameters() if "student" in name]
    # A student that is passed on starts where it ended.
    again = teach("first/final", "second", seed=1, student=str(folder / "first/student.safetensors"))
    fresh = teach("first/final", "third", seed=1)
    distances = [sum((first[name] - other[name]).abs().sum() for name in first) for other in (again, fresh)]
    assert distances[0] < distances[1] / 3


def test_classes_have_equal_weights_and_an_index_gives_the_same_example(scripts, folder, vq_tokenizer):
    records = scripts.codes.load_coded_records(str(folder / "records.parquet"), "train", vq_tokenizer)
    records = records[:2] * 3 + records[2:3]
    args = scripts.reading.ScriptArguments("", "", image_ratio=0.0)
    processor = LlmCxrProcessor.from_pretrained(folder / "model")
    augmentation = scripts.codes.CodeAugmentation(vq_tokenizer)
    dataset = scripts.reading.ReadingDataset(records, processor, 400, 0, args, augmentation)
    findings = np.bincount([dataset[index]["finding"] for index in range(400)]) / 400
    assert findings == pytest.approx([0.5, 0.25, 0.25], abs=0.08)
    assert torch.equal(dataset[3]["input_ids"], dataset[3]["input_ids"])


def test_every_response_has_the_same_weight(scripts):
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 9, 5), torch.full((2, 9), -100)
    labels[0, 2:6], labels[0, 7], labels[1, 4:6] = torch.tensor([1, 2, 3, 4]), 1, torch.tensor([0, 2])
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none").view(2, 8)
    expected = (losses[0, 1:5].mean() + losses[0, 6] + losses[1, 3:5].mean()) / 3
    assert scripts.distillation.response_loss(logits, labels) == pytest.approx(expected.item(), rel=1e-5)


def test_a_new_model_has_its_own_tokenizer_and_trains(load_script, data_dir, vq_tokenizer, tmp_path):
    vq_tokenizer.save_pretrained(tmp_path / "vq")
    size = {"height": 64, "width": 64}
    LlmCxrImageProcessor(size={"shortest_edge": 64}, crop_size=size).save_pretrained(tmp_path / "vq")
    with load_script("examples/new_llm_cxr.py") as new:
        new.main(new.Arguments(str(data_dir), str(tmp_path / "new"), str(tmp_path / "vq"), TINY_LLAMA, 400))
    model, processor = (each.from_pretrained(tmp_path / "new") for each in (LlmCxrForCausalLM, LlmCxrProcessor))
    assert len(model.get_input_embeddings().weight) == len(processor.tokenizer) <= 400 + 6 + 32
    assert processor.image_processor.crop_size["height"] == 64


def test_run_sh_uses_every_recipe_with_settings_that_its_script_has():
    text = re.sub(r"\\\n\s*", "", (FOLDER / "run.sh").read_text())
    text = text.replace("$HERE", str(FOLDER)).replace("$EXAMPLES", str(FOLDER.parent))
    commands = [shlex.split(line) for line in text.splitlines() if line.strip().startswith('python "/')]
    recipes = [Path(command[command.index("--config") + 1]) for command in commands]
    assert set(recipes) == set(FOLDER.glob("*.yaml")) and len(commands) == 11
    for command, recipe in zip(commands, recipes):
        names = [word[2:] for word in command if word.startswith("--")] + list(yaml.safe_load(recipe.read_text()))
        own = {name for name in names if f"    {name}: " in Path(command[1]).read_text()}
        assert set(names) - own <= {"config", *TrainingArguments.__dataclass_fields__}, command
