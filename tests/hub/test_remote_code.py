import os
import subprocess
import sys

import PIL.Image
import torch
from transformers import pipeline

from transformers_cxr import LlmCxrForCausalLM, save_with_remote_code
from transformers_cxr.data.dicom_output import image_to_dicom
from transformers_cxr.hub import add_remote_code

SCRIPT = """
import importlib.util, sys
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers import AutoModelForMultimodalLM, AutoProcessor, AutoTokenizer, pipeline
assert importlib.util.find_spec("transformers_cxr") is None, "the package must not be importable here"
folder, out = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
for auto_class in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    assert type(auto_class.from_pretrained(folder, trust_remote_code=True)).__name__ == "LlmCxrForCausalLM"
assert AutoConfig.from_pretrained(folder, trust_remote_code=True).vq_config.num_image_tokens == 16
image_processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(image_processor).__name__ == "LlmCxrImageProcessor" and image_processor.size.shortest_edge == 32
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
image = torch.full((32, 32), 99, dtype=torch.uint8)
inputs = processor(text=["X-ray <image> end"], images=[image], return_tensors="pt")
dicom = processor(text=["<image>"], images=["xray.dcm"], return_tensors="pt")
assert torch.equal(dicom.pixel_values, inputs.pixel_values)
assert len(AutoTokenizer.from_pretrained(folder)) == len(processor.tokenizer)
model.check_processor(processor)
processor.vq_tokenizer = model.vq_tokenizer
assert model.generate(**inputs, max_new_tokens=2, do_sample=False).shape[0] == 1
generated = model.generate_image(processor(text=["Generate: "], return_tensors="pt").input_ids, do_sample=False)
assert processor.decode_codes(generated)[0].size == (32, 32)
vq_tokenizer = AutoModel.from_pretrained("vq", trust_remote_code=True)
image_processor = AutoImageProcessor.from_pretrained("vq", trust_remote_code=True)
pixel_values = image_processor(image, return_tensors="pt").pixel_values
assert torch.equal(vq_tokenizer.encode(pixel_values), model.vq_tokenizer.encode(pixel_values))
load = lambda task: pipeline(task, model=folder, trust_remote_code=True)
PIPELINES
with torch.no_grad():
    torch.save((model(**inputs).logits, generated, results), out)
"""
# The same code where the package is installed and where it is not.
RUN_PIPELINES = """
report, vqa, generation = map(load, ("cxr-report", "cxr-vqa", "cxr-generation"))
results = [report("xray.dcm", max_new_tokens=4, do_sample=False)]
results += [vqa(image="xray.dcm", question="Is there pneumonia?", max_new_tokens=4, do_sample=False)]
results += [list(generation("Normal.", seed=1)[0]["image"].tobytes()), "llm_cxr" in str(report.model.config)]
"""


def test_checkpoint_with_remote_code_loads_where_the_package_is_not_installed(tiny_model, tmp_path, monkeypatch):
    model, processor = tiny_model
    save_with_remote_code(model, processor, tmp_path / "checkpoint")
    for part in (model.vq_tokenizer, processor.image_processor):
        part.save_pretrained(tmp_path / "vq")
    add_remote_code(tmp_path / "vq")
    inputs = processor(
        text=["X-ray <image> end"], images=[torch.full((32, 32), 99, dtype=torch.uint8)], return_tensors="pt"
    )
    with torch.no_grad():
        expected = model(**inputs).logits
    prompt = processor(text=["Generate: "], return_tensors="pt").input_ids
    expected_codes = model.generate_image(prompt, do_sample=False)
    # An editable install puts the package on the path: without it, the process is one that does not have the package.
    hidden = (
        "import sys\n"
        "sys.path[:] = [p for p in sys.path if not p.endswith('src')]\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
    )
    dataset = image_to_dicom(PIL.Image.new("L", (32, 32), 99))
    dataset.save_as(tmp_path / "xray.dcm")
    script = tmp_path / "load.py"
    script.write_text(hidden + SCRIPT.replace("PIPELINES", RUN_PIPELINES))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, str(script), str(tmp_path / "checkpoint"), str(tmp_path / "logits.pt")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    logits, generated, results = torch.load(tmp_path / "logits.pt")
    assert torch.equal(logits, expected) and torch.equal(generated, expected_codes)

    # With the package, its own classes run, without `trust_remote_code`.
    monkeypatch.chdir(tmp_path)
    here = {"load": lambda task: pipeline(task, model="checkpoint")}
    exec(RUN_PIPELINES, here)
    assert here["results"] == results and type(here["report"].model) is LlmCxrForCausalLM
    here["report"].save_pretrained("again")
    saved = [(tmp_path / "again" / name).read_text() for name in ("config.json", "processor_config.json")]
    assert "llm_cxr." not in "".join(saved)
