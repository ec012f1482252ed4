import pytest

from transformers_cxr.data.readers.image_folder import CHESTXRAY14_LABELS, Study, list_images, read_image_folder

HEADER = "file_name,split,source,patient_id,view,sex,age,age_group,finding_labels,etiology,license"
ROWS = [
    "b/2.png,train,nih64,p2,PA,F,61,adult,Effusion|Pleural_Thickening,,free",
    "a/1.jpeg,validation,kermany,p1,AP,,,child,Pneumonia,viral,CC BY 4.0",
    "c/3.png,train,hannover,p3,AP,M,,adult,,,CC BY 3.0",
    "a/0.jpeg,train,kermany,p0,AP,,,child,No Finding,,CC BY 4.0",
]


def write_metadata(folder, *rows, header=HEADER):
    (folder / "metadata.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def test_row_becomes_a_study_with_the_path_of_its_image(tmp_path):
    write_metadata(tmp_path, *ROWS)
    assert read_image_folder(tmp_path, "validation") == [
        Study(
            image_path=tmp_path / "a/1.jpeg",
            image_id="a/1.jpeg",
            split="validation",
            source="kermany",
            patient_id="p1",
            view="AP",
            age_group="child",
            sex="",
            findings=("Pneumonia",),
            etiology="viral",
        )
    ]


def test_studies_of_one_split_come_in_the_order_of_the_file(tmp_path):
    write_metadata(tmp_path, *ROWS)
    assert [study.image_id for study in read_image_folder(tmp_path, "train")] == ["b/2.png", "c/3.png", "a/0.jpeg"]


def test_finding_labels_are_split_and_an_empty_cell_is_not_labelled(tmp_path):
    write_metadata(tmp_path, *ROWS)
    findings = [study.findings for study in read_image_folder(tmp_path, "train")]
    assert findings == [("Effusion", "Pleural_Thickening"), (), ("No Finding",)]


def test_findings_are_known_to_be_absent_where_the_dataset_labels_them_for_every_image(tmp_path):
    write_metadata(tmp_path, *ROWS)
    adult, unlabelled, child = read_image_folder(tmp_path, "train")
    assert set(adult.absent) == set(CHESTXRAY14_LABELS) - {"Effusion", "Pleural_Thickening"}
    assert unlabelled.absent == ()
    assert child.absent == ("Pneumonia",)


def test_folder_may_be_a_string(tmp_path):
    write_metadata(tmp_path, *ROWS)
    assert read_image_folder(str(tmp_path), "train") == read_image_folder(tmp_path, "train")


def test_patient_with_two_images_of_one_split_is_read(tmp_path):
    write_metadata(tmp_path, ROWS[3], ROWS[3].replace("a/0", "a/9"))
    assert len(read_image_folder(tmp_path, "train")) == 2


def test_missing_metadata_raises_and_names_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        read_image_folder(tmp_path, "train")


def test_missing_columns_are_named(tmp_path):
    write_metadata(tmp_path, "a/1.png,train,p1", header="file_name,split,patient_id")
    with pytest.raises(ValueError, match=r"\['age_group', 'etiology', 'finding_labels', 'sex', 'source', 'view'\]"):
        read_image_folder(tmp_path, "train")


def test_patient_in_two_splits_raises_whichever_split_is_read(tmp_path):
    write_metadata(tmp_path, ROWS[3], ROWS[3].replace("train", "validation"))
    for split in ("train", "validation"):
        with pytest.raises(ValueError, match="'p0'"):
            read_image_folder(tmp_path, split)


def test_patients_of_two_sources_are_two_patients(tmp_path):
    write_metadata(tmp_path, ROWS[3], ROWS[0].replace("p2", "p0").replace("train", "validation"))
    assert len(read_image_folder(tmp_path, "train")) == len(read_image_folder(tmp_path, "validation")) == 1


def test_metadata_may_begin_with_a_byte_order_mark(tmp_path):
    write_metadata(tmp_path, ROWS[3], header="\ufeff" + HEADER)
    assert len(read_image_folder(tmp_path, "train")) == 1


def test_sex_and_age_group_have_the_names_of_records_and_others_are_named_with_their_row(tmp_path):
    write_metadata(tmp_path, ROWS[0].replace("F,61,adult", "Female,61,Adult"))
    (study,) = read_image_folder(tmp_path, "train")
    assert (study.sex, study.age_group) == ("F", "adult")
    write_metadata(tmp_path, ROWS[1], ROWS[0].replace("adult", "60-69"))
    with pytest.raises(ValueError, match="Row 2 of '.*metadata.csv' has the age_group '60-69'; expected one of"):
        read_image_folder(tmp_path, "train")


def test_normal_is_no_finding_whatever_the_case(tmp_path):
    names = dict(zip(HEADER.split(","), ROWS[0].split(",")))
    write_metadata(
        tmp_path, *(",".join((names | {"finding_labels": label}).values()) for label in ("normal", "NO_FINDING"))
    )
    assert [study.findings for study in read_image_folder(tmp_path, names["split"])] == [("No Finding",)] * 2


def test_split_without_images_raises_and_names_it(tmp_path):
    write_metadata(tmp_path, *ROWS)
    with pytest.raises(ValueError, match="split 'test'"):
        read_image_folder(tmp_path, "test")


def test_images_are_listed_with_the_source_of_their_metadata(tmp_path):
    write_metadata(tmp_path, *ROWS)
    for split in ("train", "validation"):
        studies = read_image_folder(tmp_path, split)
        assert list_images(tmp_path, split) == (
            [study.image_path for study in studies],
            [study.source for study in studies],
        )


def test_without_metadata_all_images_are_listed_with_the_folder_they_are_in(tmp_path):
    names = ["ct/a/2.PNG", "ct/b.tif", "mri/1.jpeg", "zero.webp"]
    for name in [*names, "ct/notes.txt", "mri/1.json"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    paths, sources = list_images(str(tmp_path), "train")
    assert paths == [tmp_path / name for name in names]
    assert sources == ["ct", "ct", "mri", ""]


def test_folders_without_an_image_and_missing_ones_are_named(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match=f"No image in '{tmp_path}': expected files .png, .jpg"):
        list_images(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match="There is no folder '.*/nowhere'"):
        list_images(tmp_path / "nowhere", "train")
