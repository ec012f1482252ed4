"""Pages of the documentation, whose code runs as it is printed, in an empty folder and on a tiny checkpoint."""

import json
import re
import runpy
import shlex
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY
from typer.main import get_command
from typer.testing import CliRunner

from transformers_cxr import LlmCxrForCausalLM, checkpoints
from transformers_cxr.cli.main import app
from transformers_cxr.training import arguments

ROOT = Path(__file__).parents[2]
CLI = "transformers-cxr"
LAUNCHER = r"^(accelerate launch|torchrun)( --\S+( \d+)?)* "


class Page:
    """
    A page of the repository. Its `steps` are its Python blocks and the words of each `transformers-cxr` command and
    example script. Python runs in one namespace, and commands run in this process.
    """

    def __init__(self, path, monkeypatch):
        self.path, self.monkeypatch, self.namespace = path, monkeypatch, {}
        text = (ROOT / path).read_text(encoding="utf-8")
        self.blocks = re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        self.python = [block for language, block in self.blocks if language == "python"]
        self.steps = []
        for language, block in self.blocks:
            if language == "python":
                self.steps.append(block)
            for line in re.sub(r"\\\n\s*", "", block).splitlines() if language == "bash" else ():
                line = re.sub(LAUNCHER, "python ", line).replace("python -m transformers_cxr.cli.main", CLI)
                line = line.replace("python -m transformers_cxr.train", f"{CLI} train")
                if line.startswith((CLI, "python examples/")):
                    # DeepSpeed needs GPUs.
                    words = shlex.split(line, comments=True)
                    self.steps.append([word for word in words if "zero3" not in word])

    def run(self, options=(), before=lambda words: None):
        """
        Run the steps, and return the output of the last command of each name.

        Args:
            options (`dict[str, list]`):
                More options of the commands that start with the key; `None` skips them.
            before (`Callable[[list[str]], None]`, *optional*):
                Called with the words of each command.
        """
        outputs = {}
        for step in self.steps:
            if isinstance(step, str):
                exec(compile(step, self.path, "exec"), self.namespace)
                continue
            before(step)
            more = next((more for start, more in dict(options).items() if " ".join(step).startswith(start)), ())
            if more is not None:
                outputs[step[1]] = self.run_command([*step, *map(str, more)])
        return outputs

    def parse_commands(self):
        """Parse the options of all commands as these do, without running them."""
        for step in self.steps:
            if step[0] == CLI:
                get_command(app).commands[step[1]].make_context(step[1], step[2:])
            elif step[0] == "python":
                with self.monkeypatch.context() as patch:
                    patch.setattr(arguments, "run_script", lambda main, *types: arguments.parse_arguments(*types))
                    trainers = ("finetune", "ablations", "classifier", "dpo", "grpo")
                    is_trainer = any(name in step[1] for name in trainers)
                    self.run_command([*step, *(["--use_cpu"] if is_trainer else [])])

    def run_command(self, words):
        if words[0] == CLI:
            result = CliRunner().invoke(app, words[1:], input="Is there pneumonia?\n")
            assert result.exit_code == 0, (words, result.output, result.exception)
            return result.stdout
        for state in (AcceleratorState, GradientState):
            state._reset_state()
        with self.monkeypatch.context() as patch:
            patch.setattr("sys.argv", words[1:])
            patch.syspath_prepend(str((ROOT / words[1]).parent))
            runpy.run_path(str(ROOT / words[1]), run_name="__main__")
        return ""


@pytest.fixture(scope="session")
def checkpoints_dir(text_tokenizer, untouched_vq_tokenizer, tmp_path_factory):
    """Folder with a tiny `llm-cxr`: 16 codes an image of 32x32 pixels, and greedy texts of two tokens."""
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    llama = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("llama", vocab_size=len(text_tokenizer), tie_word_embeddings=False, **size)
    )
    # All logits are equal, so the first possible token is the most likely, which ends the text.
    llama.lm_head.weight.data.zero_()
    model, processor = LlmCxrForCausalLM.from_language_model(llama, text_tokenizer, untouched_vq_tokenizer)
    model.generation_config.min_new_tokens = 2
    folder = tmp_path_factory.mktemp("checkpoints")
    for part in (model, processor):
        part.save_pretrained(folder / "llm-cxr")
    return folder


@pytest.fixture
def page(checkpoints_dir, tmp_path, monkeypatch, no_progress_bars):
    """`page(path)`: a page, in an empty folder with the examples, with a tiny checkpoint in place of the embedded."""
    monkeypatch.setattr(checkpoints, "FOLDER", checkpoints_dir)
    for task in ("cxr-report", "cxr-vqa", "cxr-generation"):
        default = {"model": (str(checkpoints_dir / "llm-cxr"), "main")}
        monkeypatch.setitem(PIPELINE_REGISTRY.supported_tasks[task], "default", default)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return lambda path: Page(path, monkeypatch)


@pytest.fixture
def one_step():
    """Options of `examples/finetune_llm_cxr.py` for a single training step."""
    options = "--max_steps 1 --per_device_train_batch_size 1 --eval_strategy no --eval_size 0 --sample_steps 0"
    return f"{options} --dataloader_num_workers 0 --use_cpu --report_to none --disable_tqdm true".split()


@pytest.fixture
def language_model(text_tokenizer, tmp_path):
    """`language_model(name, model_type)`: a tiny random model in a local folder, instead of the one on the Hub."""

    def save(name, model_type):
        size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = AutoConfig.for_model(model_type, vocab_size=len(text_tokenizer), num_key_value_heads=2, **size)
        AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path / name)
        text_tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def dolly_texts(tmp_path):
    """The file `databricks-dolly-15k.jsonl`, with one text."""
    text = {"instruction": "What is a lung?", "context": "", "response": "An organ.", "category": "open_qa"}
    (tmp_path / "databricks-dolly-15k.jsonl").write_text(json.dumps(text) + "\n")


@pytest.fixture
def saved_vq_tokenizer(untouched_vq_tokenizer, checkpoints_dir, tmp_path):
    """The tokenizer of the checkpoint in the folder `runs/vq`."""
    untouched_vq_tokenizer.save_pretrained(tmp_path / "runs/vq")
    AutoProcessor.from_pretrained(checkpoints_dir / "llm-cxr").image_processor.save_pretrained(tmp_path / "runs/vq")
