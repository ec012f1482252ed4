"""Pages whose Python needs nothing but the package, run as it stands."""

import pytest


@pytest.mark.parametrize("path", ["docs/contributing.md", "docs/evaluate.md"])
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
