import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from transformers_cxr.conversion import load_language_model


def test_a_folder_gives_the_model_in_evaluation_mode_and_its_tokenizer(llama, text_tokenizer, tmp_path):
    for part in (llama, text_tokenizer):
        part.save_pretrained(tmp_path)
    model, tokenizer = load_language_model(str(tmp_path), dtype="bfloat16")
    assert model.dtype == torch.bfloat16 and not model.training
    assert tokenizer.get_vocab() == text_tokenizer.get_vocab()


@pytest.mark.parametrize("source", ["file", "package"])
def test_a_gguf_file_is_dequantized(tmp_path, monkeypatch, source):
    calls = []

    def from_pretrained(folder, **kwargs):
        calls.append((folder, kwargs))
        return torch.nn.Identity()

    # The tests do not have the package gguf.
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", from_pretrained)
    info = tmp_path / "small_model-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: small-model\nVersion: 1\n")
    (info / "RECORD").write_text("small_model/__init__.py,,\nsmall_model/small.gguf,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "small_model"
    load_language_model("pip:small-model" if source == "package" else str(folder / "small.gguf"), dtype="float32")
    (tokenizer_folder, tokenizer_kwargs), (model_folder, model_kwargs) = calls
    assert tokenizer_folder == model_folder == str(folder)
    assert tokenizer_kwargs == {"gguf_file": "small.gguf"}
    assert model_kwargs.pop("quantization_config").dequantize
    assert model_kwargs == {"gguf_file": "small.gguf", "dtype": "float32"}


def test_a_package_without_a_gguf_file_is_named():
    with pytest.raises(ValueError, match="The package 'pytest' contains no .gguf file"):
        load_language_model("pip:pytest")
