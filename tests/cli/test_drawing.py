import json
import sys

import numpy as np
import PIL.Image
import pydicom
import pytest

from transformers_cxr import generate_image


@pytest.fixture
def generate(run, checkpoint):
    return lambda *arguments: run("generate", *arguments, "--model", checkpoint, "--device", "cpu")


def pixels(path):
    with PIL.Image.open(path) as image:
        return np.asarray(image)


def test_images_are_those_of_their_seeds_and_marked(generate, tiny_model, tmp_path):
    output = tmp_path / "drawn"
    result = generate("Normal.", "Effusion.", "-n", 3, "--seed", 5, "--batch-size", 2, "--output", output)
    assert result.exit_code == 0, result.stderr
    names = [f"{text:03d}-seed-{seed}.png" for text in range(2) for seed in (5, 6, 7)]
    assert result.stdout.splitlines() == [str(output / name) for name in names]
    expected = generate_image(*tiny_model, ["Normal.", "Effusion."], num_images=3, seed=[5, 6, 7] * 2)
    for name, image in zip(names, expected):
        assert np.abs(pixels(output / name).astype(int) - np.asarray(image).astype(int)).max() <= 1
    with PIL.Image.open(output / names[0]) as image:
        assert "Synthetic image, for research only" in image.text["Comment"]
    records = [json.loads(line) for line in (output / "images.jsonl").read_text().splitlines()]
    assert [record["file"] for record in records] == names and all(record["generated"] for record in records)


@pytest.mark.filterwarnings("error:Cannot enable progress bars")
def test_drawing_one_text_does_not_warn_of_progress_bars(generate, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        # As the command line sets it in the environment.
        patch.setattr(sys.modules["huggingface_hub.utils.tqdm"], "HF_HUB_DISABLE_PROGRESS_BARS", True)
        assert generate("Normal.", "--output", tmp_path / "drawn").exit_code == 0


def test_only_what_is_missing_is_drawn_again(generate, tmp_path):
    output = tmp_path / "drawn"
    arguments = ("Normal.", "-n", 2, "--seed", 5, "--output", output)
    assert generate(*arguments).exit_code == 0
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    kept = (output / "000-seed-5.png").stat().st_mtime_ns
    (output / "000-seed-6.png").unlink()
    assert generate(*arguments).exit_code == 0
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert (output / "000-seed-5.png").stat().st_mtime_ns == kept


def test_nothing_is_overwritten(generate, tmp_path):
    output = tmp_path / "drawn"
    assert generate("Normal.", "--seed", 5, "--output", output).exit_code == 0
    result = generate("Effusion.", "--seed", 5, "--output", output)
    assert result.exit_code == 1 and "made with text = 'Normal.'; now it is 'Effusion.'" in result.stderr
    (output / "000-seed-9.png").write_text("mine")
    result = generate("Effusion.", "--seed", 9, "--output", output)
    assert result.exit_code == 1 and "'000-seed-9.png' exists" in result.stderr.replace(f"{output}/", "")
    assert (output / "000-seed-9.png").read_text() == "mine"


def test_without_a_seed_one_is_drawn_and_told(generate, tmp_path):
    first, second = (generate("Normal.", "--output", tmp_path / "drawn") for _ in range(2))
    assert first.exit_code == second.exit_code == 0 and "Seed: " in first.stderr
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 2


def test_dicom_holds_the_same_pixels(generate, tmp_path):
    for image_format in ("png", "dicom"):
        result = generate("Normal.", "--seed", 5, "--output", tmp_path, "--format", image_format)
        assert result.exit_code == 0, result.stderr
    dataset = pydicom.dcmread(tmp_path / "000-seed-5.dcm")
    assert np.array_equal(dataset.pixel_array, pixels(tmp_path / "000-seed-5.png"))
    assert dataset.PatientName == "GENERATED^IMAGE"


def test_reconstructions_stand_beside_their_originals(run, checkpoint, images, tiny_model, tmp_path):
    (images / "b/1.png").write_bytes((images / "b/c/2.png").read_bytes())
    (images / "bad.png").write_text("text")
    output = tmp_path / "pairs"
    arguments = (
        "reconstruct",
        images,
        "--output",
        output,
        "--model",
        checkpoint,
        "--device",
        "cpu",
        "--batch-size",
        3,
    )
    result = run(*arguments)
    assert result.exit_code == 1 and "Not read: " in result.stderr
    names = {path.name for path in output.glob("*.png")}
    assert names == {*(f"{number}.png" for number in range(7)), "1-2.png"}
    records = {}
    for line in (output / "reconstructions.jsonl").read_text().splitlines():
        record = json.loads(line)
        records[record["image"]] = record
        pair = pixels(output / record["file"]).astype(float)
        original = tiny_model[1].image_processor(record["image"], return_tensors="pt").pixel_values
        assert pair.shape == (32, 64)
        assert np.array_equal(pair[:, :32], np.asarray(tiny_model[1].image_processor.postprocess(original)[0]))
        # Of the pixels before they were rounded.
        psnr = 10 * np.log10(255**2 / np.square(pair[:, :32] - pair[:, 32:]).mean())
        assert record["psnr"] == pytest.approx(psnr, abs=0.05)
        assert f"{record['psnr']:6.2f} dB  {record['image']}" in result.stdout
    assert "mean of 8 images" in result.stdout
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    assert run(*arguments).exit_code == 1
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before
