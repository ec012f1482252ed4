"""`examples/train_vq_gan.py` on images of 32 pixels with models of a few thousand parameters."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from torch import nn

from transformers_cxr import CXRVQTokenizer, LlmCxrImageProcessor
from transformers_cxr.classifiers import XrayClassifier
from transformers_cxr.hub.cards import NOTICE
from transformers_cxr.training import SavingArguments, parse_arguments
from transformers_cxr.training.vq_gan import losses

from .conftest import reset_accelerator

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL = {
    "image_size": 32, "in_channels": 1, "block_out_channels": [4, 8, 8], "layers_per_block": 1, "attention_levels": [],
    "latent_channels": 8, "norm_num_groups": 4, "codebook_size": 32, "codebook_dim": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def script(load_script):
    with load_script("examples/train_vq_gan.py") as module:
        yield module


@pytest.fixture
def run(script, monkeypatch):
    """`run(args)`, with random networks in place of those that are downloaded."""

    def classifier(name):
        torch.manual_seed(5)
        return XrayClassifier(nn.Sequential(nn.Conv2d(1, 4, 5), nn.ReLU()), image_size=16, value_range=(0, 1))

    def perceptual_network(name):
        torch.manual_seed(6)
        network = nn.Conv2d(3, 4, 5)
        network.forward = lambda a, b, f=network.forward: (f(a) - f(b)).square().mean(dim=(1, 2, 3), keepdim=True)
        return network

    monkeypatch.setattr(losses, "load_classifier", classifier)
    monkeypatch.setattr(losses, "load_perceptual_network", perceptual_network)

    def run(args):
        reset_accelerator()
        script.main(args, SavingArguments())

    return run


@pytest.fixture
def everything(script, data_dir, tmp_path):
    """All losses, crops, augmentation, the moving average of weights, and accumulation."""
    return script.Arguments(
        records=str(data_dir), output_dir=str(tmp_path / "run"), model=MODEL, perceptual_weight=1.0,
        clinical_weight=100.0, disc_weight=0.8, disc_start=2, crop_size=24, augment=True,
        source_weights={"kermany": 3.0}, steps=6, batch_size=2, gradient_accumulation_steps=2, warmup_steps=2,
        ema_decay=0.9, initialize_codebook_step=1, revive_every=2, logging_steps=1, sample_every=3, save_every=3,
    )  # fmt: skip


@pytest.fixture
def plain(everything):
    """The losses of the embedded checkpoint."""
    return replace(
        everything, perceptual_weight=0.0, clinical_weight=0.0, disc_weight=0.0, crop_size=0, augment=False,
        ema_decay=0.0, gradient_accumulation_steps=1, save_every=100, sample_every=100,
    )  # fmt: skip


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def assert_same_weights(first, second):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_all_losses_train_and_a_killed_run_is_resumed_to_the_bit(run, everything, kill_after, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    args = replace(everything, report_to="tensorboard")
    run(args)
    output_dir = Path(args.output_dir)
    assert all(torch.isfinite(p).all() for p in CXRVQTokenizer.from_pretrained(output_dir).parameters())
    assert LlmCxrImageProcessor.from_pretrained(output_dir).crop_size["height"] == 32
    card = ModelCard.load(output_dir / "README.md")
    assert card.data.datasets == ["kermany"] and "| Base | random weights |" in card.text and NOTICE in card.text
    assert (output_dir / "modeling_cxr_vq_tokenizer.py").is_file()
    assert sorted(path.name for path in (output_dir / "samples").iterdir()) == ["step-000003.png", "step-000006.png"]
    picture = PIL.Image.open(output_dir / "samples/step-000006.png")
    assert picture.size == (6 * 32, 2 * 32) and "not for clinical use" in picture.info["Comment"]
    events = EventAccumulator(str(output_dir / "vq_gan"))
    events.Reload()
    assert {"loss", "psnr", "clinical", "perceptual", "live_codes"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == list(range(6))
    assert [event.step for event in events.Scalars("discriminator")] == [2, 3, 4, 5]
    assert [event.step for event in events.Images("reconstructions")] == [3, 6]

    # Workers do not change the result.
    resumed = replace(everything, output_dir=str(tmp_path / "resumed"), dataloader_num_workers=1)
    # Two forwards per step: killed in step 5, after the checkpoint of step 3.
    with kill_after(CXRVQTokenizer, 9):
        run(resumed)
    with pytest.raises(ValueError, match="other settings: seed was 0 and is 7"):
        run(replace(resumed, seed=7))
    metadata = Path(resumed.records) / "metadata.csv"
    text = metadata.read_text()
    metadata.write_text(text.replace("kermany", "other"))
    with pytest.raises(ValueError, match="other settings: records_fingerprint was"):
        run(resumed)
    metadata.write_text(text)
    run(resumed)
    assert_same_weights(output_dir, resumed.output_dir)
    first, second = (Path(run.output_dir) / "checkpoint-6" for run in (args, resumed))
    for name in ("model.safetensors", "model_1.safetensors"):
        torch.testing.assert_close(load_file(first / name), load_file(second / name), rtol=0, atol=0)
    for name in ("optimizer.bin", "optimizer_1.bin", "custom_checkpoint_1.pkl"):
        torch.testing.assert_close(*(torch.load(folder / name) for folder in (first, second)), rtol=0, atol=0)


def test_a_codebook_of_fixed_levels_is_not_trained(run, plain):
    run(replace(plain, model=MODEL | {"patch_size": 2, "block_out_channels": [4, 8], "fsq_levels": [4, 4]}))
    levels = CXRVQTokenizer.from_pretrained(plain.output_dir).codebook.unique()
    torch.testing.assert_close(levels, torch.tensor([-3.0, -1.0, 1.0, 3.0]) * math.atanh(0.5) / 2)


def test_every_other_image_is_augmented(run, plain, script, monkeypatch):
    seen = []
    monkeypatch.setattr(script, "augment", lambda images: seen.append(len(images)) or images)
    run(replace(plain, augment=True, batch_size=3, steps=2))
    assert seen == [2, 2]


def test_accumulated_batches_train_as_one_batch(run, plain, tmp_path):
    plain = replace(plain, initialize_codebook_step=-1, revive_every=0)
    run(replace(plain, batch_size=4))
    accumulated = replace(plain, gradient_accumulation_steps=2, output_dir=str(tmp_path / "accumulated"))
    run(accumulated)
    first, second = weights(plain.output_dir), weights(accumulated.output_dir)
    for name in first:
        # Biases before a group normalization have no gradient: Adam moves them along rounding errors.
        if first[name].ndim > 1:
            torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-5)


def test_the_moving_average_is_saved_and_does_not_change_training(run, plain, tmp_path):
    run(plain)
    averaged = replace(plain, save_every=6, ema_decay=0.9, output_dir=str(tmp_path / "averaged"))
    run(averaged)
    state = torch.load(tmp_path / "averaged/checkpoint-6/custom_checkpoint_2.pkl")
    names = dict(CXRVQTokenizer.from_pretrained(plain.output_dir).named_parameters())
    saved, average = weights(averaged.output_dir), dict(zip(names, state["shadow_params"]))
    assert all(torch.equal(saved[name], average[name]) for name in saved)
    assert_same_weights(tmp_path / "averaged/checkpoint-6", plain.output_dir)
    assert any(not torch.equal(value, saved[name]) for name, value in weights(plain.output_dir).items())


def test_a_stream_is_resumed_to_the_bit_and_unreadable_images_are_named(
    run, plain, data_dir, kill_after, tmp_path, caplog
):
    rows = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(data_dir.glob("*.png"))]
    rows[4]["bytes"] = rows[4]["bytes"][:80]
    pq.write_table(pa.table({"image": rows}), tmp_path / "images.parquet")
    args = replace(plain, records=str(tmp_path / "images.parquet"), source_weights={}, save_every=2)
    run(args)
    assert "Unreadable image 1: 2.png" in caplog.text
    resumed = replace(args, output_dir=str(tmp_path / "resumed"))
    with kill_after(CXRVQTokenizer, 3):
        run(resumed)
    run(resumed)
    assert_same_weights(args.output_dir, resumed.output_dir)


@pytest.mark.parametrize("name", ["vq_gan_paper", "embedded_checkpoint/vq_gan"])
def test_recipes_train_on_a_smaller_model(script, run, data_dir, tmp_path, monkeypatch, name):
    path = EXAMPLES / f"{name}.yaml"
    command = ["train", "--config", str(path), "--records", str(data_dir), "--output_dir", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", command)
    (args,) = parse_arguments(script.Arguments)
    settings = yaml.safe_load(path.read_text())
    assert {key: getattr(args, key) for key in settings} == settings
    model = MODEL | {"in_channels": args.model.get("in_channels", 1)}
    run(replace(args, model=model, crop_size=min(args.crop_size, 24), steps=2, disc_start=1, dataloader_num_workers=0))
    assert CXRVQTokenizer.from_pretrained(tmp_path / "run").config.in_channels == model["in_channels"]
