"""The recipe of the embedded checkpoint, `examples/embedded_checkpoint/run.sh`, on tiny models."""

import os
import runpy
import shlex
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import load_file

from transformers_cxr import LlmCxrForCausalLM, LlmCxrImageProcessor, LlmCxrProcessor
from transformers_cxr.training import arguments, parse_arguments

from .conftest import TINY_LLAMA

FOLDER = Path(__file__).parents[2] / "examples/embedded_checkpoint"


def test_a_new_model_has_its_own_tokenizer_and_trains(load_script, data_dir, vq_tokenizer, tmp_path):
    vq_tokenizer.save_pretrained(tmp_path / "vq")
    size = {"height": 32, "width": 32}
    LlmCxrImageProcessor(size={"shortest_edge": 40}, crop_size=size).save_pretrained(tmp_path / "vq")
    with load_script("examples/new_llm_cxr.py") as new:
        new.main(new.Arguments(str(data_dir), str(tmp_path / "new"), str(tmp_path / "vq"), TINY_LLAMA, 400))
    model, processor = (each.from_pretrained(tmp_path / "new") for each in (LlmCxrForCausalLM, LlmCxrProcessor))
    assert len(model.get_input_embeddings().weight) == len(processor.tokenizer) <= 400 + 6 + 32
    assert processor.image_processor.size["shortest_edge"] == 40


def test_the_published_language_model_is_in_bf16_and_loads_in_fp32(load_script, checkpoint_dir, tmp_path):
    trained_dir = shutil.copytree(checkpoint_dir, tmp_path / "final")
    (trained_dir / "README.md").write_text("# The training\n")
    with load_script("examples/embedded_checkpoint/publish.py") as publish:
        publish.main(publish.Arguments(str(trained_dir), str(tmp_path), guidance_scale=2.0, top_p=0.5))
    assert (tmp_path / "README.md").read_text() == "# The training\n"
    trained, published = (LlmCxrForCausalLM.from_pretrained(folder) for folder in (checkpoint_dir, tmp_path))
    assert published.generation_config.image_generation == {"guidance_scale": 2.0, "top_p": 0.5}
    dtypes = {name: tensor.dtype for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    assert all((dtype == torch.float32) == ("vq_tokenizer" in name) for name, dtype in dtypes.items())
    for name, value in published.state_dict().items():
        expected = trained.state_dict()[name]
        assert torch.equal(value, expected if "vq_tokenizer" in name else expected.bfloat16().float())
    assert LlmCxrProcessor.from_pretrained(tmp_path).num_image_tokens == 16


class Parsed(BaseException):
    """Ends a script after its arguments were parsed; `run_script` does not catch it."""


def test_run_sh_runs_every_recipe_in_order_with_settings_of_its_script(tmp_path, monkeypatch):
    (tmp_path / "python").write_text('#!/usr/bin/env bash\n(printf "%q " "$@"; echo) >> "$COMMANDS"\n')
    (tmp_path / "python").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "COMMANDS": str(tmp_path / "commands")}
    output = tmp_path / "out"
    output.mkdir()
    subprocess.run(["bash", FOLDER / "run.sh", "data", output], env=environment, check=True)
    commands = [shlex.split(line) for line in (tmp_path / "commands").read_text().splitlines()]
    recipes = [Path(command[command.index("--config") + 1]).name for command in commands if "--config" in command]
    assert set(recipes) == {path.name for path in FOLDER.glob("*.yaml")}

    def parse(*types):
        raise Parsed(parse_arguments(*types))

    monkeypatch.setattr(arguments, "parse_arguments", parse)
    outputs = set()
    for command in commands:
        # Every input from `output` is the output of an earlier command.
        *inputs, last = [Path(word).relative_to(output).parts[0] for word in command if word.startswith(str(output))]
        assert set(inputs) <= outputs, command
        outputs.add(last)
        monkeypatch.setattr("sys.argv", command)
        with suppress(Parsed):
            runpy.run_path(command[0], run_name="__main__")
