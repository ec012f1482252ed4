"""The tour as a notebook; its code is that of docs/tour.md."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image


def test_notebook_is_the_tour_and_runs_on_the_embedded_checkpoint(page, tmp_path):
    notebook = nbformat.read(Path(__file__).parents[2] / "examples/tour.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.source for cell in cells] == [block.strip() for block in page("docs/tour.md").python]
    assert not any(cell.outputs for cell in cells)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    texts = ["".join(output.get("text", "") for output in cell.outputs) for cell in cells]
    assert "FINDINGS:" in texts[0] and texts[1].strip() and "tensor(" in texts[2] and "FINDINGS:" in texts[4]
    assert Image.open(tmp_path / "generated.png").size == (256, 256)
