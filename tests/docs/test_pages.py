"""Pages of the documentation, each as it is printed."""

import importlib
import re
from operator import attrgetter
from pathlib import Path

import pytest

from transformers_cxr.checkpoints import load_checkpoint
from transformers_cxr.data import StudyRecord
from transformers_cxr.evaluation import EvaluationArguments

ROOT = Path(__file__).parents[2]
PAGES = [
    str(path.relative_to(ROOT))
    for pattern in ("README.md", "docs/*.md", "docs/experiments/*.md", "model_cards/*.md")
    for path in sorted(ROOT.glob(pattern))
]


@pytest.mark.parametrize("path", PAGES)
def test_commands_exist_with_their_options(page, path):
    page(path).parse_commands()


@pytest.mark.parametrize("path", PAGES)
def test_package_is_imported_before_checkpoints_are_loaded(page, path):
    code = "".join(page(path).python)
    first = re.search(r"AutoModel\.from_pretrained|pipeline\(", code)
    assert first is None or "transformers_cxr" in code[: first.start()]


@pytest.mark.parametrize("path", PAGES)
def test_lines_have_at_most_120_characters(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    text = re.sub(r"^<!-- metrics.*?<!-- end of metrics -->$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert [line for line in text.splitlines() if len(line) > 120] == []


@pytest.mark.parametrize("path", ["docs/contributing.md", "docs/dicom.md", "docs/evaluate.md", "docs/metrics.md"])
def test_python_runs_in_order(page, path):
    page = page(path)
    for block in page.python:
        page.run_python(block)
    assert page.python


def test_readme_runs_on_the_embedded_checkpoint(page, tmp_path):
    page = page("README.md")
    for block in page.python:
        page.run_python(block)
    texts, images, codes = (page.namespace[name] for name in ("texts", "images", "codes"))
    assert "FINDINGS:" in texts[0] and len(images) == 2 and codes.shape == (1, 256)
    assert (tmp_path / "generated.png").is_file()


def test_walks_of_the_contributing_page_exist(page):
    text = (ROOT / "docs/contributing.md").read_text(encoding="utf-8")
    steps = re.findall(r"`([\w/]+\.py):([\w.]+)`", text)
    for path, name in steps:
        module = importlib.import_module("transformers_cxr." + path.removesuffix(".py").replace("/", "."))
        assert attrgetter(name)(module)
    assert len(steps) > 30


def test_reader_of_the_contributing_page_reads_and_counts(page, tmp_path):
    page = page("docs/contributing.md")
    page.run_python(page.python[0])
    (tmp_path / "studies.csv").write_text(
        "id,patient,file,view,report\n1,a,1.png,PA,IMPRESSION: Normal.\n2,b,2.png,AP,"
    )
    skipped = page.namespace["SkipReport"]()
    (record,) = page.namespace["read_my_dataset"](tmp_path, skipped)
    assert (record.id, record.impression, record.image) == ("1", "Normal.", str(tmp_path / "1.png"))
    assert skipped.counts == {"no findings and no impression": 1}


def test_task_of_the_contributing_page_is_evaluated(page, checkpoint_dir):
    page = page("docs/contributing.md")
    for block in page.python:
        page.run_python(block)
    task = page.namespace["ViewTask"](EvaluationArguments(output_dir="runs"))
    record = StudyRecord(
        id="1", patient="1", image=str(next(ROOT.glob("examples/images/*.jpeg"))), source="a", view="AP"
    )
    examples = task.examples([record])
    assert len(task.generate(*load_checkpoint(checkpoint_dir), examples)) == 1
    (measurement,) = task.metrics(examples, ["AP."])
    assert measurement.aggregate(measurement.units)["exact_match"] == 1
