import numpy as np
import PIL.Image
import pytest
import torch

from transformers_cxr import LlmCxrImageProcessor
from transformers_cxr.data.dicom_output import image_to_dicom
from transformers_cxr.data.image_folder import list_images
from transformers_cxr.training.images import ImageDataset


@pytest.fixture
def image_processor():
    return LlmCxrImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_convert_rgb=False)


@pytest.fixture
def paths(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for i, path in enumerate(paths):
        PIL.Image.fromarray(np.full((40, 36), 50 * i, np.uint8)).save(path)
    return paths


def test_an_image_is_what_the_processor_makes_of_it(paths, image_processor):
    example = ImageDataset(paths, image_processor)[2]
    assert example["unreadable"] == []
    assert example["pixel_values"].shape == (1, 32, 32)
    assert torch.equal(example["pixel_values"], image_processor(paths[2], return_tensors="pt").pixel_values[0])


def test_the_next_image_stands_for_one_that_cannot_be_read(paths, image_processor):
    paths[3].write_bytes(paths[3].read_bytes()[:60])
    PIL.Image.new("L", (1, 1)).save(paths[0])
    dataset = ImageDataset(paths, image_processor)
    example = dataset[3]
    assert torch.equal(example["pixel_values"], dataset[1]["pixel_values"])
    assert [str(path) in message for path, message in zip((paths[3], paths[0]), example["unreadable"])] == [True, True]
    assert "1x1 pixels" in example["unreadable"][1]
    assert dataset[1]["unreadable"] == []


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0 cut"])
def test_files_of_any_content_are_passed_over(paths, image_processor, content):
    paths[0].write_bytes(content)
    assert len(ImageDataset(paths, image_processor)[0]["unreadable"]) == 1


def test_sixteen_bits_and_transparency_are_read(paths, image_processor):
    PIL.Image.fromarray((np.arange(1600, dtype=np.uint16) * 40).reshape(40, 40)).save(paths[0])
    PIL.Image.new("RGBA", (40, 40), (200, 10, 10, 128)).save(paths[1])
    dataset = ImageDataset(paths, image_processor)
    assert all(dataset[i]["unreadable"] == [] for i in range(4))


def test_a_folder_of_dicom_files_of_any_name_is_listed_and_read(tmp_path, image_processor):
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 36), dtype=np.uint8))
    names = ["1.2.840.5", "a.dcm", "ct/IM0001", "study/IM0001"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        dataset = image_to_dicom(image)
        dataset.Modality = "CT" if name.startswith("ct") else "CR"
        dataset.save_as(tmp_path / name)
    # What a DICOM folder holds beside images.
    dataset.save_as(tmp_path / "DICOMDIR")
    (tmp_path / "README").write_text("DICM")
    paths, sources = list_images(tmp_path, "train")
    assert (paths, sources) == ([tmp_path / name for name in names], ["", "", "ct", "study"])
    dataset = ImageDataset(paths, image_processor)
    expected = image_processor(image, return_tensors="pt").pixel_values[0]
    assert all(torch.equal(dataset[i]["pixel_values"], expected) for i in range(4))
    assert [len(dataset[i]["unreadable"]) for i in range(4)] == [0, 0, 1, 0]
    assert "ct/IM0001" in dataset[2]["unreadable"][0] and "modality CT" in dataset[2]["unreadable"][0]


def test_a_folder_of_unreadable_files_is_an_error(paths, image_processor):
    for path in paths:
        path.write_bytes(b"text")
    with pytest.raises(ValueError, match=r"None of the 4 image files can be read; the first is .*1\.png: Cannot read"):
        ImageDataset(paths, image_processor)[1]


def test_a_batch_names_the_unreadable_files_of_all_examples(paths, image_processor):
    paths[1].unlink()
    dataset = ImageDataset(paths, image_processor)
    batch = dataset.collate([dataset[0], dataset[1]])
    assert batch["pixel_values"].shape == (2, 1, 32, 32)
    assert len(batch["unreadable"]) == 1 and "1.png" in batch["unreadable"][0]
