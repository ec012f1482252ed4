import io
import itertools
import tarfile

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

from transformers_cxr import LlmCxrImageProcessor
from transformers_cxr.data.dicom_output import image_to_dicom
from transformers_cxr.data.image_source import is_streamed, open_source
from transformers_cxr.data.store import open_records
from transformers_cxr.training.vq_gan.images import ImageDataset, ImageStream, collate_images


@pytest.fixture
def image_processor():
    return LlmCxrImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_convert_rgb=False
    )


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
    assert [len(example["unreadable"]) for example in dataset] == [1, 0, 0, 2]


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
    records = open_records(tmp_path, "train")
    paths = [record.image for record in records]
    assert paths == [str(tmp_path / name) for name in names]
    assert [record.source for record in records] == ["", "", "ct", "study"]
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
    batch = collate_images([dataset[0], dataset[1]])
    assert batch["pixel_values"].shape == (2, 1, 32, 32)
    assert len(batch["unreadable"]) == 1 and "1.png" in batch["unreadable"][0]


def png(grey: int) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("L", (32, 32), grey).save(file, "png")
    return file.getvalue()


def write_parquet(folder, images: list[bytes]):
    folder.mkdir()
    rows = [{"bytes": image, "path": f"{number}.png"} for number, image in enumerate(images)]
    pq.write_table(pa.table({"image": rows, "age": list(range(len(rows)))}), folder / "train-00000-of-00001.parquet")
    return folder


@pytest.fixture
def parquet(tmp_path):
    """Ten images, each of one grey; the fourth is cut."""
    return write_parquet(tmp_path / "parquet", [b"cut" if i == 3 else png(20 * i) for i in range(10)])


@pytest.fixture
def stream(image_processor):
    def make(path, **options) -> ImageStream:
        return ImageStream(open_source(str(path), "train"), image_processor, **options)

    return make


def greys(examples) -> list[int]:
    return [round((example["pixel_values"].unique().item() + 1) * 127.5 / 20) for example in examples]


def test_what_is_streamed_is_told_from_folders_of_images(parquet, paths, tmp_path):
    assert is_streamed(parquet) and is_streamed(next(parquet.iterdir()))
    (tmp_path / "images").mkdir()
    paths[0].rename(tmp_path / "images/0.png")
    assert not is_streamed(tmp_path / "images") and not is_streamed(tmp_path / "missing")
    (tmp_path / "metadata.csv").touch()
    assert not is_streamed(tmp_path)


def test_a_stream_gives_each_image_once_an_epoch_in_the_order_of_the_seed(parquet, stream):
    examples = list(itertools.islice(stream(parquet, batch_size=2, buffer_size=4), 30))
    order = greys(examples)
    unreadable = [message for example in examples for message in example["unreadable"]]
    assert len(unreadable) == 3 and len(set(unreadable)) == 1 and unreadable[0].startswith("3.png: Cannot read")
    # The next image stands in the place of the unreadable one too.
    for position in [i for i, example in enumerate(examples) if example["unreadable"]][::-1]:
        assert order.pop(position) == order[position]
    for epoch in range(3):
        assert sorted(order[9 * epoch : 9 * epoch + 9]) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert order[:9] != order[9:18] != order[18:]
    assert greys(itertools.islice(stream(parquet, batch_size=2, buffer_size=4), 30)) == greys(examples)
    assert greys(itertools.islice(stream(parquet, batch_size=2, buffer_size=4, seed=1), 30)) != greys(examples)


def test_a_stream_goes_on_where_it_was_and_is_divided_by_batches(tmp_path, stream):
    folder = write_parquet(tmp_path / "whole", [png(20 * i) for i in range(10)])
    whole = greys(itertools.islice(stream(folder, batch_size=2), 40))
    assert greys(itertools.islice(stream(folder, batch_size=2, start=7), 26)) == whole[14:]
    batches = [whole[i : i + 2] for i in range(0, 40, 2)]
    for process in range(2):
        part = stream(folder, batch_size=2, start=1, process_index=process, num_processes=2)
        assert greys(itertools.islice(part, 18)) == sum(batches[2 + process :: 2], [])
    loader = DataLoader(stream(folder, batch_size=2), 2, collate_fn=collate_images, num_workers=1)
    read = [batch["pixel_values"] for batch in itertools.islice(loader, 20)]
    assert [greys({"pixel_values": image} for image in batch) for batch in read] == batches


def test_webdataset_is_streamed_and_a_damaged_one_is_an_error(tmp_path, stream):
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(8):
            entry, data = tarfile.TarInfo(f"x{number}.png"), png(20 * number)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    assert sorted(greys(itertools.islice(stream(path, batch_size=1), 8))) == list(range(8))
    # A header and a block of data an image: cut within the data of the seventh.
    path.write_bytes(path.read_bytes()[: 6 * 1024 + 512 + 10])
    with pytest.raises(ValueError, match="images.tar' is damaged"):
        list(itertools.islice(stream(path, batch_size=1), 50))


def test_a_stream_without_an_image_that_can_be_read_is_an_error(tmp_path, stream):
    folder = write_parquet(tmp_path / "broken", [b"text"] * 3)
    with pytest.raises(ValueError, match=r"None of the images of the stream can be read; the last is \d\.png: "):
        next(iter(stream(folder, batch_size=1)))
