"""Metrics of generated reports, answers and images, each an `evaluate.Metric` in a file of its own."""

from ..._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        ".metric": ("CxrMetric", "Measurement", "Score"),
        ".chexpert_labels": ("CheXpertLabels",),
        ".text_overlap": ("TextOverlap",),
        ".meteor": ("Meteor",),
        ".radeval_score": ("RadEvalScore",),
        ".vqa_accuracy": ("VqaAccuracy",),
        ".calibration": ("Calibration",),
        ".image_labels": ("ImageLabels",),
        ".pneumonia_accuracy": ("PneumoniaAccuracy",),
        ".image_distribution": ("ImageDistribution",),
        ".image_features": ("ImageFeatures", "load_image_features"),
        ".prompt_diversity": ("PromptDiversity",),
        ".training_image_distance": ("TrainingImageDistance",),
        ".perplexity": ("Perplexity",),
    },
)
