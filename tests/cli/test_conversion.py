"""The commands that convert and export; what they call is tested in tests/conversion."""

import json
import pickle

import pyarrow.parquet as pq
import pytest
import torch

from transformers_cxr import CXRVQTokenizer, CXRVQTokenizerConfig, LlmCxrImageProcessor
from transformers_cxr.conversion.taming import export_vq_gan, vq_tokenizer_from_taming

CONVERT = ["convert", "--language-model", "a", "--vq-gan-config", "b", "--vq-gan-checkpoint", "c", "--output", "d"]
OFFICIAL = "transformers_cxr.conversion.official.convert_official_checkpoint"


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
    export_vq_gan(vq_tokenizer, tmp_path / "taming")
    return vq_tokenizer, tmp_path / "taming/vq_gan.yaml", tmp_path / "taming/vq_gan.ckpt"


def same_weights(first, second):
    return all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


def test_convert_codes_lists_skipped_images(run, tmp_path):
    codes = {"good": list(range(256)), "bad": [1]}
    (tmp_path / "codes.pickle").write_bytes(pickle.dumps(codes))
    result = run("convert-codes", tmp_path / "codes.pickle", tmp_path / "codes.parquet")
    assert result.exit_code == 0
    assert f"1 images written to {tmp_path / 'codes.parquet'}, 1 skipped." in result.stdout
    assert "Skipped: bad: expected 256 codes" in result.stderr
    assert pq.read_table(tmp_path / "codes.parquet").to_pylist() == [{"id": "good", "codes": codes["good"]}]


def test_vq_gan_is_converted_and_exported_again(run, tmp_path, vq_gan):
    vq_tokenizer, config, checkpoint = vq_gan
    result = run("convert-vq-gan", config, checkpoint, tmp_path / "vq")
    assert result.exit_code == 0 and f"Written to {tmp_path / 'vq'}." in result.stdout
    assert same_weights(vq_tokenizer, CXRVQTokenizer.from_pretrained(tmp_path / "vq"))
    assert LlmCxrImageProcessor.from_pretrained(tmp_path / "vq").size == {"shortest_edge": 32}
    assert run("export-vq-gan", tmp_path / "vq", tmp_path / "back").exit_code == 0
    again = vq_tokenizer_from_taming(tmp_path / "back/vq_gan.yaml", tmp_path / "back/vq_gan.ckpt")
    assert same_weights(vq_tokenizer, again)


def test_errors_are_one_message(check_error, tmp_path, vq_gan):
    _, config, checkpoint = vq_gan
    missing, output = tmp_path / "missing", tmp_path / "output"
    check_error(f"No such file or directory: '{missing}'", "convert-codes", missing, output)
    check_error(f"No checkpoint at '{missing}'", "convert-vq-gan", config, missing, output)
    check_error(f"'{tmp_path}' exists", "convert-vq-gan", config, checkpoint, tmp_path)
    check_error(f"No checkpoint at '{missing}'", "export-vq-gan", missing, output)
    check_error(f"No checkpoint at '{missing}'", "export", missing, output)
    check_error("No `config.json` in 'a'", *CONVERT)
    assert not list(tmp_path.glob("output*"))


def test_convert_passes_its_options(run, monkeypatch):
    calls = []
    monkeypatch.setattr(OFFICIAL, lambda *args: calls.append(tuple(map(str, args))))
    result = run(*CONVERT, "--dtype", "bfloat16")
    assert result.exit_code == 0 and result.stdout == "Verified and written to d.\n"
    assert calls == [("a", "b", "c", "d", "torch.bfloat16")]


def test_export_writes_a_plain_checkpoint(run, checkpoint_dir, tmp_path):
    result = run("export", checkpoint_dir, tmp_path / "plain")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "plain/config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
