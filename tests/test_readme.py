"""The README's code, run as it stands, on the embedded checkpoint."""

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_code_blocks_of_the_readme_run_in_order(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "examples/images", tmp_path / "examples/images")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 3
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert "FINDINGS:" in namespace["report"]("examples/images/NORMAL2-IM-0832-0001.jpeg")[0]["generated_text"]
    assert len(namespace["images"]) == 2 and namespace["codes"].shape == (1, 256)
    assert (tmp_path / "generated.png").is_file()
