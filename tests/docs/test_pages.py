"""Pages of the documentation, each as it is printed."""

import importlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import pytest

from transformers_cxr import checkpoints
from transformers_cxr.evaluation import EvaluationArguments

ROOT = Path(__file__).parents[2]
PYTHON_ONLY = {"transformers-cxr": None, "python": None}
CARDS = ("model_cards/*.md", "src/transformers_cxr/checkpoints/*/*.md")
PAGES = [
    str(path.relative_to(ROOT))
    for pattern in ("README.md", "docs/*.md", "docs/experiments/*.md", *CARDS)
    for path in sorted(ROOT.glob(pattern))
]


@pytest.mark.parametrize("path", PAGES)
def test_commands_exist_with_their_options_and_lines_are_short(page, path):
    page(path).parse_commands()
    text = (ROOT / path).read_text(encoding="utf-8")
    text = re.sub(r"^<!-- metrics.*?<!-- end of metrics -->$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert [line for line in text.splitlines() if len(line) > 120] == []


@pytest.mark.parametrize("path", PAGES)
def test_package_is_imported_before_checkpoints_are_loaded(page, path):
    code = "".join(page(path).python)
    first = re.search(r"AutoModel\.from_pretrained|pipeline\(", code)
    assert first is None or "transformers_cxr" in code[: first.start()]


@pytest.mark.parametrize("path", ["docs/dicom.md", "docs/evaluate.md", "docs/metrics.md"])
def test_python_runs_in_order(page, path):
    page(path).run(PYTHON_ONLY)


def test_the_first_example_prints_what_the_page_says_and_no_warnings(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code, expected = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL).groups()
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    messages = [line for line in re.split(r"[\r\n]+", result.stderr) if not line.startswith("Loading weights: ")]
    assert (result.stdout, "".join(messages)) == (expected, "")
    assert (tmp_path / "generated.png").is_file()


def test_tour_runs_on_the_embedded_checkpoint_and_is_the_notebook(page, monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoints, "FOLDER", ROOT / "src/transformers_cxr/checkpoints")
    page = page("docs/tour.md")
    (tmp_path / "few.yaml").write_text("{max_steps: 1, use_cpu: true, disable_tqdm: true}")
    few = ["--config", tmp_path / "few.yaml", "--num-resamples", 2]
    outputs = page.run({"transformers-cxr generate": ["-n", 2], "transformers-cxr train": few})
    assert "FINDINGS:" in page.namespace["report"] and page.namespace["generated"].size == (256, 256)
    assert "| eval_loss |" in outputs["train"] and isinstance(page.namespace["tuned_report"], str)
    cells = json.loads((ROOT / "examples/tour.ipynb").read_text(encoding="utf-8"))["cells"]
    cells = [cell for cell in cells if cell["cell_type"] == "code"]
    blocks = [
        ("!" if language == "bash" else "") + block.strip() for language, block in page.blocks if language != "text"
    ]
    assert ["".join(cell["source"]) for cell in cells] == blocks
    assert not any(cell["outputs"] for cell in cells)


def test_walks_of_the_contributing_page_exist(page):
    text = (ROOT / "docs/contributing.md").read_text(encoding="utf-8")
    steps = re.findall(r"`([\w/]+\.py):([\w.]+)`", text)
    for path, name in steps:
        module = importlib.import_module("transformers_cxr." + path.removesuffix(".py").replace("/", "."))
        assert attrgetter(name)(module)
    assert len(steps) > 30


def test_reader_and_task_of_the_contributing_page_work(page, tmp_path):
    page = page("docs/contributing.md")
    page.run(PYTHON_ONLY)
    namespace = page.namespace
    (tmp_path / "studies.csv").write_text(
        "id,patient,file,view,report\n1,a,1.png,PA,IMPRESSION: Normal.\n2,b,2.png,AP,"
    )
    skipped = namespace["SkipReport"]()
    (record,) = namespace["read_my_dataset"](tmp_path, skipped)
    assert (record.id, record.impression, record.image) == ("1", "Normal.", str(tmp_path / "1.png"))
    assert skipped.counts == {"no findings and no impression": 1}

    task = namespace["ViewTask"](EvaluationArguments(output_dir="runs"))
    examples = task.examples([replace(record, image=str(next(ROOT.glob("examples/images/*.jpeg"))))])
    assert len(task.generate(*checkpoints.load_checkpoint(), examples)) == 1
    (measurement,) = task.metrics(examples, ["PA."])
    assert measurement.aggregate(measurement.units)["exact_match"] == 1
