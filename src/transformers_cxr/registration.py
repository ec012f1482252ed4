"""
Registration of the classes and pipelines with Transformers' Auto classes, put off until these are used.

Importing Transformers' Auto classes imports torch and takes seconds. So `import transformers_cxr` registers at once only
with what is imported already, and with every other module right after its own import.
"""

from __future__ import annotations

import importlib.abc
import sys
import threading
from collections.abc import Callable
from importlib.machinery import ModuleSpec


def _register_configs():
    from transformers import AutoConfig

    from .llm_cxr.configuration_llm_cxr import CXRVQTokenizerConfig, LlmCxrConfig

    AutoConfig.register(CXRVQTokenizerConfig.model_type, CXRVQTokenizerConfig, exist_ok=True)
    AutoConfig.register(LlmCxrConfig.model_type, LlmCxrConfig, exist_ok=True)


def _register_models():
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

    from .llm_cxr.configuration_llm_cxr import CXRVQTokenizerConfig, LlmCxrConfig
    from .llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer
    from .llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM

    AutoModel.register(CXRVQTokenizerConfig, CXRVQTokenizer, exist_ok=True)
    for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText):
        auto_class.register(LlmCxrConfig, LlmCxrForCausalLM, exist_ok=True)


def _register_image_processor():
    from transformers import AutoImageProcessor

    from .llm_cxr.configuration_llm_cxr import CXRVQTokenizerConfig, LlmCxrConfig
    from .llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor

    # There is one for both backends: without the second, loading it warns that torchvision is not available.
    classes = {"pil": LlmCxrImageProcessor, "torchvision": LlmCxrImageProcessor}
    for config in (CXRVQTokenizerConfig, LlmCxrConfig):
        AutoImageProcessor.register(config, image_processor_classes=classes, exist_ok=True)


def _register_processor():
    from transformers import AutoProcessor

    from .llm_cxr.configuration_llm_cxr import LlmCxrConfig
    from .llm_cxr.processing_llm_cxr import LlmCxrProcessor

    AutoProcessor.register(LlmCxrConfig, LlmCxrProcessor, exist_ok=True)


def _register_pipelines():
    from transformers.pipelines import PIPELINE_REGISTRY

    from .checkpoints import FOLDER
    from .llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
    from .pipelines.cxr_generation import CxrGenerationPipeline
    from .pipelines.cxr_text import CxrReportPipeline, CxrVqaPipeline

    pipelines = {
        "cxr-report": CxrReportPipeline,
        "cxr-vqa": CxrVqaPipeline,
        "cxr-generation": CxrGenerationPipeline,
    }
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


# Registering imports these packages. None of their modules may be half imported then: Transformers' Auto classes import each
# other, and diffusers and PEFT import them.
_WHOLE_BEFORE_REGISTERING = {__package__, "transformers", "diffusers", "peft"}


class _OfThisThread(threading.local):
    imports_under_way = 0


class _RegisterAfterImport(importlib.abc.MetaPathFinder):
    """Lets Python find and run a module as always, and registers afterwards."""

    def __init__(self):
        self.waiting = dict(_REGISTER_AFTER_IMPORT)
        self.ready: list[Callable[[], None]] = []
        # For a module that another thread imports, Python itself waits.
        self.of_this_thread = _OfThisThread()

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in _WHOLE_BEFORE_REGISTERING:
            return None
        others = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module):
            self.of_this_thread.imports_under_way += 1
            try:
                execute(module)
            finally:
                self.of_this_thread.imports_under_way -= 1
            if fullname in self.waiting:
                self.ready.append(self.waiting.pop(fullname))
            self.register_ready()

        spec.loader.exec_module = execute_and_register
        return spec

    def register_ready(self):
        if not self.of_this_thread.imports_under_way:
            ready, self.ready = self.ready, []
            for register_one in ready:
                register_one()


def register() -> None:
    """Registers everything with Transformers, now where its Auto classes are imported and later where not."""
    finder = _RegisterAfterImport()
    sys.meta_path.insert(0, finder)
    finder.ready = [finder.waiting.pop(name) for name in list(finder.waiting) if name in sys.modules]
    finder.register_ready()
