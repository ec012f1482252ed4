"""Pages whose Python needs nothing but the package, run as it stands."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [str(path.relative_to(ROOT)) for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))]


@pytest.mark.parametrize("path", PAGES)
def test_checkpoints_are_loaded_after_the_package_is_imported(page, path):
    code = "".join(page(path).python)
    first = re.search(r"AutoModel\.from_pretrained|pipeline\(", code)
    assert first is None or "transformers_cxr" in code[: first.start()]


@pytest.mark.parametrize("path", ["docs/contributing.md", "docs/dicom.md", "docs/evaluate.md"])
def test_code_of_the_page_runs_in_order(page, path):
    page = page(path)
    for block in page.python:
        page.run_python(block)
    assert page.python


def test_reader_of_the_contributing_page_reads_and_counts(page, tmp_path):
    page = page("docs/contributing.md")
    page.run_python(page.python[0])
    rows = ["id,patient,file,view,report", '1,a,1.png,PA,"IMPRESSION: Normal."', "2,b,2.png,AP,"]
    (tmp_path / "studies.csv").write_text("\n".join(rows))
    skipped = page.namespace["SkipReport"]()
    (record,) = page.namespace["read_my_dataset"](tmp_path, skipped)
    assert (record.id, record.impression, record.image) == ("1", "Normal.", str(tmp_path / "1.png"))
    assert skipped.counts == {"no findings and no impression": 1}
