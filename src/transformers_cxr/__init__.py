"""
LLM-CXR for Transformers: one causal language model that reads and writes chest X-rays.

Importing this package registers its classes with Transformers' Auto classes and pipelines. Its modules are imported at
their first use.
"""

from ._lazy import lazy_exports
from .registration import register

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        ".checkpoints": ("checkpoint",),
        ".conversion.official": ("convert_official_checkpoint",),
        ".conversion.export": ("export_language_model",),
        ".hub.remote_code": ("save_with_remote_code",),
        ".data.dicom_output": ("image_to_dicom", "report_to_dicom"),
        ".llm_cxr.configuration_llm_cxr": ("CXRVQTokenizerConfig", "LlmCxrConfig"),
        ".llm_cxr.dicom_llm_cxr": ("read_dicom",),
        ".llm_cxr.generation_llm_cxr": ("generate_image", "generate_text"),
        ".llm_cxr.image_grammar_llm_cxr": ("ImageGrammarLogitsProcessor",),
        ".llm_cxr.image_processing_llm_cxr": ("LlmCxrImageProcessor", "save_image"),
        ".llm_cxr.likelihood_llm_cxr": (
            "answer_log_likelihoods",
            "chest_xray_scores",
            "not_chest_xrays",
            "occlusion_map",
        ),
        ".llm_cxr.modeling_cxr_vq_tokenizer": ("CXRVQTokenizer",),
        ".llm_cxr.modeling_llm_cxr": ("LlmCxrForCausalLM", "LlmCxrModel"),
        ".llm_cxr.processing_llm_cxr": ("LlmCxrProcessor",),
    },
)

register()
