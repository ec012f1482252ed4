"""Transformers pipelines: "cxr-report", "cxr-vqa" and "cxr-generation"."""

from .._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        ".cxr_text": ("CxrReportPipeline", "CxrVqaPipeline"),
        ".cxr_generation": ("CxrGenerationPipeline",),
    },
)
