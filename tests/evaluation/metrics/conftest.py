"""Reports for the metrics of texts."""

REFERENCES = [
    "Heart size is normal. No pleural effusion or pneumothorax.",
    "There is a small left pleural effusion.\nMild cardiomegaly.",
    "The lungs are clear.",
    "Right lower lobe consolidation, concerning for pneumonia.",
]
PREDICTIONS = [
    "The heart size is normal. No effusion or pneumothorax.",
    "There is a small right pleural effusion.",
    "The lungs are clear.",
    "There is no pneumonia.",
]
