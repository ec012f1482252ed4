import pytest

from transformers_cxr.cli.images import list_images


def test_folders_globs_and_files_are_listed_once_and_in_order(images):
    everything = [str(images / name) for name in ("a/1.png", "a/3.png", "a/5.png")]
    everything += [str(images / f"b/c/{number}.png") for number in (0, 2, 4, 6)]
    assert list_images([str(images)]) == everything
    assert list_images([f"{images}/**/*.png", str(images / "a/3.png")]) == everything
    assert list_images([str(images / "a/5.png"), str(images / "a")]) == [everything[2], *everything[:2]]
    assert list_images(["https://host/x.png", str(images / "notes.txt")]) == [
        "https://host/x.png",
        str(images / "notes.txt"),
    ]


def test_dicom_is_found_by_suffix_and_by_content(tmp_path):
    (tmp_path / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "x.DCM").write_bytes(b"broken")
    (tmp_path / "README").write_bytes(b"text")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    assert list_images([str(tmp_path)]) == [str(tmp_path / "IM0001"), str(tmp_path / "x.DCM")]


def test_path_without_an_image_is_an_error(images):
    with pytest.raises(FileNotFoundError, match="No file or folder 'nothing'"):
        list_images([str(images), "nothing"])
    (images / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="No image in '.*empty'"):
        list_images([str(images / "empty")])
