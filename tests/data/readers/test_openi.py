import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from transformers_cxr.data.readers.openi import read_openi
from transformers_cxr.data.records import SkipReport, StudyRecord


def test_report_becomes_a_record_for_each_of_its_images(openi):
    (openi / "views.csv").write_text(
        "imageid,View Position,Rows\nCXR1_1_IM-0001-3001,PA,2048\nCXR1_1_IM-0001-4001,LL,2048\n"
    )
    report = SkipReport()
    records = list(read_openi(openi / "reports", openi / "images", openi / "views.csv", report))
    assert records[0] == StudyRecord(
        id="CXR1_1_IM-0001-3001", patient="CXR1", study="CXR1", source="openi", split="", study_order=1,
        image=str(openi / "images/CXR1_1_IM-0001-3001.png"), view="PA", labels={"No Finding": 1},
        findings="Clear lungs. No XXXX.", impression="Normal.",
    )  # fmt: skip
    assert [(r.view, r.findings) for r in records[1:]] == [("LATERAL", "Clear lungs. No XXXX."), ("", "")]
    assert records[2].labels == {"Pleural Effusion": 1}
    assert report.skipped == []


def test_unusable_files_and_images_are_skipped_with_a_reason(openi):
    (openi / "images/CXR1_1_IM-0001-4001.png").unlink()
    text = (openi / "reports/2.xml").read_text()
    (openi / "reports/4.xml").write_text(text.replace("Small effusion.", "XXXX.").replace("CXR2", "CXR4"))
    (openi / "reports/5.xml").write_text(text.replace("parentImage", "noImage").replace("CXR2", "CXR5"))
    (openi / "reports/6.xml").write_text("<html><br></html>")
    (openi / "reports/7.xml").write_text("<html></html>")
    report = SkipReport()
    records = list(read_openi(openi / "reports", openi / "images", skip_report=report))
    assert [record.id for record in records] == ["CXR1_1_IM-0001-3001", "CXR2_IM-0652-1001"]
    assert sorted(report.skipped) == [
        ("6.xml", "not an XML report of Open-i"),
        ("7.xml", "not an XML report of Open-i"),
        ("CXR1_1_IM-0001-4001", "no image file"),
        ("CXR4_IM-0652-1001", "no findings and no impression"),
        ("CXR5", "a report without an image"),
    ]


def test_missing_and_broken_inputs_are_named(openi):
    (openi / "reports.tgz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="Cannot read '.*reports.tgz' as a tar archive"):
        list(read_openi(openi / "reports.tgz"))
    (openi / "views.csv").write_text("image,view\n1,PA\n")
    with pytest.raises(ValueError, match=r"lacks the columns \['View Position', 'imageid'\]"):
        list(read_openi(openi / "reports", views=openi / "views.csv"))
    shutil.rmtree(openi / "reports")
    with pytest.raises(FileNotFoundError, match="No XML file"):
        list(read_openi(openi / "reports"))


def test_all_real_reports_are_read_or_counted():
    folder = Path(find_spec("torchxrayvision").origin).parent / "data"
    report = SkipReport()
    records = list(read_openi(folder / "NLMCXR_reports.tgz", None, folder / "nlmcxr_dicom_metadata.csv.gz", report))
    assert len(records) == 7430
    # 7,470 images of 3,851 reports; 104 more reports have none.
    assert report.counts == {"a report without an image": 104, "no findings and no impression": 40}
    assert {"AP", "PA", "LATERAL", ""} == {record.view for record in records}
    assert all(record.findings or record.impression for record in records)
