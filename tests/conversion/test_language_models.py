import json

import gguf
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from transformers_cxr.conversion import load_language_model


def write_gguf(model, tokenizer, path):
    """Write a Qwen2 in fp32 and its byte-level BPE."""
    config, bpe = model.config, json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    writer.add_token_merges([" ".join(merge) for merge in bpe["merges"]])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_folder_gives_the_model_in_evaluation_mode_and_its_tokenizer(llama, text_tokenizer, tmp_path):
    llama.save_pretrained(tmp_path)
    text_tokenizer.save_pretrained(tmp_path)
    model, tokenizer = load_language_model(str(tmp_path), dtype="bfloat16")
    assert model.dtype == torch.bfloat16 and not model.training
    assert tokenizer.get_vocab() == text_tokenizer.get_vocab()


@pytest.mark.parametrize("source", ["{folder}/small_model/small.gguf", "pip:small-model"])
def test_a_gguf_file_gives_its_weights_and_its_tokenizer(text_tokenizer, tmp_path, monkeypatch, source):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"intermediate_size": 64, "vocab_size": len(text_tokenizer)}
    written = Qwen2ForCausalLM(Qwen2Config(**sizes))
    info, package = tmp_path / "small_model-1.dist-info", tmp_path / "small_model"
    info.mkdir()
    package.mkdir()
    (info / "METADATA").write_text("Name: small-model\nVersion: 1\n")
    (info / "RECORD").write_text("small_model/__init__.py,,\nsmall_model/small.gguf,,\n")
    write_gguf(written, text_tokenizer, package / "small.gguf")
    monkeypatch.syspath_prepend(tmp_path)
    model, tokenizer = load_language_model(source.format(folder=tmp_path), dtype="float32")
    for name, tensor in written.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    text = "FINDINGS: The lungs are clear."
    assert tokenizer(text).input_ids == text_tokenizer(text).input_ids


@pytest.mark.parametrize(
    "package, error, message",
    [
        ("pytest", ValueError, "The package 'pytest' contains no .gguf file"),
        ("no-such-package", ImportError, "The package 'no-such-package' is not installed"),
    ],
)
def test_a_package_without_a_language_model_is_named(package, error, message):
    with pytest.raises(error, match=message):
        load_language_model(f"pip:{package}")
