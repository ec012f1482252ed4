"""`examples/train_vq_gan.py`, run on images of 32 pixels with models of a few thousand parameters."""

import csv
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file
from torch import nn

from transformers_cxr import CXRVQTokenizer, LlmCxrImageProcessor
from transformers_cxr.classifiers import XrayClassifier
from transformers_cxr.training.arguments import parse_arguments

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL = {
    "image_size": 32,
    "in_channels": 1,
    "block_out_channels": [4, 8, 8],
    "layers_per_block": 1,
    "attention_levels": [],
    "latent_channels": 8,
    "norm_num_groups": 4,
    "codebook_size": 32,
    "codebook_dim": 4,
}


@pytest.fixture(scope="module")
def script(load_script):
    with load_script("examples/train_vq_gan.py") as module:
        yield module


@pytest.fixture(autouse=True)
def one_accelerator_a_run(script, monkeypatch):
    run = script.main

    def main(args):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        run(args)

    monkeypatch.setattr(script, "main", main)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(autouse=True)
def tiny_networks(script, monkeypatch):
    """Random networks in the place of those that are downloaded."""

    def classifier(name):
        torch.manual_seed(5)
        return XrayClassifier(nn.Sequential(nn.Conv2d(1, 4, 5), nn.ReLU()), image_size=16, value_range=(0, 1))

    def lpips():
        torch.manual_seed(6)
        network = nn.Conv2d(3, 4, 5)
        network.forward = lambda a, b, f=network.forward: (f(a) - f(b)).square().mean(dim=(1, 2, 3), keepdim=True)
        return network

    monkeypatch.setattr(script, "load_classifier", classifier)
    monkeypatch.setattr(script, "load_lpips", lpips)


@pytest.fixture
def data_dir(tmp_path):
    folder, rng = tmp_path / "data", np.random.default_rng(0)
    folder.mkdir()
    rows = []
    for i in range(12):
        image = PIL.Image.fromarray((rng.random((5, 5)) * 255).astype(np.uint8)).resize((40, 36))
        image.save(folder / f"{i:02d}.png")
        rows.append(
            {"file_name": f"{i:02d}.png", "split": "train" if i < 10 else "validation", "source": "ab"[i % 2]}
            | {"patient_id": i, "view": "AP", "age_group": "adult", "sex": "M", "finding_labels": "", "etiology": ""}
        )
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture
def everything(script, data_dir, tmp_path):
    """All losses, the average of weights and accumulation."""
    return script.Arguments(
        data_dir=str(data_dir),
        output_dir=str(tmp_path / "run"),
        model=MODEL,
        perceptual_weight=1.0,
        clinical_weight=100.0,
        disc_weight=0.8,
        disc_start=2,
        source_weights={"a": 3.0},
        steps=6,
        batch_size=2,
        gradient_accumulation_steps=2,
        warmup_steps=2,
        ema_decay=0.9,
        initialize_codebook_step=1,
        revive_every=2,
        logging_steps=1,
        sample_every=3,
        save_every=3,
    )


@pytest.fixture
def plain(everything):
    """The embedded recipe's losses."""
    return replace(
        everything, perceptual_weight=0.0, clinical_weight=0.0, disc_weight=0.0, ema_decay=0.0,
        gradient_accumulation_steps=1, save_every=100, sample_every=100,
    )  # fmt: skip


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def assert_same_weights(first, second):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


class Killed(BaseException):
    pass


@pytest.fixture
def killed_at(script, monkeypatch):
    """Makes a run stop dead in the forward of a step after the checkpoint, as `kill -9` does."""

    def kill(args, forwards):
        count = 0
        forward = CXRVQTokenizer.forward

        def counted(self, *inputs, **options):
            nonlocal count
            count += 1
            if count > forwards:
                raise Killed
            return forward(self, *inputs, **options)

        with monkeypatch.context() as patch:
            patch.setattr(CXRVQTokenizer, "forward", counted)
            with pytest.raises(Killed):
                script.main(args)

    return kill


def test_all_losses_train_and_a_tokenizer_and_pictures_come_out(script, everything):
    script.main(everything)
    output_dir = Path(everything.output_dir)
    tokenizer = CXRVQTokenizer.from_pretrained(output_dir)
    assert all(torch.isfinite(parameter).all() for parameter in tokenizer.parameters())
    assert LlmCxrImageProcessor.from_pretrained(output_dir).crop_size["height"] == 32
    assert sorted(path.name for path in (output_dir / "samples").iterdir()) == ["step-000003.png", "step-000006.png"]
    picture = PIL.Image.open(output_dir / "samples/step-000006.png")
    # Every second of the ten images of the train split, and their reconstructions.
    assert picture.size == (5 * 32, 2 * 32)
    assert "not for clinical use" in picture.info["Comment"]
    assert [path.name for path in output_dir.glob("*checkpoint*")] == ["checkpoint-6"]


def test_a_run_that_is_killed_and_resumed_gives_the_same_weights_bit_for_bit(script, everything, killed_at, tmp_path):
    args = everything
    script.main(args)
    # That other processes read the images changes nothing either.
    resumed = replace(args, output_dir=str(tmp_path / "resumed"), dataloader_num_workers=1)
    # Two forwards a step: killed within step 5, after the checkpoint of step 3.
    killed_at(resumed, forwards=9)
    assert not (tmp_path / "resumed/model.safetensors").exists()
    script.main(resumed)
    assert_same_weights(args.output_dir, resumed.output_dir)
    first, second = (Path(run.output_dir) / "checkpoint-6" for run in (args, resumed))
    for name in ("model.safetensors", "model_1.safetensors"):
        for key, value in load_file(first / name).items():
            assert torch.equal(value, load_file(second / name)[key]), (name, key)
    for name in ("optimizer.bin", "optimizer_1.bin", "custom_checkpoint_1.pkl"):
        states = [torch.load(folder / name) for folder in (first, second)]
        torch.testing.assert_close(*states, rtol=0, atol=0)


def test_all_losses_train_in_bf16(script, everything):
    script.main(replace(everything, steps=2, disc_start=1, gradient_accumulation_steps=1, bf16=True))
    saved = weights(everything.output_dir)
    assert all(value.dtype == torch.float32 and torch.isfinite(value).all() for value in saved.values())


def test_the_discriminator_rests_until_disc_start(script, everything, monkeypatch):
    steps = []

    def recorded(real, fake, hinge_loss=script.hinge_loss):
        steps.append(1)
        return hinge_loss(real, fake)

    monkeypatch.setattr(script, "hinge_loss", recorded)
    script.main(replace(everything, disc_start=4))
    assert len(steps) == 2 * 2


def test_accumulated_batches_train_as_one_batch(script, plain, tmp_path):
    script.main(replace(plain, batch_size=4, initialize_codebook_step=-1, revive_every=0))
    accumulated = replace(
        plain, batch_size=2, gradient_accumulation_steps=2, initialize_codebook_step=-1, revive_every=0,
        output_dir=str(tmp_path / "accumulated"),
    )  # fmt: skip
    script.main(accumulated)
    first, second = weights(plain.output_dir), weights(accumulated.output_dir)
    for name in first:
        # Biases before a group normalisation have no gradient: Adam moves them along the rounding errors.
        if first[name].ndim > 1:
            torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-5)


def test_the_saved_weights_are_the_average_where_one_is_asked_for(script, plain, tmp_path):
    script.main(replace(plain, save_every=6))
    averaged = replace(plain, save_every=6, ema_decay=0.9, output_dir=str(tmp_path / "averaged"))
    script.main(averaged)
    state = torch.load(tmp_path / "averaged/checkpoint-6/custom_checkpoint_2.pkl")
    average = dict(
        zip(dict(CXRVQTokenizer.from_pretrained(plain.output_dir).named_parameters()), state["shadow_params"])
    )
    saved = weights(averaged.output_dir)
    assert all(torch.equal(saved[name], average[name]) for name in saved)
    # What trains is the same with and without the average.
    trained = weights(tmp_path / "averaged/checkpoint-6")
    assert all(torch.equal(trained[name], value) for name, value in weights(plain.output_dir).items())
    assert not all(torch.equal(trained[name], saved[name]) for name in saved)


def test_decoder_only_training_leaves_encoder_and_codebook(script, plain, tmp_path):
    script.main(plain)
    decoder = replace(plain, decoder_only=True, initial_model=plain.output_dir, output_dir=str(tmp_path / "decoder"))
    script.main(decoder)
    before, after = weights(plain.output_dir), weights(decoder.output_dir)
    changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder", "post_quant_conv"}


@pytest.mark.parametrize("levels", [[4, 8, 8, 8], [4, 4, 8, 8, 8]], ids=["f8", "f16"])
def test_the_grid_follows_the_settings_of_the_model(script, plain, levels):
    script.main(replace(plain, steps=2, model=MODEL | {"block_out_channels": levels, "image_size": 64}))
    tokenizer = CXRVQTokenizer.from_pretrained(plain.output_dir)
    assert tokenizer.config.grid_size == {4: 8, 5: 4}[len(levels)]
    assert tokenizer.encode(torch.zeros(1, 1, 64, 64)).shape == (1, tokenizer.config.grid_size**2)


def test_any_folder_of_images_trains_and_unreadable_files_are_named_and_counted(script, plain, data_dir, caplog):
    (data_dir / "metadata.csv").unlink()
    (data_dir / "notes.txt").write_text("not an image")
    (data_dir / "00.png").write_bytes((data_dir / "00.png").read_bytes()[:80])
    (data_dir / "01.jpg").write_bytes(b"")
    script.main(replace(plain, steps=30, batch_size=4))
    unreadable = [record.getMessage() for record in caplog.records if "Unreadable image" in record.getMessage()]
    assert len(unreadable) == 2
    assert "Unreadable image no. 2" in unreadable[1]
    assert any("00.png" in message for message in unreadable) and any("01.jpg" in message for message in unreadable)
    assert "2 of 13 images could not be read." in caplog.text


def test_a_parquet_file_is_streamed_and_resumed_to_the_same_weights(script, plain, data_dir, killed_at, tmp_path):
    paths = sorted(data_dir.glob("*.png"))
    rows = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    rows[4]["bytes"] = rows[4]["bytes"][:80]
    pq.write_table(pa.table({"image": rows}), tmp_path / "images.parquet")
    args = replace(plain, data_dir=str(tmp_path / "images.parquet"), source_weights={}, save_every=2)
    script.main(args)
    resumed = replace(args, output_dir=str(tmp_path / "resumed"))
    killed_at(resumed, forwards=3)
    with pytest.raises(ValueError, match="other settings: seed was 0 and is 7"):
        script.main(replace(resumed, seed=7))
    script.main(resumed)
    assert_same_weights(args.output_dir, resumed.output_dir)
    with pytest.raises(ValueError, match="`source_weights` needs a folder of images"):
        script.main(replace(args, source_weights={"a": 2.0}, output_dir=str(tmp_path / "weighted")))


def test_an_empty_folder_is_an_error(script, plain, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"No image in '.*empty'"):
        script.main(replace(plain, data_dir=str(tmp_path / "empty")))


def test_losses_and_pictures_reach_tensorboard(script, everything):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    script.main(replace(everything, report_to="tensorboard"))
    events = EventAccumulator(str(Path(everything.output_dir) / "vq_gan"))
    events.Reload()
    assert {"loss", "psnr", "clinical", "perceptual", "discriminator", "adaptive_weight"} <= set(
        events.Tags()["scalars"]
    )
    assert {"live_codes", "codebook_perplexity", "unreadable_images"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == list(range(6))
    assert [event.step for event in events.Scalars("discriminator")] == [2, 3, 4, 5]
    assert [event.step for event in events.Images("reconstructions")] == [3, 6]


def test_a_tracker_that_is_not_installed_is_an_error(script, plain):
    with pytest.raises(ImportError, match="tracker 'comet_ml' is not installed: `pip install comet_ml`"):
        script.main(replace(plain, report_to="comet_ml"))


def test_a_collapse_of_the_codebook_is_told_once(script, plain, monkeypatch, caplog):
    monkeypatch.setattr(script.CodebookManager, "has_collapsed", True)
    script.main(plain)
    assert caplog.text.count("The codebook has collapsed by step 0: the perplexity of 32 codes is") == 1


@pytest.mark.parametrize("name", ["vq_gan_paper", "vq_gan_tiny", "vq_gan_tiny_decoder", "vq_gan_tiny_sharp"])
def test_recipes_set_what_they_name(script, monkeypatch, name):
    path = EXAMPLES / f"{name}.yaml"
    monkeypatch.setattr(sys, "argv", ["train", "--config", str(path), "--data_dir", "d", "--output_dir", "o"])
    (args,) = parse_arguments(script.Arguments)
    settings = yaml.safe_load(path.read_text())
    assert {key: getattr(args, key) for key in settings} == settings


def test_the_paper_recipe_trains_on_a_smaller_model(script, data_dir, tmp_path, monkeypatch):
    path = EXAMPLES / "vq_gan_paper.yaml"
    monkeypatch.setattr(
        sys, "argv", ["train", "--config", str(path), "--data_dir", str(data_dir), "--output_dir", str(tmp_path / "o")]
    )
    (args,) = parse_arguments(script.Arguments)
    script.main(replace(args, model=MODEL | {"in_channels": 3}, steps=3, disc_start=1, dataloader_num_workers=0))
    assert CXRVQTokenizer.from_pretrained(tmp_path / "o").config.in_channels == 3


def test_a_missing_folder_is_a_message(monkeypatch, tmp_path):
    monkeypatch.setattr(
        sys, "argv", ["train", "--data_dir", str(tmp_path / "no"), "--output_dir", str(tmp_path / "o")]
    )
    with pytest.raises(SystemExit, match="^Error: There is no folder"):
        runpy.run_path(str(EXAMPLES / "train_vq_gan.py"), run_name="__main__")
