import json

import pytest
import torch

from transformers_cxr.cli.models import find_device, load_model, load_vq_tokenizer


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="Device 'cuda:99' cannot be used"):
        find_device("cuda:99")
    with pytest.raises(ValueError, match="Device 'gpu' cannot be used"):
        find_device("gpu")
    assert find_device("cpu") == torch.device("cpu")


def test_a_checkpoint_is_loaded_in_a_dtype_and_its_tokenizer_stays_in_fp32(checkpoint):
    model, processor = load_model(str(checkpoint), "cpu", "bfloat16")
    assert model.language_model.dtype == torch.bfloat16 and model.vq_tokenizer.dtype == torch.float32
    assert processor.vq_tokenizer is model.vq_tokenizer and not model.training


def test_the_tokenizer_of_a_whole_checkpoint_and_one_alone_are_the_same(checkpoint, vq_tokenizer, tmp_path):
    alone = tmp_path / "vq"
    vq_tokenizer.save_pretrained(alone)
    whole, image_processor = load_vq_tokenizer(str(checkpoint), torch.device("cpu"))
    image_processor.save_pretrained(alone)
    again, _ = load_vq_tokenizer(str(alone), torch.device("cpu"))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    with pytest.raises(ValueError, match="is an image tokenizer alone"):
        load_model(str(alone), "cpu", None)


def test_what_is_no_checkpoint_is_said(checkpoint, tmp_path):
    with pytest.raises(FileNotFoundError, match="No `config.json` in"):
        load_model(str(tmp_path), "cpu", None)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="is a model of type 'llama'"):
        load_model(str(tmp_path), "cpu", None)
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="The weights in .* cannot be loaded"):
        load_model(str(checkpoint), "cpu", None)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config)[:-20])
    with pytest.raises(OSError, match="JSON"):
        load_model(str(checkpoint), "cpu", None)
