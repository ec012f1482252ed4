"""The tour, run as a notebook; its code is that of docs/tour.md."""

import re
import shutil
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parents[1]


def code_of(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_notebook_holds_the_code_of_the_tour_and_no_outputs():
    notebook = nbformat.read(ROOT / "examples/tour.ipynb", as_version=4)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/tour.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code_of(notebook) == [block.strip() for block in blocks]
    assert not any(cell.outputs for cell in notebook.cells if cell.cell_type == "code")


def test_tour_runs_on_the_embedded_checkpoint(tmp_path):
    shutil.copytree(ROOT / "examples/images", tmp_path / "examples/images")
    notebook = nbformat.read(ROOT / "examples/tour.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [
        "".join(output.get("text", "") for output in cell.outputs) for cell in notebook.cells if "outputs" in cell
    ]
    assert "FINDINGS:" in outputs[0] and outputs[1].strip() and "tensor(" in outputs[2]
    with Image.open(tmp_path / "generated.png") as image:
        assert image.size == (256, 256)
