"""docs/data.md, run as it stands on small datasets in the layouts that it names; every report in them is invented."""

import csv
import json
import shutil
import tarfile

import numpy as np
from PIL import Image

from transformers_cxr.data.store import load_records

# Readers, and the names that the page gives to what they read.
LAZY = [
    ("read_table", "records"),
    ("read_table", "labelled"),
    ("read_image_folder", "records"),
    ("read_vqa", "slake"),
    ("read_vqa", "vqa_rad"),
]


def write_csv(path, *rows):
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)


def test_page_runs_in_order(page, mimic, openi, dolly_texts, tmp_path):
    with tarfile.open(tmp_path / "NLMCXR_reports.tgz", "w:gz") as archive:
        archive.add(openi / "reports", "ecgen-radiology")
    shutil.move(openi / "images", tmp_path / "NLMCXR_png")
    write_csv(tmp_path / "views.csv", {"imageid": "CXR2_IM-0652-1001", "View Position": "PA"})

    study = {
        "file_name": "1.png",
        "patient_id": "7",
        "text": "IMPRESSION: Normal.",
        "set": "train",
        "projection": "AP",
    }
    write_csv(tmp_path / "reports.csv", study)
    labels = {"Path": "images/1.png", "patient_id": "7", "AP/PA": "AP", "Edema": "1.0", "Pneumonia": "-1.0"}
    write_csv(tmp_path / "train.csv", labels)
    of_folder = {"source": "kermany", "view": "AP", "age_group": "child", "sex": "M", "etiology": ""}
    of_folder["finding_labels"] = "No Finding"
    write_csv(
        tmp_path / "cxr/metadata.csv",
        {"file_name": "1.png", "split": "train", "patient_id": "1", **of_folder},
        {"file_name": "2.png", "split": "validation", "patient_id": "2", **of_folder},
    )
    question = {"question": "Is it normal?", "answer": "Yes."}
    slake = {"img_name": "xmlab1/source.jpg", "q_lang": "en", "modality": "X-Ray", "location": "Lung", **question}
    vqa_rad = {"image_name": "2.png", "image_organ": "CHEST", **question}
    for image in ("images/1.png", "images/2.png", "Slake1.0/imgs/xmlab1/source.jpg"):
        write_image(tmp_path / image)
    (tmp_path / "Slake1.0/train.json").write_text(json.dumps([slake]))
    (tmp_path / "VQA_RAD.json").write_text(json.dumps([vqa_rad]))
    (tmp_path / "vqa.json").write_text(json.dumps([{"subject_id": 10000032, "study_id": 50414267, **question}]))

    page = page("docs/data.md")
    found = page.namespace
    rows = {}
    for language, block in page.blocks:
        if language == "python":
            page.run_python(block)
            # They read no sooner than they are asked.
            rows |= {(reader, name): list(found[name]) for reader, name in LAZY if reader in block}
            continue
        for words in page.commands(block):
            if words[0] == "transformers-cxr":
                page.run_command(words)
            elif words[0] == "python":
                page.check_command(words)

    assert {path: len(load_records(path)) for path in ("mimic.parquet", "openi.parquet", "questions.parquet")} == {
        "mimic.parquet": 6,
        "openi.parquet": 3,
        "questions.parquet": 2,
    }
    assert (tmp_path / "skipped.jsonl").read_text() == ""
    assert [record.impression for record in rows["read_table", "records"]] == ["Normal."]
    assert [record.labels for record in rows["read_table", "labelled"]] == [{"Edema": 1, "Pneumonia": -1}]
    assert [record.split for record in rows["read_image_folder", "records"]] == ["train", "validation"]
    assert [record.id for record in rows["read_vqa", "slake"]] == ["xmlab1/source.jpg"]
    assert [record.id for record in rows["read_vqa", "vqa_rad"]] == ["2.png"]
    example = found["train"][0]
    assert len(found["train"]) == 76_000 * 16 and example["task"] in ("report", "image", "vqa", "text")
    assert all(len(codes) == 256 for codes in example["image_codes"])
