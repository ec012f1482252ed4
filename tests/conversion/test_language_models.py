import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from transformers_cxr.conversion import load_language_model


def test_a_folder_gives_the_model_in_evaluation_mode_and_its_tokenizer(llama, text_tokenizer, tmp_path):
    llama.save_pretrained(tmp_path)
    text_tokenizer.save_pretrained(tmp_path)
    model, tokenizer = load_language_model(str(tmp_path), dtype="bfloat16")
    assert model.dtype == torch.bfloat16 and not model.training
    assert tokenizer.get_vocab() == text_tokenizer.get_vocab()


@pytest.mark.parametrize("source", ["{folder}/small_model/small.gguf", "pip:small-model"])
def test_a_gguf_file_is_dequantized(tmp_path, monkeypatch, source):
    calls = []
    # The tests do not have the package gguf.
    for auto_class in (AutoTokenizer, AutoModelForCausalLM):
        monkeypatch.setattr(
            auto_class, "from_pretrained", lambda *args, **kw: calls.append((*args, kw)) or torch.nn.Module()
        )
    info = tmp_path / "small_model-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: small-model\nVersion: 1\n")
    (info / "RECORD").write_text("small_model/__init__.py,,\nsmall_model/small.gguf,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    load_language_model(source.format(folder=tmp_path), dtype="float32")
    tokenizer, (folder, model_kwargs) = calls
    assert tokenizer == (str(tmp_path / "small_model"), {"gguf_file": "small.gguf"}) and folder == tokenizer[0]
    assert model_kwargs.pop("quantization_config").dequantize
    assert model_kwargs == {"gguf_file": "small.gguf", "dtype": "float32"}


def test_a_package_without_a_gguf_file_is_named():
    with pytest.raises(ValueError, match="The package 'pytest' contains no .gguf file"):
        load_language_model("pip:pytest")
