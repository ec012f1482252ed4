import gzip

import pytest

from transformers_cxr.data import SkipReport, StudyRecord, write_records
from transformers_cxr.data.readers.mimic_cxr import read_mimic_cxr


def read(mimic, **options):
    report = SkipReport()
    return list(read_mimic_cxr(mimic.jpg, mimic.reports, report, **options)), report


def test_image_becomes_a_record_with_its_report_labels_and_split(mimic):
    records, report = read(mimic)
    assert records[0] == StudyRecord(
        id="aaaa1111-0001", patient="10000032", study="50414267", source="mimic-cxr", split="train", study_order=2,
        image=str(mimic.jpg / "files/p10/p10000032/s50414267/aaaa1111-0001.jpg"), view="PA", labels={"No Finding": 1},
        findings="The lungs are clear.", impression="No acute process.",
    )  # fmt: skip
    assert [record.id for record in records] == [image[0] for image in mimic.images]
    assert report.skipped == []
    assert records[2].labels == {"Atelectasis": 0, "Edema": 1, "Pleural Effusion": -1}
    assert records[5].labels == {}
    assert [record.view for record in records] == ["PA", "LATERAL", "AP", "LATERAL", "AP", ""]
    assert [record.split for record in records] == ["train"] * 3 + ["validation"] * 2 + ["test"]
    # 08:25:44 is before 21:30:14, though "82544.0" is greater than "213014.531" as text.
    assert [record.study_order for record in records] == [2, 2, 1, 1, 1, 1]


def test_compressed_tables_are_read(mimic):
    expected, _ = read(mimic)
    for path in mimic.jpg.glob("*.csv"):
        with gzip.open(f"{path}.gz", "wb") as file:
            file.write(path.read_bytes())
        path.unlink()
    assert read(mimic)[0] == expected


def test_unusable_images_are_skipped_with_a_reason(mimic):
    mimic.path_of(mimic.images[1]).unlink()
    mimic.report_of("10000032", "53189527").unlink()
    mimic.write_report("11000011", "51033740", "          FINAL REPORT\n INDICATION:  Cough.\n")
    mimic.write_report("12000012", "52000001", "IMPRESSION: ___")
    mimic.write_report("13000013", "53000001", "IMPRESSION: A study that has no image.")
    mimic.images.append(("dddd4444-0001", "10000032", "50414267", "PA", "21800506", "213014.531", "holdout"))
    mimic.write_tables()
    records, report = read(mimic)
    assert [record.id for record in records] == ["aaaa1111-0001"]
    assert sorted(report.skipped) == [
        ("aaaa1111-0002", "no image file"),
        ("aaaa1111-0003", "no report file"),
        ("bbbb2222-0001", "no findings and no impression"),
        ("bbbb2222-0002", "no findings and no impression"),
        ("cccc3333-0001", "no findings and no impression"),
        ("dddd4444-0001", "no split"),
        ("files/p13/p13000013/s53000001.txt", "a report without an image"),
    ]


def test_images_are_not_needed_for_training_from_codes(mimic):
    for image in mimic.images:
        mimic.path_of(image).unlink()
    assert len(read(mimic, images_needed=False)[0]) == 6
    with pytest.raises(ValueError, match="at least one record"):
        write_records(read(mimic)[0], mimic.jpg / "none.parquet")


def test_missing_tables_columns_and_reports_are_named(mimic):
    with pytest.raises(FileNotFoundError, match="no folder 'files' in '.*nowhere'"):
        list(read_mimic_cxr(mimic.jpg, mimic.reports / "nowhere"))
    mimic.write_csv("split", ["dicom_id"], [{"dicom_id": "1"}])
    with pytest.raises(ValueError, match=r"lacks the columns \['split'\]"):
        read(mimic)
    (mimic.jpg / "mimic-cxr-2.0.0-split.csv").unlink()
    with pytest.raises(FileNotFoundError, match="no 'mimic-cxr-2.0.0-split.csv'"):
        read(mimic)
