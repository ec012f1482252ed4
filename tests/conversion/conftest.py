"""VQ-GANs of taming-transformers, tiny and random, in the two files in which such models are published."""

import os

import pytest
import torch
import yaml
from taming.modules.diffusionmodules.model import Decoder, Encoder
from taming.modules.vqvae.quantize import VectorQuantizer2
from torch import nn

TINY_DDCONFIG = {
    "double_z": False,
    "z_channels": 16,
    "resolution": 32,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [8],
    "dropout": 0.0,
}


class TamingVQGAN(nn.Module):
    """`taming.models.vqgan.VQModel` of the same modules, without Lightning and losses."""

    def __init__(self, ddconfig: dict, n_embed: int, embed_dim: int):
        super().__init__()
        self.encoder = Encoder(**ddconfig)
        self.decoder = Decoder(**ddconfig)
        self.quantize = VectorQuantizer2(n_embed, embed_dim, beta=0.25)
        self.quant_conv = nn.Conv2d(ddconfig["z_channels"], embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, ddconfig["z_channels"], 1)

    def latents(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.quant_conv(self.encoder(pixel_values))

    def codes(self, pixel_values: torch.Tensor) -> torch.Tensor:
        _, _, (_, _, codes) = self.quantize(self.latents(pixel_values))
        return codes.view(len(pixel_values), -1)

    def decode(self, codes: torch.Tensor, grid_size: int) -> torch.Tensor:
        shape = (len(codes), grid_size, grid_size, self.quantize.e_dim)
        quantized = self.quantize.get_codebook_entry(codes.flatten(), shape)
        return self.decoder(self.post_quant_conv(quantized))


class Call:
    """Unpickles by calling a function."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


@pytest.fixture
def marker(tmp_path):
    """The folder that `trap` creates."""
    return tmp_path / "executed"


@pytest.fixture
def trap(marker):
    """An object that creates the folder `marker` when it is unpickled."""
    return Call(os.mkdir, str(marker))


@pytest.fixture(scope="session")
def make_taming_vq_gan():
    """`(folder, n_embed=64, embed_dim=16, **ddconfig)` -> the model, and the paths of its config and checkpoint."""

    def make(folder, n_embed: int = 64, embed_dim: int = 16, **ddconfig):
        torch.manual_seed(0)
        ddconfig = TINY_DDCONFIG | ddconfig
        model = TamingVQGAN(ddconfig, n_embed, embed_dim).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                # Nothing may be 1 or 0 as it was initialized: exchanged norms would go unnoticed.
                if "norm" in name:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
            # Codes spread over the latents of random images, so that different images get different codes.
            size = ddconfig["resolution"]
            images = torch.rand(8, ddconfig["in_channels"], size, size) * 2 - 1
            latents = model.latents(images).movedim(1, -1).flatten(0, -2)
            model.quantize.embedding.weight.copy_(latents[torch.randperm(len(latents))[:n_embed]])
        target = "taming.models.vqgan.VQModel"
        params = {"embed_dim": embed_dim, "n_embed": n_embed, "ddconfig": ddconfig}
        config_path, checkpoint_path = folder / "model.yaml", folder / "last.ckpt"
        config_path.write_text(yaml.safe_dump({"model": {"target": target, "params": params}}), encoding="utf-8")
        losses = {
            "loss.discriminator.main.0.weight": torch.ones(4, 3),
            "loss.perceptual_loss.lin0.weight": torch.ones(2),
        }
        torch.save({"epoch": 3, "global_step": 7, "state_dict": model.state_dict() | losses}, checkpoint_path)
        return model, config_path, checkpoint_path

    return make
