"""The fine-tuning script, end to end on tiny models: data, resuming, processes, recipes, mistakes."""

import gzip
import json
import os
import random
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor, LlamaConfig, TrainingArguments

from transformers_cxr import LlmCxrForCausalLM
from transformers_cxr.data.records import StudyRecord
from transformers_cxr.data.store import write_records
from transformers_cxr.training.arguments import parse_arguments

TINY_LLAMA = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
EXAMPLES = Path(__file__).parents[2] / "examples"
RECIPES = EXAMPLES / "finetune"


@pytest.fixture(scope="module")
def script(load_script):
    with load_script("examples/finetune_llm_cxr.py") as module:
        yield module


@pytest.fixture(autouse=True)
def one_accelerator_a_run():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def model_dir(tiny_model, tmp_path):
    model, processor = tiny_model
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def records(tmp_path):
    rng, studies = np.random.default_rng(0), []
    for i in range(24):
        labels = {"Pneumonia": 1} if i % 2 else {"No Finding": 1, "Pneumonia": 0}
        split = "validation" if i >= 18 else "train"
        studies.append(
            StudyRecord(
                id=str(i), patient=str(i), image="x.png", source="ab"[i % 3 == 0], split=split, view="AP", sex="M",
                age_group="child", study_order=1, labels=labels,
            )  # fmt: skip
        )
    ids = [study.id for study in studies]
    codes = Dataset.from_dict({"id": ids, "codes": rng.integers(0, 32, (24, 16)).tolist()})
    write_records(studies, tmp_path / "records.parquet", codes, codebook_size=32, num_image_tokens=16)
    return tmp_path / "records.parquet"


@pytest.fixture
def settings(script, model_dir, records, tmp_path):
    """The settings of a run of 6 steps, and `run(settings, name=value, ...)`, which changes some and runs it."""
    return {
        "model": str(model_dir), "records": str(records), "ratios": {"report": 30, "image": 40, "vqa": 30},
        "output_dir": str(tmp_path / "run"), "max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 1e-2,
        "logging_steps": 1, "save_steps": 3, "report_to": "none", "use_cpu": True, "disable_tqdm": True, "seed": 1,
    }  # fmt: skip


@pytest.fixture
def run(script, settings, monkeypatch):
    def run(**changes):
        AcceleratorState._reset_state(reset_partial_state=True)
        changed = {name: value for name, value in (settings | changes).items() if value is not None}
        path = Path(settings["output_dir"]).parent / "settings.yaml"
        path.write_text(yaml.safe_dump(changed))
        monkeypatch.setattr(sys, "argv", ["finetune", "--config", str(path)])
        types = (script.ModelArguments, script.DataArguments, script.SampleArguments, TrainingArguments)
        script.main(*parse_arguments(*types))

    return run


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def log_history(output_dir, step=6):
    return json.loads((Path(output_dir) / f"checkpoint-{step}/trainer_state.json").read_text())["log_history"]


class Killed(BaseException):
    pass


def test_a_run_trains_evaluates_samples_and_saves_a_model(run, settings):
    run(eval_size=10, eval_strategy="steps", eval_steps=3, sample_steps=6, num_samples=1, num_questions=1)
    output_dir = Path(settings["output_dir"])
    model = AutoModel.from_pretrained(output_dir / "final")
    processor = AutoProcessor.from_pretrained(output_dir / "final")
    model.check_processor(processor)
    logged = log_history(output_dir)
    assert {"loss_report", "loss_image", "loss_vqa"} <= {name for entry in logged for name in entry}
    evaluations = [entry for entry in logged if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluations] == [3, 6]
    assert evaluations[1]["eval_loss"] < evaluations[0]["eval_loss"]
    results = json.loads((output_dir / "eval_results.json").read_text())
    assert results["eval_loss_vqa"] == evaluations[1]["eval_loss_vqa"]
    assert sorted(path.name for path in (output_dir / "samples").iterdir()) == ["step-000006.json", "step-000006.png"]
    before, after = weights(settings["model"]), weights(output_dir / "final")
    changed = {name.rpartition("model.")[2].split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert "vq_tokenizer" not in changed and {"layers", "lm_head"} <= changed


@pytest.mark.parametrize("method", ["all weights", "LoRA"])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # PEFT asks by the old name
def test_a_run_that_is_killed_and_resumed_gives_the_same_weights_bit_for_bit(
    run, settings, monkeypatch, tmp_path, method
):
    changes = {"packing": True}
    if method == "LoRA":
        changes |= {"lora": {"r": 2, "lora_dropout": 0.2}, "train_new_embeddings_only": True}
    run(**changes, save_steps=6)
    count, forward = 0, LlmCxrForCausalLM.forward

    def counted(self, *args, **kwargs):
        nonlocal count
        count += 1
        if count > 4:
            raise Killed
        return forward(self, *args, **kwargs)

    changes["output_dir"] = str(tmp_path / "resumed")
    with monkeypatch.context() as patch:
        patch.setattr(LlmCxrForCausalLM, "forward", counted)
        with pytest.raises(Killed):
            run(**changes)
    assert not (tmp_path / "resumed/final").exists()
    run(**changes, logging_steps=2)
    first, second = weights(Path(settings["output_dir"]) / "final"), weights(tmp_path / "resumed/final")
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert not torch.equal(first["model.language_model.embed_tokens.weight"], weights(settings["model"])[
        "model.language_model.embed_tokens.weight"])  # fmt: skip


def test_a_resume_with_other_data_or_settings_is_refused(run, settings, records):
    run(max_steps=3)
    with pytest.raises(ValueError, match="other settings: .*packing was False and is True"):
        run(max_steps=3, packing=True)
    with pytest.raises(ValueError, match="other settings: records_fingerprint was"):
        run(max_steps=3, records=str(other_records(records)))


def other_records(records):
    table = Dataset.from_parquet(str(records))
    # One record of many.
    changed = table.map(lambda row: {"codes": [0] * 16 if row["id"] == "7" else row["codes"]})
    changed.to_parquet(records.with_name("other.parquet"))
    return records.with_name("other.parquet")


def test_two_processes_give_the_losses_of_one(run, settings, tmp_path):
    evaluated = {"max_steps": 3, "eval_size": 7, "eval_strategy": "steps", "eval_steps": 3}
    run(**evaluated)
    path = tmp_path / "two.yaml"
    two = {"per_device_train_batch_size": 2, "ddp_backend": "gloo", "output_dir": str(tmp_path / "two")}
    path.write_text(yaml.safe_dump(settings | evaluated | two))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, EXAMPLES / "finetune_llm_cxr.py", "--config", path]
    # What `torchrun` and `accelerate launch` set; an import of torch less.
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **common, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    ]
    for process in processes:
        output, _ = process.communicate()
        assert process.returncode == 0, output
    one, both = log_history(settings["output_dir"], 3), log_history(tmp_path / "two", 3)
    assert [set(entry) for entry in one] == [set(entry) for entry in both]
    for first, second in zip(one, both):
        for name in first:
            if "loss" in name:
                assert second[name] == pytest.approx(first[name], rel=1e-5), name


@pytest.fixture
def own_conversations(tmp_path):
    """Settings of a training on 8 conversations, and 3 to evaluate on."""
    rng = random.Random(0)
    for name, count in (("train", 8), ("validation", 3)):
        lines = []
        for i in range(count):
            user = [{"type": "text", "text": "Is there pneumonia?"}, {"type": "image"}]
            messages = [
                {"role": "user", "content": user},
                {"role": "assistant", "content": rng.choice(["Yes.", "No."])},
            ]
            lines.append({"messages": messages, "task": "vqa", "image_codes": [[i] * 16]})
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return {
        "records": None,
        "conversations": str(tmp_path / "train.jsonl"),
        "eval_conversations": str(tmp_path / "validation.jsonl"),
    }


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_own_conversations_train_for_epochs(run, own_conversations, tmp_path, strategy):
    run(**own_conversations, max_steps=-1, num_train_epochs=3, train_sampling_strategy=strategy)
    assert (tmp_path / "run/checkpoint-6").is_dir()
    assert json.loads((tmp_path / "run/eval_results.json").read_text())["eval_loss_vqa"] > 0


@pytest.mark.parametrize("steps", [1, 3])  # of epochs of 2
def test_a_finished_run_trains_no_more(run, own_conversations, tmp_path, steps):
    # The default learning rate is 0 at the end.
    own_conversations |= {"max_steps": steps, "lr_scheduler_type": "constant"}
    run(**own_conversations)
    before = weights(tmp_path / "run/final")
    shutil.rmtree(tmp_path / "run/final")
    run(**own_conversations)
    after = weights(tmp_path / "run/final")
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # PEFT asks by the old name
def test_a_text_model_is_extended_and_trained_with_lora(run, text_tokenizer, model_dir, tmp_path):
    # The fixtures of the model and of the text model share one Llama.
    llama = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=len(text_tokenizer), **TINY_LLAMA))
    llama.save_pretrained(tmp_path / "llama")
    text_tokenizer.save_pretrained(tmp_path / "llama")
    run(
        model=None,
        language_model=str(tmp_path / "llama"),
        vq_tokenizer=str(model_dir),
        new_embeddings="codebook",
        lora={"r": 2},
        train_new_embeddings_only=True,
        max_steps=2,
    )
    final, known = weights(tmp_path / "run/final"), len(text_tokenizer)
    table = final["model.language_model.embed_tokens.weight"]
    assert torch.equal(table[:known], llama.get_input_embeddings().weight)
    assert len(table) == known + 3 + 3 + 32
    assert (tmp_path / "run/adapter/adapter_model.safetensors").is_file()
    assert AutoProcessor.from_pretrained(tmp_path / "run/final").image_processor.crop_size["height"] == 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "Give either `--model`, .* or `--language_model`"),
        ({"vq_tokenizer": "runs/vq"}, "`--vq_tokenizer` goes with `--language_model`"),
        ({"records": None}, "Give either `--conversations`, or `--records`"),
        ({"conversations": "a.jsonl"}, "Give either `--conversations`, or `--records`"),
        ({"records": None, "conversations": "a.jsonl", "questions": "q.parquet"}, "Give either `--conversations`, or"),
        ({"max_steps": -1}, "Set `--max_steps`"),
        ({"train_sampling_strategy": "group_by_length"}, "goes with `--conversations`: a mixture keeps its ratios"),
        ({"ratios": {"text": 1}}, "asks for task 'text', but data are given only for"),
        ({"ratios": {"reprot": 1}}, r"unknown tasks \['reprot'\]; there are report, image, vqa, text"),
        ({"ratios": {"report": "most"}}, "numbers for ratios, got {'report': 'most'}"),
        ({"lora": {"rank": 4}}, r"`peft.LoraConfig` has no settings \['rank'\]"),
        ({"views": ["LATERAL"]}, "No row of 24 is left"),
        ({"source_weights": {"mimic": 2.0}}, r"names \['mimic'\], and the sources of the data are \['a', 'b'\]"),
        ({"max_length": 60}, r"Conversation 0 \(id '\d+'\) has \d+ tokens, more than the maximum of 60"),
        ({"train_new_embeddings_only": True, "weight_decay": 0.1}, "`--train_new_embeddings_only` without LoRA needs `weight_decay` 0"),
    ],
)
def test_mistakes_are_errors_that_say_what_to_do(run, changes, message):
    with pytest.raises(ValueError, match=message):
        run(**changes)


def test_codes_of_another_image_tokenizer_are_refused(run, records):
    table = pq.read_table(records)
    pq.write_table(table.replace_schema_metadata({"transformers_cxr_tokenizer": "another"}), records)
    with pytest.raises(
        ValueError, match=f"The codes in '{records}' were made by another image tokenizer .* got another"
    ):
        run()


def test_a_full_disk_is_an_error_that_says_what_to_do(run, settings, monkeypatch):
    def fill(*args, **kwargs):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 27818112 vs 27818004")

    monkeypatch.setattr("torch.save", fill)
    with pytest.raises(OSError, match=f"No space left on the disk.*{settings['output_dir']}"):
        run(max_steps=3)


def test_conversations_are_read_from_compressed_lines_too(script, own_conversations, tmp_path):
    lines = (tmp_path / "train.jsonl").read_bytes()
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(lines))
    assert len(script.load_conversations(str(tmp_path / "train.jsonl.gz"))) == 8


def test_a_broken_file_of_conversations_is_an_error_that_names_the_line(run, tmp_path):
    (tmp_path / "broken.jsonl").write_text('{"task": "vqa"}\n{"task": \n')
    with pytest.raises(ValueError, match="broken.jsonl.*line 2"):
        run(records=None, conversations=str(tmp_path / "broken.jsonl"))


def test_a_mistake_on_the_command_line_is_a_message(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["finetune", "--output_dir", str(tmp_path), "--use_cpu", "--report_to", "none"])
    with pytest.raises(SystemExit, match="^Error: Give either `--conversations`, or `--records`"):
        runpy.run_path(str(EXAMPLES / "finetune_llm_cxr.py"), run_name="__main__")


@pytest.mark.parametrize("names", [["stage1"], ["stage2"], ["tiny"], ["smollm2_lora"], ["stage1", "fsdp2"]])
def test_recipes_set_what_they_name(script, monkeypatch, names):
    paths = [RECIPES / f"{name}.yaml" for name in names]
    monkeypatch.setattr(sys, "argv", ["finetune", "--config", *map(str, paths), "--output_dir", "o", "--use_cpu"])
    parsed = parse_arguments(script.ModelArguments, script.DataArguments, script.SampleArguments, TrainingArguments)
    values = {name: value for arguments in parsed for name, value in vars(arguments).items()}
    expected = {name: value for path in paths for name, value in yaml.safe_load(path.read_text()).items()}
    # What the Trainer writes in another way.
    for name in ("fsdp_config", "report_to"):
        expected.pop(name, None)
    assert {name: values[name] for name in expected} == {
        name: values[name].__class__(value) if name == "lr_scheduler_type" else value
        for name, value in expected.items()
    }
    if "fsdp2" in names:
        plugin = parsed[-1].fsdp_plugin_args
        assert plugin["fsdp_version"] == 2 and plugin["state_dict_type"] == "FULL_STATE_DICT"


def test_settings_of_deepspeed_are_zero_3_and_leave_to_the_trainer_what_it_knows():
    settings = yaml.safe_load((RECIPES / "dolly_zero3.yaml").read_text())["deepspeed"]
    config = HfDeepSpeedConfig(settings)
    assert config.is_zero3() and not config.is_offload()
    assert config.is_true("zero_optimization.stage3_gather_16bit_weights_on_model_save")
    assert {name for name, value in settings.items() if value == "auto"} == {
        "gradient_accumulation_steps", "gradient_clipping", "train_batch_size", "train_micro_batch_size_per_gpu"
    }  # fmt: skip


def test_a_new_model_with_its_own_tokenizer_trains(run, settings, vq_tokenizer, tmp_path, load_script):
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    header = "file_name,split,source,patient_id,view,sex,age_group,finding_labels,etiology\n"
    rows = ["a.png,train,kermany,1,AP,M,child,Pneumonia,viral", "b.png,train,own,2,,,,,"]
    (data_dir / "metadata.csv").write_text(header + "\n".join(rows) + "\n")
    (data_dir / "a.png").write_bytes(b"")
    vq_tokenizer.save_pretrained(tmp_path / "vq")
    AutoProcessor.from_pretrained(settings["model"]).image_processor.save_pretrained(tmp_path / "vq")
    with load_script("examples/new_llm_cxr.py") as new:
        new.main(
            new.Arguments(str(data_dir), str(tmp_path / "vq"), str(tmp_path / "new"), TINY_LLAMA, text_vocab_size=400)
        )
    run(model=str(tmp_path / "new"), max_steps=2, activation_checkpointing=True)
    model, processor = (
        AutoModel.from_pretrained(tmp_path / "run/final"),
        AutoProcessor.from_pretrained(tmp_path / "run/final"),
    )
    assert model.config.text_config.tie_word_embeddings is False
    assert len(model.get_input_embeddings().weight) == len(processor.tokenizer)
