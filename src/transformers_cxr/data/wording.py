"""Wording of instructions, label-derived reports and questions."""

REPORT_INSTRUCTIONS = (
    "Write a radiology report for this chest X-ray.",
    "Read this X-ray and report what you find.",
    "Please give the findings and impression of this image.",
    "What does this chest X-ray show? Answer with a report.",
    "Turn this chest image into a short written report.",
    "Act as the radiologist and report on this X-ray.",
    "State the findings, then the impression, for this X-ray.",
    "I need a report of the following chest X-ray.",
    "Look at this image of a chest and report on it.",
    "Give me the report that belongs to this chest X-ray.",
)

IMAGE_INSTRUCTIONS = (
    "Draw the chest X-ray that this report describes.",
    "Make a chest X-ray that fits the following report.",
    "Please turn this report into a chest X-ray.",
    "What would the X-ray of this report look like?",
    "Show me the image that belongs to this report.",
    "I need a chest X-ray with the following findings.",
    "Read this report and draw the X-ray.",
    "Give me a chest image for this written report.",
    "Draw an X-ray of the chest from this text.",
    "Make the image that a radiologist would report like this.",
)

# Labels of ChestX-ray14 (Wang et al., CVPR 2017), whose "Effusion" is a pleural effusion, and of CheXpert and
# MIMIC-CXR-JPG (Irvin et al., AAAI 2019).
LABEL_NAMES = {
    "Atelectasis": "atelectasis",
    "Cardiomegaly": "cardiomegaly",
    "Consolidation": "consolidation",
    "Edema": "edema",
    "Effusion": "a pleural effusion",
    "Emphysema": "emphysema",
    "Fibrosis": "fibrosis",
    "Hernia": "a hernia",
    "Infiltration": "infiltration",
    "Mass": "a mass",
    "Nodule": "a nodule",
    "Pleural_Thickening": "pleural thickening",
    "Pneumonia": "pneumonia",
    "Pneumothorax": "a pneumothorax",
    "Enlarged Cardiomediastinum": "an enlarged cardiomediastinum",
    "Fracture": "a fracture",
    "Lung Lesion": "a lung lesion",
    "Lung Opacity": "a lung opacity",
    "Pleural Effusion": "a pleural effusion",
    "Pleural Other": "a pleural abnormality",
    "Support Devices": "support devices",
}
PERSONS = {
    ("", ""): "a patient",
    ("", "M"): "a man",
    ("", "F"): "a woman",
    ("child", ""): "a child",
    ("child", "M"): "a boy",
    ("child", "F"): "a girl",
    ("adult", ""): "an adult",
    ("adult", "M"): "an adult man",
    ("adult", "F"): "an adult woman",
}

VIEW_SENTENCES = (
    "This is a chest X-ray of {person}, {view} view.",
    "The chest of {person} is seen in {view} view.",
    "The image is the {view} chest X-ray of {person}.",
    "{view} view of the chest of {person}.",
)

NO_VIEW_SENTENCES = (
    "This is a chest X-ray of {person}.",
    "The chest of {person} is seen.",
)

POSITIVE_FINDINGS = (
    "The X-ray shows signs of {findings}.",
    "There are signs of {findings}.",
    "The findings are those of {findings}.",
    "What is seen fits with {findings}.",
)
POSITIVE_IMPRESSIONS = (
    "{findings}.",
    "Findings of {findings}.",
    "The X-ray shows {findings}.",
    "Signs of {findings}.",
)

NORMAL_FINDINGS = (
    "There is no pneumonia and no other finding.",
    "The X-ray shows no sign of pneumonia.",
    "No abnormality is seen, and no pneumonia.",
    "No acute finding can be seen.",
    "The X-ray is without pneumonia or other abnormality.",
)
NORMAL_IMPRESSIONS = (
    "Normal chest X-ray.",
    "Normal X-ray, no pneumonia.",
    "No acute finding, normal chest.",
    "No abnormality.",
    "No evidence of pneumonia, normal X-ray.",
)

ABSENT_FINDINGS = (
    "There is no sign of {findings}.",
    "The X-ray is without evidence of {findings}.",
)
ABSENT_IMPRESSIONS = (
    "No sign of {findings}.",
    "No evidence of {findings}.",
)

# Of X-rays without labels.
PLAIN_IMPRESSIONS = (
    "Chest X-ray of {person}, {view} view.",
    "{view} chest X-ray of {person}.",
    "Chest of {person} in {view} view.",
)
PLAIN_IMPRESSIONS_NO_VIEW = ("Chest X-ray of {person}.",)

PNEUMONIA_QUESTIONS = (
    "Is there pneumonia?",
    "Does this X-ray show pneumonia?",
    "Can you see signs of pneumonia?",
)
NORMAL_QUESTIONS = (
    "Is this X-ray normal?",
    "Is this a normal chest X-ray?",
    "Would you report this chest as normal?",
)
ETIOLOGY_QUESTIONS = (
    "Is the pneumonia bacterial or viral?",
    "What is the cause of the pneumonia?",
    "Which kind of pneumonia is it?",
)
VIEW_QUESTIONS = (
    "Is this an AP or a PA view?",
    "Which view is this?",
    "What is the view of this X-ray?",
)
AGE_GROUP_QUESTIONS = (
    "Is this a child or an adult?",
    "Which age group is the patient in?",
    "Is this the chest of a child or of an adult?",
)
SEX_QUESTIONS = (
    "Is the patient male or female?",
    "What is the sex of the patient?",
    "Which sex is the patient?",
)
LABEL_QUESTIONS = (
    "Is there {label}?",
    "Does this X-ray show {label}?",
    "Can you see {label}?",
)

# Beside those on labels and on the sex, if the record has none.
UNANSWERABLE_QUESTIONS = (
    "How old is the patient in years?",
    "What is the name of the patient?",
    "Where was this X-ray taken?",
    "When was this X-ray taken?",
    "What is the treatment?",
    "Has this changed since the last X-ray?",
    "Does the patient smoke?",
    "What is the capital of France?",
    "Who are you?",
)
UNANSWERABLE = "I cannot answer that: it is not in my training data."
