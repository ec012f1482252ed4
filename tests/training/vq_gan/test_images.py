import io
import itertools
from dataclasses import replace

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

from transformers_cxr import LlmCxrImageProcessor
from transformers_cxr.data import StudyRecord, write_records
from transformers_cxr.data.image_source import open_source
from transformers_cxr.training.vq_gan import ImageDataset, ImageStream, load_training_images
from transformers_cxr.training.vq_gan.images import collate_images


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


def test_unreadable_files_are_replaced_by_the_next_and_named(paths, image_processor):
    paths[3].write_bytes(paths[3].read_bytes()[:60])
    PIL.Image.new("L", (1, 1)).save(paths[0])
    dataset = ImageDataset(paths, image_processor)
    expected = image_processor(paths[1], return_tensors="pt").pixel_values[0]
    example = dataset[3]
    assert torch.equal(example["pixel_values"], expected) and torch.equal(dataset[1]["pixel_values"], expected)
    assert str(paths[3]) in example["unreadable"][0] and "1x1 pixels" in example["unreadable"][1]
    assert [len(example["unreadable"]) for example in dataset] == [1, 0, 0, 2]
    batch = collate_images([dataset[0], dataset[3]])
    assert batch["pixel_values"].shape == (2, 1, 32, 32) and len(batch["unreadable"]) == 3
    for path in paths:
        path.write_bytes(b"text")
    with pytest.raises(ValueError, match=r"None of the 4 image files can be read. The first error is .*1\.png: "):
        dataset[1]


def png(gray: int) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("L", (32, 32), gray).save(file, "png")
    return file.getvalue()


@pytest.fixture
def parquet(tmp_path):
    """`parquet(images)`: a folder with a Parquet file of encoded images."""

    def parquet(images: list[bytes]):
        (tmp_path / "parquet").mkdir()
        rows = [{"bytes": image, "path": f"{number}.png"} for number, image in enumerate(images)]
        pq.write_table(pa.table({"image": rows}), tmp_path / "parquet/train-00000-of-00001.parquet")
        return tmp_path / "parquet"

    return parquet


@pytest.fixture
def stream(image_processor):
    return lambda path, **options: ImageStream(open_source(str(path), "train"), image_processor, **options)


def grays(examples) -> list[int]:
    return [round((example["pixel_values"].unique().item() + 1) * 127.5 / 20) for example in examples]


def test_a_stream_yields_each_image_once_per_epoch_in_the_order_of_the_seed(parquet, stream):
    folder = parquet([b"cut" if i == 3 else png(20 * i) for i in range(10)])
    examples = list(itertools.islice(stream(folder, batch_size=2, buffer_size=4), 30))
    order = grays(examples)
    unreadable = [message for example in examples for message in example["unreadable"]]
    assert len(unreadable) == 3 and len(set(unreadable)) == 1 and unreadable[0].startswith("3.png: Cannot read")
    # The next image replaces the unreadable one and is then used itself.
    for position in [i for i, example in enumerate(examples) if example["unreadable"]][::-1]:
        assert order.pop(position) == order[position]
    for epoch in range(3):
        assert sorted(order[9 * epoch : 9 * epoch + 9]) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert order[:9] != order[9:18] != order[18:]
    assert grays(itertools.islice(stream(folder, batch_size=2, buffer_size=4), 30)) == grays(examples)
    assert grays(itertools.islice(stream(folder, batch_size=2, buffer_size=4, seed=1), 30)) != grays(examples)


def test_a_stream_is_resumed_and_divided_by_batches(parquet, stream):
    folder = parquet([png(20 * i) for i in range(10)])
    whole = grays(itertools.islice(stream(folder, batch_size=2), 40))
    assert grays(itertools.islice(stream(folder, batch_size=2, start=7), 26)) == whole[14:]
    batches = [whole[i : i + 2] for i in range(0, 40, 2)]
    for process in range(2):
        part = stream(folder, batch_size=2, start=1, process_index=process, num_processes=2)
        assert grays(itertools.islice(part, 18)) == sum(batches[2 + process :: 2], [])
    loader = DataLoader(stream(folder, batch_size=2), 2, collate_fn=collate_images, num_workers=1)
    read = [batch["pixel_values"] for batch in itertools.islice(loader, 20)]
    assert [grays({"pixel_values": image} for image in batch) for batch in read] == batches


def test_a_stream_without_readable_images_is_an_error(parquet, stream):
    with pytest.raises(ValueError, match=r"None of the images of the stream can be read. The last error is \d\.png: "):
        next(iter(stream(parquet([b"text"] * 3), batch_size=1)))


def test_training_images_are_records_folders_or_streams(paths, image_processor, parquet, tmp_path, caplog):
    options = {"image_processor": image_processor, "batch_size": 2, "num_batches": 8}
    folder = tmp_path / "images"
    (folder / "a").mkdir(parents=True)
    paths = [path.rename(folder / "a" / path.name) for path in paths]
    records = [
        StudyRecord(id=path.name, patient=path.name, image=str(path), source="ab"[i % 2], split="train")
        for i, path in enumerate(paths)
    ]  # fmt: skip
    # An X-ray counts once, whatever is asked about it.
    questions = [replace(records[0], question=f"{i}?", answer="No.") for i in range(9)]
    write_records([*records, *questions], tmp_path / "records.parquet")
    for data in (folder, tmp_path / "records.parquet", parquet([png(50 * i) for i in range(4)])):
        loader, shown = load_training_images(data, **options)
        batches = [batch["pixel_values"] for batch in itertools.islice(loader, 8)]
        assert shown[:, 0, 0, 0].unique().numel() == torch.cat(batches)[:, 0, 0, 0].unique().numel() == 4
        resumed, _ = load_training_images(data, start=3, **options)
        assert all(map(torch.equal, (batch["pixel_values"] for batch in resumed), batches[3:]))
    with pytest.raises(ValueError, match="`source_weights` needs records or a folder of images"):
        load_training_images(data, source_weights={"a": 2.0}, **options)
    loader, _ = load_training_images(tmp_path / "records.parquet", source_weights={"a": 0.0}, **options)
    assert torch.cat([batch["pixel_values"] for batch in loader])[:, 0, 0, 0].unique().numel() == 2
    load_training_images(tmp_path / "records.parquet", source_weights={"aa": 2.0}, **options)
    assert caplog.messages == ["`source_weights` names ['aa'], and the images are of ['a', 'b']."]
