"""Pages of the documentation, whose code is run as it stands, in a folder of its own."""

import json
import re
import runpy
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor, GPTNeoXConfig, Qwen2Config
from typer.testing import CliRunner

import transformers_cxr
from transformers_cxr.cli.main import app
from transformers_cxr.training.arguments import parse_arguments

ROOT = Path(__file__).parents[2]
# The datasets in their real layouts that the readers are tested on.
_DATA = runpy.run_path(str(ROOT / "tests/data/conftest.py"))
MimicTree, openi = _DATA["MimicTree"], _DATA["openi"]
LAUNCHERS = (
    r"accelerate launch( --num_processes \d+)? -m transformers_cxr.cli.main",
    r"accelerate launch( --num_processes \d+)?",
)


class Page:
    """
    A page that is run block by block: Python in one namespace, commands in this process.

    path (`str`): the page in the repository.
    """

    def __init__(self, path, monkeypatch):
        self.path = path
        self.monkeypatch = monkeypatch
        self.namespace = {}
        text = (ROOT / path).read_text(encoding="utf-8")
        self.blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        self.python = [block for language, block in self.blocks if language == "python"]

    def run_python(self, block):
        exec(compile(block, self.path, "exec"), self.namespace)

    def commands(self, block):
        """The commands of a block, a list of words each, without what would start them in several processes."""
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            line = re.sub(LAUNCHERS[0], "transformers-cxr", line)
            yield shlex.split(re.sub(LAUNCHERS[1], "python", line))

    def run_command(self, words, more=()):
        """Runs a `transformers-cxr` or an example, with more arguments, which overrule those of the page; its output."""
        words = [*words, *map(str, more)]
        if words[0] == "transformers-cxr":
            result = CliRunner().invoke(app, words[1:], input="Is there pneumonia?\n")
            assert result.exit_code == 0, (words, result.output, result.exception)
            return result.stdout
        for state in (AcceleratorState, GradientState):
            state._reset_state()
        with self.monkeypatch.context() as patch:
            patch.setattr("sys.argv", words[1:])
            patch.syspath_prepend(str(ROOT / "examples"))
            runpy.run_path(str(ROOT / words[1]), run_name="__main__")

    def check_command(self, words):
        """Whether an example has the settings that a command gives it."""
        with self.monkeypatch.context() as patch:
            patch.setattr("sys.argv", words[1:])
            patch.syspath_prepend(str(ROOT / "examples"))
            (arguments,) = parse_arguments(runpy.run_path(str(ROOT / words[1]))["Arguments"])
        names = {field.name for field in fields(arguments)} | {"config"}
        assert {word[2:] for word in words if word.startswith("--")} <= names


@pytest.fixture
def page(tmp_path, monkeypatch):
    """`page(path)`: a page of the repository, to be run where it finds the examples."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return lambda path: Page(path, monkeypatch)


@pytest.fixture
def mimic(tmp_path):
    tree = MimicTree(tmp_path)
    for number, image in enumerate(tree.images):
        # Large enough for an image tokenizer.
        Image.linear_gradient("L").rotate(60 * number).save(tree.path_of(image))
    return tree


@pytest.fixture(autouse=True)
def quiet(no_progress_bars):
    """No progress bars in what a command prints."""


@pytest.fixture
def one_step():
    """Settings of `examples/finetune_llm_cxr.py` for a training that only shows that it runs."""
    settings = "--max_steps 1 --per_device_train_batch_size 1 --eval_strategy no --eval_size 0 --sample_steps 0"
    return f"{settings} --dataloader_num_workers 0 --use_cpu --report_to none --disable_tqdm true".split()


@pytest.fixture
def qwen(text_tokenizer, tmp_path):
    """A tiny random model in the folder `Qwen/Qwen2.5-0.5B-Instruct`, where it goes before the one on the Hub."""
    folder = tmp_path / "Qwen/Qwen2.5-0.5B-Instruct"
    config = Qwen2Config(
        vocab_size=len(text_tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=16,
    )
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)
    text_tokenizer.save_pretrained(folder)


@pytest.fixture
def dolly(text_tokenizer, tmp_path):
    """A tiny random model in the folder `databricks/dolly-v2-3b`, where it goes before the one on the Hub."""
    folder = tmp_path / "databricks/dolly-v2-3b"
    config = GPTNeoXConfig(
        vocab_size=len(text_tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    text_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def dolly_texts(tmp_path):
    """The file `databricks-dolly-15k.jsonl`, with one text."""
    text = {"instruction": "What is a lung?", "context": "", "response": "An organ.", "category": "open_qa"}
    (tmp_path / "databricks-dolly-15k.jsonl").write_text(json.dumps(text) + "\n")


@pytest.fixture
def saved_vq_tokenizer(embedded, tmp_path):
    """The embedded image tokenizer in the folder `runs/vq`."""
    model, processor = embedded
    model.vq_tokenizer.save_pretrained(tmp_path / "runs/vq")
    processor.image_processor.save_pretrained(tmp_path / "runs/vq")


@pytest.fixture(scope="session")
def embedded():
    """Model and processor of the embedded checkpoint."""
    path = transformers_cxr.checkpoint("llm-cxr")
    return AutoModel.from_pretrained(path), AutoProcessor.from_pretrained(path)
