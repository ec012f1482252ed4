"""vLLM serves the embedded checkpoint. `make test-serving` names the program in the environment variable VLLM."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from transformers import pipeline
from typer.testing import CliRunner

from transformers_cxr import generate_image
from transformers_cxr.checkpoints import checkpoint, load_checkpoint
from transformers_cxr.cli.main import app
from transformers_cxr.evaluation.predictions import read_predictions
from transformers_cxr.serving.client import load_server_model

pytestmark = pytest.mark.skipif("VLLM" not in os.environ, reason="`make test-serving` runs these tests")

ROOT = Path(__file__).parents[2]
IMAGES = sorted((ROOT / "examples/images").glob("*.jpeg"))
OPTIONS = "--dtype float32 --enforce-eager --max-model-len 1024 --host 127.0.0.1".split()
START_SECONDS = 600


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """The URL of `vllm serve llm-cxr`."""
    folder = tmp_path_factory.mktemp("vllm")
    (folder / "llm-cxr").symlink_to(checkpoint("llm-cxr"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [os.environ["VLLM"], "serve", "llm-cxr", *OPTIONS, "--port", str(port)]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env=os.environ | environment, start_new_session=True
        )
    try:
        end = time.monotonic() + START_SECONDS
        while not is_ready(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()
            time.sleep(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def is_ready(url):
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def page(url, tmp_path_factory):
    """The names that the Python code of the page on servers defines."""
    code = (ROOT / "docs/serving.md").read_text(encoding="utf-8").replace("http://localhost:8000", url)
    namespace = {}
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("page")
        patch.chdir(folder)
        (folder / "llm-cxr").symlink_to(checkpoint("llm-cxr"))
        (folder / "examples").symlink_to(ROOT / "examples")
        for block in re.findall(r"^```python\n(.*?)^```", code, re.DOTALL | re.MULTILINE):
            exec(block, namespace)
    return namespace


@pytest.fixture(scope="module")
def loaded():
    return load_checkpoint(None, "cpu")


@pytest.fixture(scope="module")
def expected_reports():
    reports = pipeline("cxr-report")([str(path) for path in IMAGES], do_sample=False)
    return [report["generated_text"] for (report,) in reports]


def test_reports_and_images_of_mixed_requests(page, expected_reports):
    assert page["report"] == expected_reports[1] and page["answer"]
    with ThreadPoolExecutor() as pool:
        reports = [pool.submit(page["ask"], path) for path in IMAGES * 2]
        images = [pool.submit(page["generate"], "Normal chest X-ray.", seed) for seed in range(3)]
    assert [report.result() for report in reports] == expected_reports * 2
    images = [image.result() for image in images]
    assert all(image.size == (256, 256) and "Synthetic image" in image.info["comment"] for image in images)
    assert len({image.tobytes() for image in images}) == 3


def test_greedy_images_are_those_of_the_model(url, loaded):
    settings = {"guidance_scale": 1, "do_sample": False, "output_type": "codes"}
    codes = generate_image(*load_server_model(url), "Normal chest X-ray.", **settings)
    # Rounding can change a code, and then the codes after it.
    assert (codes == generate_image(*loaded, "Normal chest X-ray.", **settings))[0, :32].all()


def test_an_evaluation_and_reports_of_the_command_line(url, expected_reports, tmp_path):
    def run(*arguments):
        result = CliRunner().invoke(app, [*map(str, arguments), "--server", url])
        assert result.exit_code == 0, result.output
        return result

    run("report", *IMAGES, "--output", tmp_path / "reports.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "reports.jsonl").read_text().splitlines()]
    assert [line["report"] for line in lines] == expected_reports
    rows = ["file_name,split,source,patient_id,view,sex,age_group,finding_labels,etiology"]
    for number, path in enumerate(IMAGES):
        (tmp_path / path.name).write_bytes(path.read_bytes())
        rows.append(f"{path.name},validation,kermany,p{number},AP,,child,No Finding,")
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    run("evaluate", tmp_path / "out", "--records", tmp_path, "--tasks", "report", "--num-resamples", 0)
    predictions = read_predictions(tmp_path / "out/predictions/report").values()
    assert sorted(prediction.output for prediction in predictions) == sorted(expected_reports)
