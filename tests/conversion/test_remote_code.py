import os
import subprocess
import sys

import torch

from transformers_cxr import save_with_remote_code

SCRIPT = """
import importlib.util, sys
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor
assert importlib.util.find_spec("transformers_cxr") is None, "the package must not be importable here"
folder, out = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
assert type(AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)).__name__ == "LlmCxrForCausalLM"
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
inputs = processor(text=["X-ray <image> end"], images=[torch.full((32, 32), 99, dtype=torch.uint8)], return_tensors="pt")
with torch.no_grad():
    torch.save(model(**inputs).logits, out)
"""


def test_checkpoint_with_remote_code_loads_where_the_package_is_not_installed(tiny_model, tmp_path):
    model, processor = tiny_model
    save_with_remote_code(model, processor, tmp_path / "checkpoint")
    inputs = processor(
        text=["X-ray <image> end"], images=[torch.full((32, 32), 99, dtype=torch.uint8)], return_tensors="pt"
    )
    with torch.no_grad():
        expected = model(**inputs).logits
    # An editable install puts the package on the path: without it, the process is one that does not have the package.
    hidden = (
        "import sys\n"
        "sys.path[:] = [p for p in sys.path if not p.endswith('src')]\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
    )
    script = tmp_path / "load.py"
    script.write_text(hidden + SCRIPT)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, str(script), str(tmp_path / "checkpoint"), str(tmp_path / "logits.pt")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "logits.pt"), expected)
