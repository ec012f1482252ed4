"""
Lazy registration with Transformers' Auto classes and pipelines.

The Auto classes import torch, which takes seconds. `import transformers_cxr` therefore registers at once only with
those of their modules that are imported already, and with each of the others when it is imported.
"""

from __future__ import annotations

import importlib.abc
import sys
import threading
from collections.abc import Callable
from importlib.machinery import ModuleSpec


def _register_configs() -> None:
    from transformers import AutoConfig

    from .llm_cxr.configuration_llm_cxr import CXRVQTokenizerConfig, LlmCxrConfig

    for config in (CXRVQTokenizerConfig, LlmCxrConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)


def _register_models() -> None:
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM
    from transformers.models.auto import modeling_auto

    from .llm_cxr.configuration_llm_cxr import CXRVQTokenizerConfig, LlmCxrConfig
    from .llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer
    from .llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM

    AutoModel.register(CXRVQTokenizerConfig, CXRVQTokenizer, exist_ok=True)
    for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        auto_class.register(LlmCxrConfig, LlmCxrForCausalLM, exist_ok=True)
    # By these names the Trainer decides whether label smoothing shifts the labels, and pipelines which models they
    # accept.
    for task in ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM"):
        names = getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES")
        names[LlmCxrConfig.model_type] = LlmCxrForCausalLM.__name__


def _register_image_processor() -> None:
    from transformers import AutoImageProcessor

    from .llm_cxr.configuration_llm_cxr import CXRVQTokenizerConfig, LlmCxrConfig
    from .llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor

    # The same for both backends: without the second, loading it warns that torchvision is not available.
    classes = {"pil": LlmCxrImageProcessor, "torchvision": LlmCxrImageProcessor}
    for config in (CXRVQTokenizerConfig, LlmCxrConfig):
        AutoImageProcessor.register(config, image_processor_classes=classes, exist_ok=True)


def _register_processor() -> None:
    from transformers import AutoProcessor

    from .llm_cxr.configuration_llm_cxr import LlmCxrConfig
    from .llm_cxr.processing_llm_cxr import LlmCxrProcessor

    AutoProcessor.register(LlmCxrConfig, LlmCxrProcessor, exist_ok=True)


def _register_pipelines() -> None:
    from transformers.pipelines import PIPELINE_REGISTRY

    from .checkpoints import FOLDER
    from .llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
    from .pipelines.cxr_generation import CxrGenerationPipeline
    from .pipelines.cxr_text import CxrReportPipeline, CxrVqaPipeline

    pipelines = {"cxr-report": CxrReportPipeline, "cxr-vqa": CxrVqaPipeline, "cxr-generation": CxrGenerationPipeline}
    for task, pipeline_class in pipelines.items():
        PIPELINE_REGISTRY.register_pipeline(
            task,
            pipeline_class=pipeline_class,
            pt_model=LlmCxrForCausalLM,
            default={"model": (str(FOLDER / "llm-cxr"), "main")},
            type="multimodal",
        )


_REGISTER_AFTER_IMPORT: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": _register_configs,
    "transformers.models.auto.modeling_auto": _register_models,
    "transformers.models.auto.image_processing_auto": _register_image_processor,
    "transformers.models.auto.processing_auto": _register_processor,
    "transformers.pipelines": _register_pipelines,
}
# Registration imports these packages, so it waits until none of their modules is half imported.
_PACKAGES = {__package__, "transformers", "diffusers", "peft"}


class _Thread(threading.local):
    num_imports = 0


class _RegisterAfterImport(importlib.abc.MetaPathFinder):
    """Import hook that leaves imports to the other finders, and registers after them."""

    def __init__(self):
        self.waiting = dict(_REGISTER_AFTER_IMPORT)
        self.ready = [self.waiting.pop(name) for name in _REGISTER_AFTER_IMPORT if name in sys.modules]
        # Python itself waits for a module that another thread is importing.
        self.thread = _Thread()

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in _PACKAGES:
            return None
        others = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module):
            self.thread.num_imports += 1
            try:
                execute(module)
            finally:
                self.thread.num_imports -= 1
            if fullname in self.waiting:
                self.ready.append(self.waiting.pop(fullname))
            self.register_ready()

        spec.loader.exec_module = execute_and_register
        return spec

    def register_ready(self) -> None:
        while self.ready and not self.thread.num_imports:
            self.ready.pop(0)()


def register() -> None:
    """Register all classes and pipelines: now if Transformers' Auto classes are imported, else when they are."""
    finder = _RegisterAfterImport()
    sys.meta_path.insert(0, finder)
    finder.register_ready()
