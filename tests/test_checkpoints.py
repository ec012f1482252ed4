import pytest
import torch

from transformers_cxr.checkpoints import find_device, load_checkpoint, load_vq_tokenizer


@pytest.mark.parametrize("name", ["cuda:99", "gpu"])
def test_missing_device_is_named(name):
    with pytest.raises(ValueError, match=f"Device '{name}' is not available"):
        find_device(name)


def test_dtype_is_that_of_the_language_model_only(checkpoint_dir):
    model, processor = load_checkpoint(str(checkpoint_dir), "cpu", "bfloat16")
    assert model.get_decoder().dtype == torch.bfloat16 and model.vq_tokenizer.dtype == torch.float32
    assert processor.vq_tokenizer is model.vq_tokenizer and not model.training


def test_image_tokenizer_loads_from_a_whole_checkpoint_and_from_its_own(checkpoint_dir, tmp_path):
    whole, image_processor = load_vq_tokenizer(str(checkpoint_dir), torch.device("cpu"))
    whole.save_pretrained(tmp_path)
    image_processor.save_pretrained(tmp_path)
    alone, _ = load_vq_tokenizer(str(tmp_path), torch.device("cpu"))
    assert all(torch.equal(tensor, alone.state_dict()[name]) for name, tensor in whole.state_dict().items())
    with pytest.raises(ValueError, match="is a model of type 'cxr_vq_tokenizer'"):
        load_checkpoint(str(tmp_path), "cpu")


def test_unusable_checkpoint_is_named(checkpoint_dir, tmp_path):
    with pytest.raises(FileNotFoundError, match="No checkpoint at '.*missing"):
        load_checkpoint(str(tmp_path / "missing"), "cpu")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="is a model of type 'llama'"):
        load_checkpoint(str(tmp_path), "cpu")
    (tmp_path / "config.json").write_text((checkpoint_dir / "config.json").read_text()[:-20])
    with pytest.raises(FileNotFoundError, match="JSON"):
        load_checkpoint(str(tmp_path), "cpu")
