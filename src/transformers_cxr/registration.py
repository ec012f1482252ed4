"""
Registration with Transformers' Auto classes and pipelines.

Importing the Auto classes takes seconds, as they import torch. `import transformers_cxr` therefore registers at once
only if they are imported already, and otherwise right after their import.
"""

from __future__ import annotations

import importlib.abc
import sys
import threading
from importlib.machinery import ModuleSpec

AUTO_CLASSES = "transformers.models.auto.configuration_auto"
# Packages that may import the Auto classes while they are half imported, and that registration imports.
PACKAGES = {__package__, "transformers", "diffusers", "peft"}


def _register() -> None:
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoModelForMultimodalLM,
        AutoProcessor,
    )
    from transformers.models.auto import modeling_auto
    from transformers.pipelines import PIPELINE_REGISTRY

    from .checkpoints import checkpoint
    from .llm_cxr.configuration_llm_cxr import CXRVQTokenizerConfig, LlmCxrConfig
    from .llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor
    from .llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer
    from .llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
    from .llm_cxr.pipelines_llm_cxr import CxrGenerationPipeline, CxrReportPipeline, CxrVqaPipeline
    from .llm_cxr.processing_llm_cxr import LlmCxrProcessor

    # The same for both backends: without the second, loading it warns that torchvision is not available.
    image_processors = {"pil": LlmCxrImageProcessor, "torchvision": LlmCxrImageProcessor}
    for config in (CXRVQTokenizerConfig, LlmCxrConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoImageProcessor.register(config, image_processor_classes=image_processors, exist_ok=True)
    AutoProcessor.register(LlmCxrConfig, LlmCxrProcessor, exist_ok=True)
    AutoModel.register(CXRVQTokenizerConfig, CXRVQTokenizer, exist_ok=True)
    for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        auto_class.register(LlmCxrConfig, LlmCxrForCausalLM, exist_ok=True)
    # By these names the Trainer decides whether label smoothing shifts the labels, and pipelines which models they
    # accept.
    for task in ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM"):
        names = getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES")
        names[LlmCxrConfig.model_type] = LlmCxrForCausalLM.__name__
    pipelines = {"cxr-report": CxrReportPipeline, "cxr-vqa": CxrVqaPipeline, "cxr-generation": CxrGenerationPipeline}
    for task, pipeline_class in pipelines.items():
        PIPELINE_REGISTRY.register_pipeline(
            task,
            pipeline_class=pipeline_class,
            pt_model=LlmCxrForCausalLM,
            default={"model": (str(checkpoint("llm-cxr")), "main")},
            type="multimodal",
        )


class _RegisterAfterImport(importlib.abc.MetaPathFinder):
    """Import hook that registers once the Auto classes are imported and no module of `PACKAGES` is half imported."""

    def __init__(self):
        self.registered = False
        # Python itself waits for a module that another thread is importing.
        self.thread = threading.local()

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        if self.registered or fullname.partition(".")[0] not in PACKAGES:
            return None
        others = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module):
            depth = self.thread.depth = getattr(self.thread, "depth", 0) + 1
            try:
                execute(module)
            finally:
                self.thread.depth -= 1
            if depth == 1:
                self.register()

        spec.loader.exec_module = execute_and_register
        return spec

    def register(self) -> None:
        if not self.registered and AUTO_CLASSES in sys.modules:
            self.registered = True
            _register()


def register() -> None:
    """Register all classes and pipelines: now if Transformers' Auto classes are imported, else when they are."""
    finder = _RegisterAfterImport()
    sys.meta_path.insert(0, finder)
    finder.register()
