"""Tiny data and models for the example scripts."""

import numpy as np
import PIL.Image
import pytest
from datasets import Dataset

from transformers_cxr.data import StudyRecord, write_records

from ..conftest import reset_accelerator

TINY_LLAMA = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(autouse=True)
def one_accelerator_per_run():
    reset_accelerator()
    yield
    reset_accelerator()


@pytest.fixture
def model_dir(tiny_model, tmp_path):
    for part in tiny_model:
        part.save_pretrained(tmp_path / "model")
    (tmp_path / "model/README.md").write_text("---\nlicense: mit\nbase_model: somebody/model\n---\n\n# A model\n")
    return tmp_path / "model"


@pytest.fixture
def records(tmp_path):
    """Parquet file of 24 labeled records with codes, the last 8 of the validation split."""
    records = [
        StudyRecord(
            id=str(i), patient=str(i), image="x.png", source="ab"[i % 3 == 0],
            split="train" if i < 16 else "validation", view="AP", sex="M", age_group="child", study_order=1,
            labels={"Pneumonia": 1} if i % 2 else {"No Finding": 1, "Pneumonia": 0},
        )
        for i in range(24)
    ]  # fmt: skip
    codes = np.random.default_rng(0).integers(0, 32, (24, 16)).tolist()
    codes = Dataset.from_dict({"id": [record.id for record in records], "codes": codes})
    write_records(records, tmp_path / "records.parquet", codes)
    return tmp_path / "records.parquet"


@pytest.fixture
def data_dir(tmp_path):
    """Folder with a `metadata.csv`: 12 X-rays of three classes, the last 6 of the validation split."""
    folder, rng = tmp_path / "data", np.random.default_rng(0)
    folder.mkdir()
    lines = ["file_name,split,source,patient_id,view,sex,age_group,finding_labels,etiology"]
    for number in range(12):
        finding = ["No Finding,", "Pneumonia,bacterial", "Pneumonia,viral"][number % 3]
        split = "train" if number < 6 else "validation"
        lines.append(f"{number}.png,{split},kermany,p{number},AP,M,child,{finding}")
        image = PIL.Image.fromarray((rng.random((5, 5)) * 60 + 90 * (number % 3)).astype(np.uint8)).resize((40, 36))
        image.save(folder / f"{number}.png")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder
