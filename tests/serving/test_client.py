"""A model on a server in place of a local one, and the commands that take `--server`."""

import json
import socket

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import CompileConfig
from typer.testing import CliRunner

from transformers_cxr import generate_image, generate_text
from transformers_cxr.checkpoints import load_checkpoint
from transformers_cxr.cli.main import app
from transformers_cxr.evaluation.predictions import read_predictions
from transformers_cxr.serving.client import load_server_model


@pytest.fixture
def loaded(checkpoint_dir):
    return load_checkpoint(str(checkpoint_dir), "cpu")


@pytest.fixture
def served(server, checkpoint_dir):
    return load_server_model(server.url, str(checkpoint_dir), "cpu")


@pytest.fixture
def images(tmp_path):
    """A folder with 6 images, as records of a validation split."""
    folder = tmp_path / "images"
    folder.mkdir()
    rows = ["file_name,split,source,patient_id,view,sex,age_group,finding_labels,etiology"]
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(f"{number}.png,validation,kermany,p{number},AP,,child,No Finding,")
    (folder / "metadata.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture
def run(checkpoint_dir, no_progress_bars):
    def invoke(*arguments):
        arguments = [*arguments, "--model", checkpoint_dir]
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


def error_of(result):
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), repr(result.exception)
    return result.stderr


def test_greedy_texts_are_those_of_the_model(loaded, served, images, server):
    paths = [str(images / f"{number}.png") for number in range(3)]
    questions = ["Is there pneumonia?", "Yes?", "Is <|cxr_start|> there in <image>?"]
    expected = generate_text(*loaded, paths, questions, max_new_tokens=8, do_sample=False)
    assert generate_text(*served, paths, questions, max_new_tokens=8, do_sample=False) == expected
    assert len(set(expected)) == 3


def test_greedy_images_are_those_of_the_model_and_samples_have_seeds(loaded, served):
    texts, settings = ["Normal.", "Pleural effusion."], {"guidance_scale": 1, "output_type": "codes"}
    expected = generate_image(*loaded, texts, do_sample=False, **settings)
    assert torch.equal(generate_image(*served, texts, do_sample=False, **settings), expected)
    codes = generate_image(*served, texts, num_images=2, seed=5, **settings)
    assert codes.shape == (4, 16) and codes.min() >= 0 and codes.max() < 32
    assert torch.equal(generate_image(*served, texts[1], seed=7, **settings), codes[2:3])
    assert not torch.equal(codes[0], codes[1])
    with pytest.raises(ValueError, match="one seed for each of the 2 images, got 1"):
        generate_image(*served, texts, seed=[5], **settings)


def test_answers_are_decoded_to_marked_images(loaded):
    _, processor = loaded
    codes = list(range(16))
    (expected,) = processor.decode_codes([codes])
    (text,) = processor.codes_to_text([codes])
    for answer in (text, [code + processor.image_token_offset for code in codes]):
        image = processor.decode_image_tokens(answer)
        assert image.tobytes() == expected.tobytes() and "Synthetic image" in image.info["comment"]
    with pytest.raises(ValueError, match="Expected 16 codes for an image, got 15"):
        processor.decode_image_tokens(text.replace("<|cxr_0003|>", ""))


def test_guidance_compilation_and_beams_are_refused(served, images):
    with pytest.raises(ValueError, match="A server has no guidance, but `guidance_scale` is 2"):
        generate_image(*served, "Normal.", guidance_scale=2)
    with pytest.raises(ValueError, match="leave out `compile_config`"):
        generate_image(*served, "Normal.", guidance_scale=1, compile_config=CompileConfig())
    with pytest.raises(ValueError, match="without beams.*num_beams"):
        generate_text(*served, str(images / "0.png"), num_beams=2)


def test_no_server_is_named(checkpoint_dir, run, images):
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert f"No answer from the server at '{url}'" in error_of(run("report", images, "--server", url))


def test_another_model_or_a_server_without_allowed_ids_is_named(server, run, images):
    arguments = ["report", images, "--server", server.url]
    server.keeps_to_allowed_ids = False
    assert "does not keep to `allowed_token_ids`" in error_of(run(*arguments))
    server.keeps_to_allowed_ids = True
    tokenizer = server.processor.tokenizer
    server.processor.tokenizer = type("Shifted", (), {"decode": lambda self, ids, **_: tokenizer.decode(ids[0] + 1)})()
    assert "runs another model, 'tiny': its token" in error_of(run(*arguments))
    server.language_model.resize_token_embeddings(100)
    assert "refused a request: " in error_of(run(*arguments))


def test_dtype_is_that_of_the_server(run, images):
    result = run("report", images, "--server", "http://localhost:1", "--dtype", "bfloat16")
    assert result.exit_code == 2 and "a server has its own" in result.stderr


def test_a_cut_connection_keeps_finished_reports_and_the_run_resumes(server, run, images, tmp_path):
    options = ["--batch-size", 2, "--max-new-tokens", 6]
    assert run("report", images, "--output", tmp_path / "local.jsonl", *options).exit_code == 0
    arguments = ["report", images, "--output", tmp_path / "served.jsonl", "--server", server.url, *options]
    server.cut_after = 5  # one of them finds out what the server runs
    assert f"No answer from the server at '{server.url}'" in error_of(run(*arguments))
    assert len((tmp_path / "served.jsonl").read_text().splitlines()) == 4
    server.cut_after, server.requests = None, []
    assert run(*arguments).exit_code == 0 and len(server.requests) == 3
    local, served = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("local", "served")
    )
    assert [line["report"] for line in served] == [line["report"] for line in local]
    # Those of a server are not known.
    own = {name: local[0]["settings"].pop(name) for name in ("fingerprint", "dtype")}
    assert served[0]["settings"] == local[0]["settings"] | {"server": True} and len(own["fingerprint"]) == 16
    assert "server was True and is None" in error_of(run(*arguments[:4], *options))


def test_images_of_a_server_are_marked_and_have_their_seeds(server, run, tmp_path):
    arguments = ["generate", "Normal.", "--output", tmp_path, "--server", server.url, "-n", 2, "--seed", 3]
    result = run(*arguments, "--guidance-scale", 1)
    assert result.exit_code == 0, result.stderr
    assert sorted(request["seed"] for request in server.requests[1:]) == [3, 4]
    with PIL.Image.open(tmp_path / "000-seed-3.png") as image:
        assert image.size == (32, 32) and "Synthetic image" in image.text["Comment"]


def test_an_evaluation_asks_the_server_and_finds_another_model(server, run, images, tmp_path):
    options = ["--records", images, "--tasks", "report,image,well-formed", "--num-resamples", 0]
    options += ["--max-new-tokens", 6, "--guidance-scale", 1, "--batch-size", 3]
    assert run("evaluate", tmp_path / "local", *options).exit_code == 0
    result = run("evaluate", tmp_path / "served", *options, "--server", server.url)
    assert result.exit_code == 0, result.stderr
    # Text is greedy. The grammar of `well-formed` is not the server's.
    reports = [read_predictions(tmp_path / name / "predictions/report") for name in ("local", "served")]
    assert [p.output for p in reports[0].values()] == [p.output for p in reports[1].values()]
    assert sum(request.get("min_tokens") == 16 for request in server.requests) == 6
    assert json.loads((tmp_path / "served/predictions/image/_settings.json").read_text())["server"] is True
    server.language_model.get_input_embeddings().weight.data *= 2
    error = error_of(run("evaluate", tmp_path / "other", *options, "--server", server.url))
    assert "has other weights than the checkpoint" in error
