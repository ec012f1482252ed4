import argparse
import pathlib
import pickle
import sys

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from safetensors.torch import save_file

from transformers_cxr import CXRVQTokenizer, CXRVQTokenizerConfig
from transformers_cxr.conversion.taming import (
    export_vq_gan,
    read_taming_checkpoint,
    read_taming_config,
    vq_tokenizer_from_taming,
    vq_tokenizer_to_taming,
)

ARCHITECTURES = {
    "attention at two levels": {"attn_resolutions": [8, 16], "ch_mult": [1, 2, 2], "num_res_blocks": 2},
    "attention at a resolution that no level has": {"attn_resolutions": [4]},
    "gray": {"in_channels": 1, "out_ch": 1, "ch_mult": [1, 1, 1, 1], "attn_resolutions": [4, 16]},
    "one level, and latents wider than codes": {
        "ch_mult": [1],
        "attn_resolutions": [],
        "resolution": 8,
        "z_channels": 32,
        "embed_dim": 8,
    },
}
PUBLISHED_DDCONFIG = yaml.safe_load("""
{double_z: false, z_channels: 256, resolution: 256, in_channels: 3, out_ch: 3, ch: 128, ch_mult: [1, 1, 2, 2, 4],
num_res_blocks: 2, attn_resolutions: [16], dropout: 0.0}
""")


def random_images(config: CXRVQTokenizerConfig, batch_size: int) -> torch.Tensor:
    shape = (batch_size, config.in_channels, config.image_size, config.image_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def write_config(path: pathlib.Path, **ddconfig) -> pathlib.Path:
    params = {"embed_dim": 256, "n_embed": 1024, "ddconfig": PUBLISHED_DDCONFIG | ddconfig}
    path.write_text(yaml.safe_dump({"model": {"params": params}}), encoding="utf-8")
    return path


def assert_equal_tensors(state, expected):
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, expected[name]), name


@pytest.fixture
def vq_gan(make_taming_vq_gan, tmp_path):
    return make_taming_vq_gan(tmp_path)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_codes_and_images_are_those_of_taming_in_both_directions(make_taming_vq_gan, tmp_path, architecture):
    reference, *paths = make_taming_vq_gan(tmp_path, **ARCHITECTURES[architecture])
    vq_tokenizer = vq_tokenizer_from_taming(*paths)
    assert not vq_tokenizer.training
    config = vq_tokenizer.config
    images = random_images(config, 3)
    codes = vq_tokenizer.encode(images)
    assert len(codes.unique()) > 10 and torch.equal(codes, reference.codes(images))
    codes = torch.randint(config.codebook_size, codes.shape, generator=torch.Generator().manual_seed(2))
    expected = reference.decode(codes, config.grid_size)
    assert expected.std() > 0.05
    torch.testing.assert_close(vq_tokenizer.decode(codes), expected.clamp(-1, 1), rtol=0, atol=1e-4)

    assert_equal_tensors(vq_tokenizer_to_taming(vq_tokenizer), reference.state_dict())
    export_vq_gan(vq_tokenizer, tmp_path / "back")
    config_path, checkpoint_path = tmp_path / "back/vq_gan.yaml", tmp_path / "back/vq_gan.ckpt"
    # As taming-transformers and the released code of LLM-CXR load it.
    params = OmegaConf.load(config_path).model.params
    fresh = type(reference)(params.ddconfig, params.n_embed, params.embed_dim).eval()
    fresh.load_state_dict(torch.load(checkpoint_path)["state_dict"])
    assert torch.equal(fresh.codes(images), reference.codes(images))
    again = vq_tokenizer_from_taming(config_path, checkpoint_path)
    assert again.config.to_dict() == config.to_dict()
    assert_equal_tensors(again.state_dict(), vq_tokenizer.state_dict())


def test_config_of_llm_cxr_is_the_default(tmp_path):
    config = read_taming_config(write_config(tmp_path / "config.yaml"))
    assert config.to_dict() == CXRVQTokenizerConfig().to_dict()


def lightning_state(state_dict: dict) -> dict:
    """The content of a Lightning checkpoint: objects of Lightning, OmegaConf, NumPy and torch beside the tensors."""
    from pytorch_lightning.callbacks import ModelCheckpoint
    from pytorch_lightning.utilities.parsing import AttributeDict

    config = OmegaConf.create({"ddconfig": {"ch_mult": [1, 2]}, "loss": None, "rate": 4.5e-6, "key": "image"})
    scores = {"best_model_score": torch.tensor(0.5), "best_k_models": {"a.ckpt": np.float64(2)}}
    hyper_parameters = {"config": config, "args": argparse.Namespace(seed=1), "folder": pathlib.PurePosixPath("a")}
    return {
        "callbacks": {ModelCheckpoint: scores},
        "hyper_parameters": AttributeDict(hyper_parameters),
        "hparams_type": type(config),
        "history": np.arange(3.0),
        "optimizer_class": torch.optim.Adam,
        "state_dict": state_dict,
    }


def test_a_lightning_checkpoint_is_read_without_the_packages_of_its_objects(vq_gan, tmp_path, monkeypatch):
    reference = vq_gan[0].state_dict()
    path = tmp_path / "lightning.ckpt"
    torch.save(lightning_state(reference), path)
    for package in ("pytorch_lightning", "lightning", "omegaconf", "argparse"):
        monkeypatch.setitem(sys.modules, package, None)
    assert_equal_tensors(read_taming_checkpoint(path), reference)
    # Nothing stays allowed.
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize("kind", ["Lightning", "legacy state dict", "safetensors"])
def test_every_kind_of_file_gives_the_tensors_without_those_of_the_losses(vq_gan, tmp_path, kind):
    reference = vq_gan[0].half().state_dict()
    state = reference | {"loss.discriminator.main.0.weight": torch.ones(2), "feature_extractor.weight": torch.ones(2)}
    path = tmp_path / ("model.safetensors" if kind == "safetensors" else "model.ckpt")
    if kind == "safetensors":
        save_file(state, path)
    else:
        content = {"state_dict": state, "epoch": 1} if kind == "Lightning" else state
        torch.save(content, path, _use_new_zipfile_serialization="legacy" not in kind)
    assert_equal_tensors(read_taming_checkpoint(path), reference)
    vq_tokenizer = vq_tokenizer_from_taming(vq_gan[1], path)
    assert {parameter.dtype for parameter in vq_tokenizer.parameters()} == {torch.float32}
    data = path.read_bytes()
    for length in (0, len(data) // 2):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=f"Cannot read '{path}'"):
            read_taming_checkpoint(path)


@pytest.mark.parametrize("place", ["whole file", "tensor", "callbacks", "legacy"])
def test_code_in_a_checkpoint_is_not_executed(vq_gan, tmp_path, trap, marker, place):
    reference, config_path, _ = vq_gan
    state, path = reference.state_dict(), tmp_path / "hostile.ckpt"
    content = {"state_dict": state, "callbacks": {"ModelCheckpoint": trap}}
    if place == "whole file":
        content = trap
    elif place == "tensor":
        content = {"state_dict": state | {"encoder.conv_in.weight": trap}}
    torch.save(content, path, _use_new_zipfile_serialization=place != "legacy")
    with pytest.raises(ValueError, match=f"'{path}'"):
        vq_tokenizer_from_taming(config_path, path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the trap does not work"


def test_other_files_are_refused_by_name(tmp_path):
    checkpoint, config = tmp_path / "model.ckpt", tmp_path / "config.yaml"
    with pytest.raises(FileNotFoundError, match="No checkpoint at"):
        read_taming_checkpoint(checkpoint)
    torch.save({"gpt_neox.embed_in.weight": torch.ones(1)}, checkpoint)
    with pytest.raises(ValueError, match="holds no VQ-GAN"):
        read_taming_checkpoint(checkpoint)
    for content in (b"", b"model: [", b"\xff\xfe\x00", b"a: !!python/object:x.y {}"):
        config.write_bytes(content)
        with pytest.raises(ValueError, match=f"'{config}' is not the config"):
            read_taming_config(config)
    with pytest.raises(ValueError, match="`in_channels` must be 1 .* or 3 .*, got 4"):
        read_taming_config(write_config(config, in_channels=4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_res_blocks": 2}, r"68 tensors are missing: encoder.down.0.block.1.norm1.weight, .* and 63 more"),
        ({"attn_resolutions": []}, r"30 tensors are left over: encoder.down.2.attn.0.norm.weight"),
        ({"z_channels": 8}, r"encoder.conv_out.weight \(16, 64, 3, 3\) instead of \(8, 64, 3, 3\)"),
    ],
)
def test_a_config_of_another_model_is_refused_by_the_tensors_that_differ(vq_gan, change, message):
    _, config_path, checkpoint_path = vq_gan
    content = yaml.safe_load(config_path.read_text(encoding="utf-8"))
    content["model"]["params"]["ddconfig"] |= change
    config_path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ValueError, match="does not match the weights.*" + message):
        vq_tokenizer_from_taming(config_path, checkpoint_path)


@pytest.mark.parametrize("change", [{"block_out_channels": (64, 96)}, {"patch_size": 2}])
def test_an_architecture_that_taming_does_not_have_is_not_written(tmp_path, change):
    settings = {"image_size": 8, "block_out_channels": (64, 64), "attention_levels": (), "latent_channels": 4}
    vq_tokenizer = CXRVQTokenizer(CXRVQTokenizerConfig(**settings | change))
    with pytest.raises(ValueError, match="Expected `norm_num_groups=32`, `patch_size=1` and multiples"):
        export_vq_gan(vq_tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()
