import json

import numpy as np
import PIL.Image
import pydicom
import pytest

from transformers_cxr import generate_image


@pytest.fixture
def generate(run, checkpoint_dir):
    return lambda *arguments: run("generate", *arguments, "--model", checkpoint_dir, "--device", "cpu")


def pixels(path):
    with PIL.Image.open(path) as image:
        return np.asarray(image)


def test_images_have_their_seeds_and_are_marked(generate, loaded, tmp_path):
    output = tmp_path / "out"
    result = generate("Normal.", "Effusion.", "-n", 3, "--seed", 5, "--batch-size", 2, "--output", output)
    assert result.exit_code == 0, result.stderr
    names = [f"{text:03d}-seed-{seed}.png" for text in range(2) for seed in (5, 6, 7)]
    assert result.stdout.splitlines() == [str(output / name) for name in names]
    expected = generate_image(*loaded, ["Normal.", "Effusion."], num_images=3, seed=[5, 6, 7] * 2)
    for name, image in zip(names, expected):
        assert np.abs(pixels(output / name).astype(int) - np.asarray(image).astype(int)).max() <= 1
    with PIL.Image.open(output / names[0]) as image:
        assert "Synthetic image, for research only" in image.text["Comment"]
    records = [json.loads(line) for line in (output / "images.jsonl").read_text().splitlines()]
    assert [record["file"] for record in records] == names and all(record["generated"] for record in records)


def test_second_run_generates_only_missing_images_and_overwrites_nothing(generate, tmp_path):
    output = tmp_path / "out"
    arguments = ("Normal.", "-n", 2, "--seed", 5, "--output", output)
    assert generate(*arguments).exit_code == 0
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    kept = (output / "000-seed-5.png").stat().st_mtime_ns
    (output / "000-seed-6.png").unlink()
    assert generate(*arguments).exit_code == 0
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert (output / "000-seed-5.png").stat().st_mtime_ns == kept
    result = generate("Effusion.", "--seed", 5, "--output", output)
    assert result.exit_code == 1 and "text was 'Normal.' and is 'Effusion.'" in result.stderr
    (output / "000-seed-9.png").write_text("mine")
    result = generate("Normal.", "--output", output, "--seed", 9)
    assert result.exit_code == 1 and "000-seed-9.png' exists" in result.stderr
    assert (output / "000-seed-9.png").read_text() == "mine"


def test_dicom_has_the_same_pixels(generate, tmp_path):
    for image_format in ("png", "dicom"):
        result = generate("Normal.", "--seed", 5, "--output", tmp_path, "--format", image_format)
        assert result.exit_code == 0, result.stderr
    dataset = pydicom.dcmread(tmp_path / "000-seed-5.dcm")
    assert np.array_equal(dataset.pixel_array, pixels(tmp_path / "000-seed-5.png"))
    assert dataset.PatientName == "GENERATED^IMAGE"


def test_reconstruct_writes_pairs_and_their_psnr(run, checkpoint_dir, images, loaded, tmp_path):
    (images / "b/1.png").write_bytes((images / "b/c/2.png").read_bytes())
    (images / "bad.png").write_text("text")
    output = tmp_path / "pairs"
    options = ["--output", output, "--model", checkpoint_dir, "--device", "cpu", "--batch-size", 3]
    result = run("reconstruct", images, *options)
    assert result.exit_code == 1 and "Not read: " in result.stderr
    names = {path.name for path in output.glob("*.png")}
    assert names == {f"{n:03d}-{stem}.png" for n, stem in enumerate([1, 3, 5, 1, 0, 2, 4, 6])}
    image_processor = loaded[1].image_processor
    for line in (output / "reconstructions.jsonl").read_text().splitlines():
        record = json.loads(line)
        pair = pixels(output / record["file"]).astype(float)
        original = image_processor(record["image"], return_tensors="pt").pixel_values
        assert pair.shape == (32, 64)
        assert np.array_equal(pair[:, :32], np.asarray(image_processor.postprocess(original)[0]))
        # The recorded PSNR is of unrounded pixels.
        psnr = 10 * np.log10(255**2 / np.square(pair[:, :32] - pair[:, 32:]).mean())
        assert record["psnr"] == pytest.approx(psnr, abs=0.05)
        assert f"{record['psnr']:6.2f} dB  {record['image']}" in result.stdout
    assert "mean of 8 images" in result.stdout
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    assert run("reconstruct", images, *options).exit_code == 1
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before
