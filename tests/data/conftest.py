"""Small datasets in the real layouts; every report in them is invented."""

import csv

import pytest
from datasets import Dataset
from PIL import Image

from transformers_cxr.data.records import StudyRecord

METADATA_COLUMNS = ["dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "StudyDate", "StudyTime"]
LABEL_NAMES = ["Atelectasis", "Edema", "No Finding", "Pleural Effusion", "Support Devices"]
CHEXPERT_COLUMNS = ["subject_id", "study_id", *LABEL_NAMES]
REPORT = """\
                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with cough

 FINDINGS:

 {findings}

 IMPRESSION:

 {impression}
"""
# dicom_id, subject_id, study_id, view, date, time, split
IMAGES = [
    # The first of the patient's studies comes last in the table; its time, 08:25:44, is written with five digits.
    ("aaaa1111-0001", "10000032", "50414267", "PA", "21800506", "213014.531", "train"),
    ("aaaa1111-0002", "10000032", "50414267", "LATERAL", "21800506", "213014.531", "train"),
    ("aaaa1111-0003", "10000032", "53189527", "AP", "21800506", "82544.0", "train"),
    ("bbbb2222-0001", "11000011", "51033740", "LL", "21750101", "100000.0", "validate"),
    ("bbbb2222-0002", "11000011", "51033740", "AP", "21750101", "100000.0", "validate"),
    ("cccc3333-0001", "12000012", "52000001", "", "21600101", "100000.0", "test"),
]
REPORTS = {
    ("10000032", "50414267"): ("The lungs are clear.", "No acute process."),
    ("10000032", "53189527"): ("", "Mild edema."),
    ("11000011", "51033740"): ("Small left effusion.", "Left pleural effusion."),
    ("12000012", "52000001"): ("Clear lungs, pacemaker.", "Normal."),
}
LABELS = [
    ("10000032", "50414267", "", "", "1.0", "", ""),
    ("10000032", "53189527", "0.0", "1.0", "", "-1.0", ""),
    ("11000011", "51033740", "", "0.0", "", "1.0", ""),
]


class MimicTree:
    """MIMIC-CXR-JPG in `jpg` and the reports of MIMIC-CXR in `reports`, as PhysioNet lays them out."""

    def __init__(self, folder):
        self.jpg, self.reports = folder / "mimic-cxr-jpg", folder / "mimic-cxr-reports"
        self.images, self.labels = list(IMAGES), list(LABELS)
        for image in self.images:
            self.path_of(image).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8)).save(self.path_of(image))
        for (patient, study), (findings, impression) in REPORTS.items():
            self.write_report(patient, study, REPORT.format(findings=findings, impression=impression))
        self.write_tables()

    def path_of(self, image):
        dicom_id, patient, study = image[:3]
        return self.jpg / f"files/p{patient[:2]}/p{patient}/s{study}/{dicom_id}.jpg"

    def report_of(self, patient, study):
        return self.reports / f"files/p{patient[:2]}/p{patient}/s{study}.txt"

    def write_report(self, patient, study, text):
        path = self.report_of(patient, study)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def write_tables(self):
        metadata = [
            dict.fromkeys(METADATA_COLUMNS, "")
            | dict(zip(["dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate", "StudyTime"], image))
            for image in self.images
        ]
        splits = [dict(zip(["dicom_id", "subject_id", "study_id"], image), split=image[6]) for image in self.images]
        self.write_csv("metadata", METADATA_COLUMNS, metadata)
        self.write_csv("split", ["dicom_id", "study_id", "subject_id", "split"], splits)
        self.write_csv("chexpert", CHEXPERT_COLUMNS, [dict(zip(CHEXPERT_COLUMNS, row)) for row in self.labels])

    def write_csv(self, name, columns, rows):
        with (self.jpg / f"mimic-cxr-2.0.0-{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)


@pytest.fixture
def mimic(tmp_path):
    return MimicTree(tmp_path)


OPENI_XML = """\
<?xml version="1.0" encoding="utf-8"?>
<eCitation>
  <uId id="{study}"/>
  <MedlineCitation><Article><Abstract>
    <AbstractText Label="COMPARISON">None.</AbstractText>
    <AbstractText Label="INDICATION">Cough, XXXX.</AbstractText>
    <AbstractText Label="FINDINGS">{findings}</AbstractText>
    <AbstractText Label="IMPRESSION">{impression}</AbstractText>
  </Abstract></Article></MedlineCitation>
  <MeSH>{terms}</MeSH>
  {images}
</eCitation>
"""


@pytest.fixture
def openi(tmp_path):
    """Folders `reports` and `images` of Open-i: two studies of two images and one."""
    (tmp_path / "reports").mkdir()
    (tmp_path / "images").mkdir()
    for study, findings, impression, terms, images in [
        ("CXR1", "Clear lungs. No XXXX.", "Normal.", ["normal"], ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"]),
        ("CXR2", "", "Small effusion.", ["Pleural Effusion/left/small", "Scoliosis"], ["CXR2_IM-0652-1001"]),
    ]:
        text = OPENI_XML.format(
            study=study,
            findings=findings,
            impression=impression,
            terms="".join(f"<major>{term}</major>" for term in terms),
            images="".join(
                f'<parentImage id="{image}"><caption>PA and lateral</caption></parentImage>' for image in images
            ),
        )
        (tmp_path / "reports" / f"{study[3:]}.xml").write_text(text, encoding="utf-8")
        for image in images:
            Image.new("L", (8, 8)).save(tmp_path / "images" / f"{image}.png")
    return tmp_path


@pytest.fixture(scope="session")
def make_record():
    def make(number, **fields):
        values = {
            "id": f"image-{number}", "patient": f"patient-{number}", "study": f"study-{number}",
            "image": f"{number}.png", "view": "PA", "findings": "Clear lungs.", "impression": "Normal.",
            "labels": {"Edema": 0, "No Finding": 1}, "split": "train", "source": "made",
        }  # fmt: skip
        return StudyRecord(**(values | fields))

    return make


@pytest.fixture(scope="session")
def codes_of():
    def make(ids, num_codes=4, **others):
        return Dataset.from_dict({"id": ids, "codes": [others.get(name, [1] * num_codes) for name in ids]})

    return make
