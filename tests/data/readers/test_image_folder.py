import pytest

from transformers_cxr.data import StudyRecord, read_image_folder
from transformers_cxr.data.readers.image_folder import CHESTXRAY14_LABELS

HEADER = "file_name,split,source,patient_id,view,sex,age,age_group,finding_labels,etiology,license"
ROWS = [
    "b/2.png,train,nih64,p2,PA,F,61,adult,Effusion|Pleural_Thickening,,free",
    "a/1.jpeg,validation,kermany,p1,AP,,,child,Pneumonia,viral,CC BY 4.0",
    "c/3.png,train,hannover,p3,AP,M,,adult,,,CC BY 3.0",
    "a/0.jpeg,train,kermany,p0,AP,,,child,No Finding,,CC BY 4.0",
]


@pytest.fixture
def write(tmp_path):
    def write_metadata(*rows, header=HEADER):
        (tmp_path / "metadata.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        return tmp_path

    return write_metadata


def test_rows_of_the_metadata_become_records_of_one_split_or_all(write):
    folder = write(*ROWS)
    assert list(read_image_folder(folder, "validation")) == [
        StudyRecord(
            id="a/1.jpeg", patient="p1", image=str(folder / "a/1.jpeg"), source="kermany", study="a/1.jpeg",
            split="validation", view="AP", age_group="child",
            labels={"Pneumonia": 1, "Bacterial Pneumonia": 0, "Viral Pneumonia": 1},
        )
    ]  # fmt: skip
    assert [record.split for record in read_image_folder(str(folder))] == ["train", "validation", "train", "train"]


def test_missing_labels_are_absent_only_if_the_dataset_labels_all_of_them(write):
    adult, unlabelled, child = read_image_folder(write(*ROWS), "train")
    assert adult.present_labels == ("Effusion", "Pleural_Thickening")
    assert set(adult.absent_labels) == set(CHESTXRAY14_LABELS) - {"Effusion", "Pleural_Thickening"}
    assert unlabelled.labels == {}
    assert child.labels == {"Pneumonia": 0, "No Finding": 1}


def test_labels_sexes_and_age_groups_are_read_in_any_case(write):
    (record,) = read_image_folder(
        write(ROWS[0].replace("F,61,adult,Effusion|Pleural_Thickening", "Female,61,Adult,normal"))
    )
    assert (record.sex, record.age_group, record.present_labels) == ("F", "adult", ("No Finding",))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_patient_in_two_splits_is_an_error_whichever_split_is_read(write, split):
    with pytest.raises(ValueError, match="'p0'"):
        list(read_image_folder(write(ROWS[3], ROWS[3].replace("train", "validation")), split))
    # Patients of two datasets are two patients, and a patient may have two images of one split.
    folder = write(ROWS[3], ROWS[3].replace("a/0", "a/9"), ROWS[0].replace("p2", "p0").replace("train", "validation"))
    assert len(list(read_image_folder(folder))) == 3


def test_missing_columns_unknown_values_and_empty_splits_are_named(write):
    with pytest.raises(ValueError, match=r"\['age_group', 'etiology', 'finding_labels', 'sex', 'source', 'view'\]"):
        list(read_image_folder(write("a/1.png,train,p1", header="file_name,split,patient_id")))
    with pytest.raises(ValueError, match="Row 2 of '.*metadata.csv' has the age_group '60-69'; expected one of"):
        list(read_image_folder(write(ROWS[1], ROWS[0].replace("adult", "60-69"))))
    with pytest.raises(ValueError, match="Row 1 of '.*metadata.csv' has the etiology 'fungal'; expected one of"):
        list(read_image_folder(write(ROWS[0].replace(",,free", ",fungal,free"))))
    with pytest.raises(ValueError, match="split 'test'"):
        list(read_image_folder(write(*ROWS), "test"))


def test_without_metadata_all_images_are_read_with_their_folder_as_source(tmp_path):
    names = ["ct/a/2.PNG", "ct/b.tif", "mri/1.jpeg", "zero.webp"]
    for name in [*names, "ct/notes.txt", "mri/1.json"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    records = list(read_image_folder(tmp_path, "train"))
    assert [(record.id, record.image) for record in records] == [(name, str(tmp_path / name)) for name in names]
    assert [record.source for record in records] == ["ct", "ct", "mri", ""]
    assert {record.split for record in records} == {"train"}


def test_folder_without_an_image_and_missing_folder_are_named(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match=f"No image in '{tmp_path}': expected files .png, .jpg"):
        list(read_image_folder(tmp_path, "train"))
    with pytest.raises(FileNotFoundError, match="There is no folder '.*/nowhere'"):
        list(read_image_folder(tmp_path / "nowhere", "train"))
