"""`examples/finetune_llm_cxr.py` on tiny models: training, resuming, processes, data, recipes, errors."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor, LlamaConfig, TrainingArguments

from transformers_cxr import LlmCxrForCausalLM
from transformers_cxr.data import load_records, open_records, write_records
from transformers_cxr.data.wording import UNANSWERABLE
from transformers_cxr.hub import check_model_card
from transformers_cxr.hub.cards import NOTICE
from transformers_cxr.training import DataArguments, SavingArguments, load_data, parse_arguments

from ..conftest import reset_accelerator
from .conftest import TINY_LLAMA

EXAMPLES = Path(__file__).parents[2] / "examples"
EMBEDDINGS = "embed_tokens.weight"


@pytest.fixture(scope="module")
def script(load_script):
    with load_script("examples/finetune_llm_cxr.py") as module:
        yield module


@pytest.fixture
def settings(model_dir, records, tmp_path):
    return {
        "model": str(model_dir), "records": str(records), "ratios": {"report": 30, "image": 40, "vqa": 30},
        "output_dir": str(tmp_path / "run"), "max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 1e-2,
        "logging_steps": 1, "save_steps": 2, "report_to": "none", "use_cpu": True, "disable_tqdm": True, "seed": 1,
    }  # fmt: skip


@pytest.fixture
def parse(script, settings, monkeypatch):
    """`parse(name=value, ...)`: the arguments of a run with some settings changed, or left out if they are None."""

    def parse(**changes):
        reset_accelerator()
        changed = {name: value for name, value in (settings | changes).items() if value is not None}
        path = Path(settings["output_dir"]).parent / "settings.yaml"
        path.write_text(yaml.safe_dump(changed))
        monkeypatch.setattr(sys, "argv", ["finetune", "--config", str(path)])
        types = (script.ModelArguments, DataArguments, script.SampleArguments, SavingArguments, TrainingArguments)
        return parse_arguments(*types)

    return parse


@pytest.fixture
def run(script, parse):
    return lambda **changes: script.main(*parse(**changes))


@pytest.fixture
def conversations(parse):
    return lambda **changes: load_data(*parse(**changes)[1::3])


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def changed_weights(first, second):
    first, second = weights(first), weights(second)
    return [name for name in first if not torch.equal(first[name], second[name])]


def log_history(output_dir, step):
    return json.loads((Path(output_dir) / f"checkpoint-{step}/trainer_state.json").read_text())["log_history"]


def test_a_run_trains_evaluates_samples_and_saves_a_model(run, settings):
    run(eval_size=10, eval_strategy="steps", eval_steps=2, sample_steps=4, num_samples=1, num_questions=1)
    output_dir = Path(settings["output_dir"])
    model, processor = (auto.from_pretrained(output_dir / "final") for auto in (AutoModel, AutoProcessor))
    model.check_processor(processor)
    logged = log_history(output_dir, 4)
    assert {"loss_report", "loss_image", "loss_vqa"} <= {name for entry in logged for name in entry}
    evaluations = [entry for entry in logged if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluations] == [2, 4]
    assert evaluations[1]["eval_loss"] < evaluations[0]["eval_loss"]
    results = json.loads((output_dir / "eval_results.json").read_text())
    assert results["eval_loss_vqa"] == evaluations[1]["eval_loss_vqa"]
    assert sorted(path.name for path in (output_dir / "samples").iterdir()) == ["step-000004.json", "step-000004.png"]
    changed = changed_weights(settings["model"], output_dir / "final")
    assert changed and not any("vq_tokenizer" in name for name in changed)
    check_model_card(output_dir / "final")
    card = ModelCard.load(output_dir / "final/README.md")
    assert (card.data.license, card.data.base_model) == ("mit", "somebody/model")
    assert (card.data.datasets, card.data.model_name) == (["b", "a"], "run")
    assert f"| `eval_loss_vqa` | {results['eval_loss_vqa']:.4g} |" in card.text
    assert "| `learning_rate` | `0.01` |" in card.text and str(output_dir.parent) not in card.content
    suffixes = {path.suffix for path in (output_dir / "final").iterdir()}
    assert suffixes == {".json", ".jinja", ".md", ".py", ".safetensors"}


@pytest.mark.parametrize("method", ["all weights", "LoRA"])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # PEFT reads a deprecated name
def test_a_killed_run_is_resumed_to_the_bit_with_the_same_settings_only(
    run, settings, records, kill_after, tmp_path, method
):
    changes = {"packing": True}
    if method == "LoRA":
        changes |= {"lora": {"r": 2, "lora_dropout": 0.2}, "train_new_embeddings_only": True}
    run(**changes, save_steps=4)
    changes["output_dir"] = str(tmp_path / "resumed")
    with kill_after(LlmCxrForCausalLM, 3):
        run(**changes)
    other = records.with_name("other.parquet")
    load_records(records).map(lambda row: {"codes": [0] * 16 if row["id"] == "7" else row["codes"]}).to_parquet(other)
    with pytest.raises(ValueError, match="other settings: packing was True and is False; records_fingerprint was"):
        run(**changes | {"packing": False, "records": str(other)})
    run(**changes, logging_steps=2)
    assert changed_weights(Path(settings["output_dir"]) / "final", tmp_path / "resumed/final") == []
    assert any(EMBEDDINGS in name for name in changed_weights(settings["model"], tmp_path / "resumed/final"))


@pytest.mark.parametrize("average_conversations", [False, True])
def test_two_processes_give_the_losses_of_one(run, settings, average_conversations, tmp_path):
    evaluated = {"max_steps": 2, "eval_size": 7, "eval_strategy": "steps", "eval_steps": 2}
    evaluated |= {"average_conversations": average_conversations}
    run(**evaluated)
    two = {"per_device_train_batch_size": 1, "ddp_backend": "gloo", "output_dir": str(tmp_path / "two")}
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(settings | evaluated | two))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = [str(EXAMPLES / "finetune_llm_cxr.py"), "--config", str(path)]
    subprocess.run([*launch, *script], check=True, env={**os.environ, "ACCELERATE_USE_CPU": "true"}, timeout=300)
    for first, second in zip(log_history(settings["output_dir"], 2), log_history(tmp_path / "two", 2), strict=True):
        losses = {name: value for name, value in first.items() if "loss" in name}
        assert {name: second[name] for name in losses} == pytest.approx(losses, rel=1e-5)


def test_own_conversations_train_for_epochs_and_a_finished_run_trains_no_more(run, tmp_path):
    for name, count in (("train", 5), ("validation", 3)):
        user = [{"type": "text", "text": "Is there pneumonia?"}, {"type": "image"}]
        messages = [{"role": "user", "content": user}, {"role": "assistant", "content": "No."}]
        lines = [{"messages": messages, "task": "vqa", "image_codes": [[i] * 16]} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    changes = {
        "records": None, "conversations": str(tmp_path / "train.jsonl"), "max_steps": -1, "num_train_epochs": 1.5,
        "eval_conversations": str(tmp_path / "validation.jsonl"), "train_sampling_strategy": "group_by_length",
        "lr_scheduler_type": "constant",
    }  # fmt: skip
    run(**changes)
    assert json.loads((tmp_path / "run/eval_results.json").read_text())["eval_loss_vqa"] > 0
    shutil.move(tmp_path / "run/final", tmp_path / "before")
    run(**changes)
    assert changed_weights(tmp_path / "before", tmp_path / "run/final") == []


def test_a_folder_with_metadata_trains_on_its_images(run, data_dir, tmp_path):
    run(records=str(data_dir), max_steps=1)
    assert (tmp_path / "run/final/model.safetensors").is_file()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # PEFT reads a deprecated name
def test_a_language_model_is_extended_and_trained_with_lora(run, text_tokenizer, model_dir, tmp_path):
    llama = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=len(text_tokenizer), **TINY_LLAMA))
    llama.save_pretrained(tmp_path / "llama")
    text_tokenizer.save_pretrained(tmp_path / "llama")
    extended = {"model": None, "language_model": str(tmp_path / "llama"), "vq_tokenizer": str(model_dir)}
    run(
        **extended,
        new_embeddings="codebook",
        lora={"r": 2},
        train_new_embeddings_only=True,
        max_steps=2,
        remote_code=False,
    )
    final, known = weights(tmp_path / "run/final"), len(text_tokenizer)
    table = next(value for name, value in final.items() if name.endswith(EMBEDDINGS))
    assert torch.equal(table[:known], llama.get_input_embeddings().weight) and len(table) == known + 3 + 3 + 32
    assert (tmp_path / "run/adapter/adapter_model.safetensors").stat().st_mode & 0o044
    for name, library in (("adapter", "peft"), ("final", "transformers")):
        card = ModelCard.load(tmp_path / f"run/{name}/README.md")
        assert card.data.library_name == library and NOTICE in card.text and "| Base | llama |" in card.text
        assert "import transformers_cxr" in card.text and "trust_remote_code" not in card.text
        assert not list((tmp_path / f"run/{name}").glob("*.py"))
    assert AutoProcessor.from_pretrained(tmp_path / "run/final").image_processor.crop_size["height"] == 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "Give either `--model`, .* or `--language_model`"),
        ({"vq_tokenizer": "runs/vq"}, "`--vq_tokenizer` needs `--language_model`"),
        ({"records": None}, "Give either `--conversations`, or"),
        ({"max_steps": -1}, "Set `--max_steps`"),
        ({"train_sampling_strategy": "group_by_length"}, "needs `--conversations`: a mixture keeps its ratios"),
        ({"train_new_embeddings_only": True, "weight_decay": 0.1}, "without LoRA needs `weight_decay` 0"),
        ({"lora": {"rank": 4}}, r"`peft.LoraConfig` has no settings \['rank'\]"),
        ({"fsdp": True, "model": None, "language_model": "x"}, "A sharded language model cannot be extended"),
    ],
)
def test_errors_of_the_user_name_the_way_out(run, changes, message):
    with pytest.raises(ValueError, match=message):
        run(**changes)


def test_codes_of_another_image_tokenizer_are_an_error(run, records):
    table = pq.read_table(records)
    pq.write_table(table.replace_schema_metadata({"transformers_cxr_tokenizer": "another"}), records)
    with pytest.raises(ValueError, match="The codes are from another image tokenizer"):
        run()


def test_evaluation_uses_neither_training_records_nor_training_texts(conversations, tmp_path):
    for name in ("texts", "eval_texts"):
        messages = [{"role": r, "content": [{"type": "text", "text": name}]} for r in ("user", "assistant")]
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"messages": messages}))
    changes = {"texts": str(tmp_path / "texts.jsonl"), "eval_size": 100, "max_steps": 50}
    changes["ratios"] = {"report": 30, "image": 30, "vqa": 20, "text": 20}
    train, evaluation = conversations(**changes, eval_texts=str(tmp_path / "eval_texts.jsonl"))
    assert {record["id"] for record in train if record["task"] == "text"} == {"texts.jsonl:1"}
    assert {record["id"] for record in evaluation if record["task"] == "text"} == {"eval_texts.jsonl:1"}
    _, evaluation = conversations(**changes)
    assert set(Counter(record["task"] for record in evaluation)) == {"report", "image", "vqa"}
    assert {int(record["id"]) for record in evaluation} == set(range(16, 24))


@pytest.mark.parametrize(("ratio", "share"), [(0.0, 0), (1.0, 1)])
def test_reports_have_questions_without_an_answer_in_the_share_that_is_asked_for(conversations, ratio, share):
    train, _ = conversations(ratios={"report": 1}, unanswerable_ratio=ratio)
    assert [sum(UNANSWERABLE in str(message) for message in each["messages"]) for each in train] == [share] * len(
        train
    )


def test_a_task_without_validation_data_is_an_error(conversations, records):
    questions = str(records.with_name("questions.parquet"))
    asked = [replace(record, question="Edema?", answer="No.") for record in open_records(records, "train")]
    write_records(asked, questions)
    with pytest.raises(ValueError, match=r"to evaluate on: No row of 16 is left.* set `--eval_size 0"):
        conversations(questions=questions, eval_size=10)
    train, evaluation = conversations(records=None, questions=questions, ratios={"vqa": 1})
    assert train[0]["messages"][0]["content"][0]["text"] == "Edema?" and evaluation is None


def test_sharding_recipes_are_those_of_fsdp2_and_zero_3(parse):
    fsdp = yaml.safe_load((EXAMPLES / "finetune/fsdp2.yaml").read_text())
    plugin = parse(**fsdp)[-1].fsdp_plugin_args
    assert plugin["fsdp_version"] == 2 and plugin["state_dict_type"] == "FULL_STATE_DICT"
    config = HfDeepSpeedConfig(yaml.safe_load((EXAMPLES / "finetune/dolly_zero3.yaml").read_text())["deepspeed"])
    assert config.is_zero3() and not config.is_offload()
    assert config.is_true("zero_optimization.stage3_gather_16bit_weights_on_model_save")
