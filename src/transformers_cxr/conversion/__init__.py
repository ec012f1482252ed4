"""The released LLM-CXR, VQ-GANs of taming-transformers and language models: to this package, and from it."""

from .._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        ".export": ("export_language_model",),
        ".language_models": ("extend_language_model", "load_instruct_model", "load_language_model"),
        ".official": ("convert_official_checkpoint",),
        ".official_data": ("convert_code_pickle",),
        ".taming": ("convert_vq_gan", "export_vq_gan", "vq_tokenizer_from_taming"),
    },
)
