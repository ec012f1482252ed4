"""The language of radiology reports: sections, CheXpert labels, statements of pneumonia and grounding of answers."""

from .._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        ".sections": ("ReportSections", "compose_report", "parse_report"),
        ".labeler": ("CHEXPERT_LABELS", "CheXbertLabeler", "RuleLabeler"),
        ".statements": ("affirms", "etiology_of_report", "finding_of_report"),
        ".grounding": ("grounding_error",),
    },
)
