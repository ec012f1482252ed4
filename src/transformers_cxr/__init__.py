"""
LLM-CXR for Transformers: one causal language model that reads and writes chest X-rays.

Importing this package registers its classes with Transformers' Auto classes and pipelines. Nothing heavy is imported before
it is used.
"""

from importlib import import_module

from .registration import register

__version__ = "0.1.0"

_MODULE_OF_NAME = {
    "CXRVQTokenizer": ".llm_cxr.modeling_cxr_vq_tokenizer",
    "CXRVQTokenizerConfig": ".llm_cxr.configuration_llm_cxr",
    "ImageGrammarLogitsProcessor": ".llm_cxr.generation_llm_cxr",
    "LlmCxrConfig": ".llm_cxr.configuration_llm_cxr",
    "LlmCxrForCausalLM": ".llm_cxr.modeling_llm_cxr",
    "LlmCxrImageProcessor": ".llm_cxr.image_processing_llm_cxr",
    "LlmCxrProcessor": ".llm_cxr.processing_llm_cxr",
    "checkpoint": ".checkpoints",
    "convert_official_checkpoint": ".conversion.official",
    "export_language_model": ".conversion.plain",
    "generate_image": ".llm_cxr.generation_llm_cxr",
    "image_to_dicom": ".data.dicom_output",
    "read_dicom": ".llm_cxr.dicom_llm_cxr",
    "report_to_dicom": ".data.dicom_output",
    "save_image": ".llm_cxr.image_processing_llm_cxr",
    "save_with_remote_code": ".conversion.remote_code",
}

__all__ = sorted(_MODULE_OF_NAME)


def __getattr__(name: str):
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(_MODULE_OF_NAME[name], __name__), name)


def __dir__():
    return [*globals(), *__all__]


register()
