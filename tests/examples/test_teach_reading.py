import copy
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import TrainingArguments
from typer.testing import CliRunner

from transformers_cxr import CXRVQTokenizer, LlmCxrForCausalLM, LlmCxrProcessor
from transformers_cxr.cli.main import app
from transformers_cxr.data.codes import load_codes
from transformers_cxr.data.store import open_records

KINDS = [("No Finding", ""), ("Pneumonia", "bacterial"), ("Pneumonia", "viral")]


@pytest.fixture
def scripts(load_script):
    with load_script("examples/teach_reading.py") as reading:
        import train_code_classifier

        yield SimpleNamespace(reading=reading, classifier=train_code_classifier)


@pytest.fixture
def vq_tokenizer(untouched_vq_tokenizer):
    """With a grid of 8x8 codes, which is wider than what a local feature of the classifier sees."""
    config = copy.deepcopy(untouched_vq_tokenizer.config)
    config.image_size *= 8 // config.grid_size
    vq_tokenizer = CXRVQTokenizer(config).eval()
    vq_tokenizer.load_state_dict(untouched_vq_tokenizer.state_dict())
    return vq_tokenizer


@pytest.fixture
def folder(tmp_path, llama, text_tokenizer, vq_tokenizer):
    """Invented X-rays of two splits, their codes, and a model."""
    header = "file_name,split,source,patient_id,view,sex,age,age_group,finding_labels,etiology"
    lines, rng = [header], np.random.default_rng(0)
    for number in range(12):
        finding, etiology = KINDS[number % 3]
        split = "train" if number < 6 else "validation"
        lines.append(f"{number}.png,{split},kermany,p{number},AP,M,,child,{finding},{etiology}")
        PIL.Image.fromarray(rng.integers(0, 255, (40, 40), np.uint8)).save(tmp_path / f"{number}.png")
    lines.append("0.png,train,nih64,p0,PA,F,,adult,No Finding,")
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    for part in LlmCxrForCausalLM.from_language_model(llama, text_tokenizer, vq_tokenizer):
        part.save_pretrained(tmp_path / "model")
    vq_tokenizer.save_pretrained(tmp_path / "vq")
    for split in ("train", "validation"):
        output = tmp_path / f"{split}_codes"
        arguments = ["encode", tmp_path, "--split", split, "--output", output, "--model", tmp_path / "model"]
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
    return tmp_path


def training_arguments(output_dir, **settings):
    return TrainingArguments(
        output_dir=str(output_dir),
        per_device_train_batch_size=4,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        **settings,
    )


def test_a_classifier_of_codes_teaches_a_model_that_then_goes_on(scripts, folder):
    arguments = scripts.classifier.ScriptArguments(
        str(folder), str(folder / "vq"), [str(folder / f"{split}_codes") for split in ("train", "validation")]
    )
    scripts.classifier.main(arguments, training_arguments(folder / "teacher", num_train_epochs=2))
    assert set(json.loads((folder / "teacher/metrics.json").read_text())) >= {"finding_balanced_accuracy"}

    def teach(model, output, seed=0, **settings):
        args = scripts.reading.ScriptArguments(
            str(folder),
            str(folder / "train_codes"),
            str(folder / model),
            teacher=str(folder / "teacher/final"),
            finding_weight=0.5,
            **settings,
        )
        scripts.reading.main(args, training_arguments(folder / output, max_steps=2, learning_rate=1e-3, seed=seed))
        return load_file(folder / output / "student.safetensors")

    # What a kill in the middle of writing leaves is passed over.
    (folder / "first/checkpoint-1").mkdir(parents=True)
    first = teach("model", "first")
    before, after = (LlmCxrForCausalLM.from_pretrained(folder / name) for name in ("model", "first/final"))
    assert torch.equal(before.get_input_embeddings().weight, after.get_input_embeddings().weight)
    layer = "layers.0.self_attn.q_proj.weight"
    assert not torch.equal(
        before.get_decoder().get_parameter(layer), after.get_decoder().get_parameter(layer)
    )
    assert not [name for name, _ in after.named_parameters() if "student" in name]
    # The student that is passed on begins where it ended.
    again = teach("first/final", "second", seed=1, student=str(folder / "first/student.safetensors"))
    anew = teach("first/final", "third", seed=1)
    distances = [sum((first[name] - other[name]).abs().sum() for name in first) for other in (again, anew)]
    assert distances[0] < distances[1] / 3


def test_the_loss_of_accumulated_batches_is_their_mean(scripts, folder):
    teach = scripts.reading.ScriptArguments(
        str(folder), str(folder / "train_codes"), str(folder / "model"), finding_weight=1.0
    )
    classify = scripts.classifier.ScriptArguments(
        str(folder), str(folder / "vq"), [str(folder / f"{split}_codes") for split in ("train", "validation")]
    )
    for script, args in ((scripts.reading, teach), (scripts.classifier, classify)):
        losses = []
        for number in (1, 2):
            output_dir = folder / f"{script.__name__}-{number}"
            settings = {"gradient_accumulation_steps": number, "learning_rate": 0.0, "logging_steps": 1}
            settings = training_arguments(output_dir, max_steps=1, **settings)
            script.main(args, replace(settings, save_strategy="steps", save_steps=1))
            state = json.loads((output_dir / "checkpoint-1/trainer_state.json").read_text())
            losses.append(state["log_history"][0]["loss"])
        assert losses[1] == pytest.approx(losses[0], rel=0.3)


def test_a_classifier_of_codes_that_is_resumed_ends_with_the_same_weights(scripts, folder):
    arguments = scripts.classifier.ScriptArguments(
        str(folder), str(folder / "vq"), [str(folder / f"{split}_codes") for split in ("train", "validation")]
    )
    settings = replace(training_arguments(folder / "teacher", num_train_epochs=2), save_strategy="epoch")
    ends = []
    for _ in range(2):
        scripts.classifier.main(arguments, settings)
        ends.append(load_file(folder / "teacher/final/model.safetensors"))
        # The next run goes on after the first epoch.
        shutil.rmtree(folder / "teacher/checkpoint-4")
    assert all(torch.equal(ends[1][name], tensor) for name, tensor in ends[0].items())


def test_codes_are_those_of_the_studies_by_name(scripts, folder, vq_tokenizer):
    studies = open_records(folder, "validation")
    store = load_codes(folder / "validation_codes", vq_tokenizer)
    codes = scripts.classifier.codes_of(studies[::-1], store)
    assert codes.dtype == np.uint16 and codes.tolist() == store["codes"][:][::-1]
    with pytest.raises(ValueError, match="lack 5 of the 7 images; the first is '1.png'"):
        scripts.classifier.codes_of(
            open_records(folder, "train"), store.select([]).add_item({**store[0], "id": "0.png"})
        )


def test_what_is_taught_is_drawn_in_equal_parts_and_the_same_for_an_index(scripts, folder, vq_tokenizer):
    studies = open_records(folder, "train")
    codes = scripts.classifier.codes_of(studies[:6], load_codes(folder / "train_codes", vq_tokenizer))
    processor = LlmCxrProcessor.from_pretrained(folder / "model")
    args = scripts.reading.ScriptArguments(str(folder), "", "", drawing_ratio=0.0)
    augmentation = scripts.classifier.CodeAugmentation(vq_tokenizer)
    studies, codes = studies[:2] * 3 + studies[2:3], np.concatenate([codes[:2]] * 3 + [codes[2:3]])
    rows = scripts.reading.ReadingDataset(studies, codes, processor, 400, 0, args, augmentation)
    findings = np.bincount([rows[index]["finding"] for index in range(400)]) / 400
    assert findings == pytest.approx([0.5, 0.25, 0.25], abs=0.08)
    assert torch.equal(torch.as_tensor(rows[3]["input_ids"]), torch.as_tensor(rows[3]["input_ids"]))


def test_augmented_codes_are_neighbours_of_moved_ones(scripts, vq_tokenizer):
    augmentation = scripts.classifier.CodeAugmentation(vq_tokenizer)
    size, number = 8, vq_tokenizer.config.codebook_size
    codes = np.random.default_rng(1).integers(0, number, size * size).astype(np.uint16)
    padded = np.pad(codes.reshape(size, size), 2, mode="edge")
    moved = [padded[y : y + size, x : x + size].reshape(-1) for y in range(5) for x in range(5)]
    for seed in range(20):
        changed = augmentation(codes, np.random.default_rng(seed))
        best = min(moved, key=lambda other: (other != changed).sum())
        replaced = best != changed
        assert replaced.mean() < 0.45
        assert all(new in augmentation.neighbours[old] for old, new in zip(best[replaced], changed[replaced]))


def test_every_turn_weighs_the_same(scripts):
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 9, 5), torch.full((2, 9), -100)
    labels[0, 2:6], labels[0, 7], labels[1, 4:6] = torch.tensor([1, 2, 3, 4]), 1, torch.tensor([0, 2])
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none").view(2, 8)
    expected = (losses[0, 1:5].mean() + losses[0, 6] + losses[1, 3:5].mean()) / 3
    assert scripts.reading.turn_loss(logits, labels) == pytest.approx(expected.item(), rel=1e-5)


def test_mistakes_are_named(scripts, tmp_path):
    with pytest.raises(ValueError, match=r"train and of the validation split, got \['codes'\]"):
        scripts.classifier.main(scripts.classifier.ScriptArguments("", "", ["codes"]), training_arguments(tmp_path))
    with pytest.raises(ValueError, match="'a.safetensors' needs the `teacher`"):
        scripts.reading.main(
            scripts.reading.ScriptArguments("", "", "", student="a.safetensors"), training_arguments(tmp_path)
        )
    with pytest.raises(ValueError, match="Set `--max_steps`"):
        scripts.reading.main(scripts.reading.ScriptArguments("", "", ""), training_arguments(tmp_path))
