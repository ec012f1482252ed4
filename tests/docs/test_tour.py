"""The tour, run as a notebook; its code is that of docs/tour.md."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image


@pytest.fixture
def notebook():
    return nbformat.read(Path(__file__).parents[2] / "examples/tour.ipynb", as_version=4)


def test_notebook_holds_the_code_of_the_tour_and_no_outputs(notebook, page):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.source for cell in cells] == [block.strip() for block in page("docs/tour.md").python]
    assert not any(cell.outputs for cell in cells)


def test_tour_runs_on_the_embedded_checkpoint(notebook, page, tmp_path):
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [
        "".join(output.get("text", "") for output in cell.outputs) for cell in notebook.cells if "outputs" in cell
    ]
    assert "FINDINGS:" in outputs[0] and outputs[1].strip() and "tensor(" in outputs[2]
    with Image.open(tmp_path / "generated.png") as image:
        assert image.size == (256, 256)
