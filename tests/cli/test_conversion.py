import json
import pickle
import sys

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers.utils import logging
from typer.testing import CliRunner

from transformers_cxr import (
    CXRVQTokenizer,
    CXRVQTokenizerConfig,
    LlmCxrForCausalLM,
    LlmCxrImageProcessor,
    save_with_remote_code,
)
from transformers_cxr.cli.main import app
from transformers_cxr.conversion.taming import read_taming_config, save_taming, vq_tokenizer_from_taming

OPTIONS = ("--language-model", "--vq-gan-config", "--vq-gan-checkpoint", "--output")


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def arguments(*values):
    return ["convert", *(text for pair in zip(OPTIONS, map(str, values)) for text in pair)]


@pytest.fixture(autouse=True)
def no_progress_bars():
    """`main` switches them off in the environment, which is read only once."""
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


def check_mistake(result, message: str) -> None:
    """One line that says what is wrong, exit code 1, no stack trace."""
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("Error: ") and message in result.stderr
    assert result.stderr.count("\n") == 1 and result.stdout == ""


@pytest.fixture
def vq_gan(tmp_path):
    """A tiny VQ-GAN and its two files of taming-transformers."""
    torch.manual_seed(0)
    config = CXRVQTokenizerConfig(
        image_size=32,
        block_out_channels=(32, 64),
        layers_per_block=1,
        attention_levels=(1,),
        latent_channels=8,
        codebook_size=16,
        codebook_dim=4,
    )
    vq_tokenizer = CXRVQTokenizer(config).eval()
    return vq_tokenizer, *save_taming(vq_tokenizer, tmp_path / "taming")


def test_codes_are_converted_and_what_is_left_out_is_listed(tmp_path):
    codes = {"good": list(range(256)), "bad": [1]}
    (tmp_path / "codes.pickle").write_bytes(pickle.dumps(codes))
    result = run("convert-codes", tmp_path / "codes.pickle", tmp_path / "codes.parquet")
    assert result.exit_code == 0
    assert f"1 images written to {tmp_path / 'codes.parquet'}, 1 left out." in result.stdout
    assert "Left out: bad: 1 codes instead of 256" in result.stderr
    assert pq.read_table(tmp_path / "codes.parquet").to_pylist() == [{"image_id": "good", "codes": codes["good"]}]


def test_a_vq_gan_is_converted_with_its_image_processor(tmp_path, vq_gan):
    vq_tokenizer, config_path, checkpoint_path = vq_gan
    output = tmp_path / "vq"
    result = run("convert-vq-gan", config_path, checkpoint_path, output)
    assert result.exit_code == 0 and f"Written to {output}." in result.stdout
    loaded = CXRVQTokenizer.from_pretrained(output)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, vq_tokenizer.state_dict()[name]), name
    image_processor = LlmCxrImageProcessor.from_pretrained(output)
    assert image_processor.resample == Image.Resampling.LANCZOS
    pixel_values = image_processor(Image.linear_gradient("L"), return_tensors="pt").pixel_values
    assert pixel_values.shape == (1, 3, 32, 32)
    assert loaded.encode(pixel_values).shape == (1, 256)


def test_a_vq_gan_goes_there_and_back(tmp_path, vq_gan):
    vq_tokenizer, config_path, checkpoint_path = vq_gan
    assert run("convert-vq-gan", config_path, checkpoint_path, tmp_path / "vq").exit_code == 0
    assert run("export-vq-gan", tmp_path / "vq", tmp_path / "back").exit_code == 0
    again = tmp_path / "back" / "vq_gan.yaml", tmp_path / "back" / "vq_gan.ckpt"
    assert read_taming_config(again[0]).to_dict() == read_taming_config(config_path).to_dict()
    for name, tensor in vq_tokenizer_from_taming(*again).state_dict().items():
        assert torch.equal(tensor, vq_tokenizer.state_dict()[name]), name


def test_the_vq_gan_of_a_whole_model_is_exported(tmp_path, vq_gan, llama, text_tokenizer):
    model, _ = LlmCxrForCausalLM.from_language_model(llama, text_tokenizer, vq_gan[0], new_embeddings="random")
    model.save_pretrained(tmp_path / "model")
    assert run("export-vq-gan", tmp_path / "model", tmp_path / "back").exit_code == 0
    exported = vq_tokenizer_from_taming(tmp_path / "back" / "vq_gan.yaml", tmp_path / "back" / "vq_gan.ckpt")
    for name, tensor in exported.state_dict().items():
        assert torch.equal(tensor, model.vq_tokenizer.state_dict()[name]), name


def test_mistakes_are_one_message(tmp_path, vq_gan, vq_tokenizer):
    _, config_path, checkpoint_path = vq_gan
    missing, output = tmp_path / "missing", tmp_path / "output"
    (tmp_path / "codes.pickle").write_bytes(pickle.dumps({"x": sys.exit}))
    check_mistake(run("convert-codes", missing, output), f"No such file or directory: '{missing}'")
    check_mistake(run("convert-codes", tmp_path / "codes.pickle", output), "it refers to 'sys.exit'")
    check_mistake(run("convert-vq-gan", missing, checkpoint_path, output), f"No such file or directory: '{missing}'")
    check_mistake(run("convert-vq-gan", config_path, missing, output), f"No checkpoint at '{missing}'")
    check_mistake(run("convert-vq-gan", config_path, config_path, output), "Cannot read")
    check_mistake(run("convert-vq-gan", config_path, checkpoint_path, tmp_path), f"'{tmp_path}' exists")
    check_mistake(run("export-vq-gan", missing, output), f"No `config.json` in '{missing}'")
    # Four groups of normalisation, which taming-transformers does not know.
    vq_tokenizer.save_pretrained(tmp_path / "four-groups")
    check_mistake(run("export-vq-gan", tmp_path / "four-groups", output), "`norm_num_groups=4`")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    check_mistake(run("export-vq-gan", tmp_path, output), "is a model of type 'llama', which has no VQ-GAN")
    assert not list(tmp_path.glob("output*"))


def test_convert_hands_the_files_on_and_prints_what_was_verified(monkeypatch, tmp_path):
    given = []

    def convert(*args, dtype):
        given.append((*map(str, args), str(dtype)))
        return [("Logits", "equal"), ("Weights of the VQ-GAN", "all 3 equal")]

    monkeypatch.setattr("transformers_cxr.conversion.official.convert_official_checkpoint", convert)
    result = run(*arguments("a", "b", "c", tmp_path / "d"), "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    assert given == [("a", "b", "c", str(tmp_path / "d"), "torch.bfloat16")]
    lines = result.stdout.splitlines()
    assert lines[:2] == ["Logits                 equal", "Weights of the VQ-GAN  all 3 equal"]
    assert str(tmp_path / "d") in lines[2]


@pytest.mark.parametrize("missing", ["folder", "output exists"])
def test_a_mistake_is_one_message_without_a_stack_trace(tmp_path, missing):
    output = tmp_path / "out"
    if missing == "output exists":
        output.mkdir()
    result = run(*arguments(tmp_path / "none", tmp_path / "x.yaml", tmp_path / "x.ckpt", output))
    assert result.exit_code == 1 and result.stdout == ""
    expected = "out' exists" if missing == "output exists" else "No `config.json` in"
    assert expected in result.stderr and len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.output


def test_a_bug_is_not_hidden_as_a_mistake(monkeypatch):
    def broken(*args, **kwargs):
        raise TypeError("a bug")

    monkeypatch.setattr("transformers_cxr.conversion.official.convert_official_checkpoint", broken)
    assert isinstance(run(*arguments("a", "b", "c", "d")).exception, TypeError)


def test_an_unknown_dtype_is_refused():
    result = run(*arguments("a", "b", "c", "d"), "--dtype", "int4")
    assert result.exit_code == 2 and "int4" in result.stderr


def test_export_writes_a_plain_checkpoint(tiny_model, tmp_path):
    model, processor = tiny_model
    save_with_remote_code(model, processor, tmp_path / "checkpoint")
    result = run("export", tmp_path / "checkpoint", tmp_path / "plain")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "plain/config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_export_of_a_folder_that_is_no_checkpoint_is_one_message(tmp_path):
    result = run("export", tmp_path, tmp_path / "plain")
    assert result.exit_code == 1 and "No `config.json`" in result.stderr and "Traceback" not in result.output
