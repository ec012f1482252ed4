"""The command `encode`: a dataset of images to Parquet shards of codes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..checkpoints import load_vq_tokenizer
from . import options


def encode(
    dataset: Annotated[
        str, typer.Argument(help="A folder or file of images, or the name of a dataset on the Hub.", metavar="DATASET")
    ],
    output: Annotated[Path, typer.Option(help="Folder to write to or to resume.", file_okay=False)],
    split: Annotated[
        str | None,
        typer.Option(
            help="Split to encode. Default: train for a dataset on the Hub or files with many images, else all."
        ),
    ] = None,
    image_column: Annotated[str | None, typer.Option(help="Column of the images. Default: the only one.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of the ids of the images.")] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Images per Parquet file.")] = 4096,
    batch_size: options.BatchSize = 32,
    model: options.Model = None,
    device: options.Device = None,
):
    """
    Encode the images of a dataset as codes, and write Parquet files of ids, codes and metadata.

    DATASET is a folder of images or DICOM files, with or without a metadata.csv; a Parquet or WebDataset file, or a
    folder of these; or the name of a dataset on the Hub. The same command again resumes. Unreadable images are listed
    in skipped.jsonl. `transformers_cxr.data.load_codes` reads the result.

    ```
    transformers-cxr encode scans/ --output codes
    transformers-cxr encode user/dataset --split train --output codes
    accelerate launch -m transformers_cxr.cli.main \\
        encode scans/ --output codes
    ```
    """
    from accelerate import PartialState

    from ..data.encoding import encode_images
    from ..data.image_source import open_source

    state = PartialState(cpu=device == "cpu")
    source = open_source(dataset, split, image_column, id_column)
    # Accelerate gives each of several processes its own device.
    tokenizer_and_processor = load_vq_tokenizer(model, state.device if state.num_processes > 1 else device)
    num_images, num_shards, num_skipped = encode_images(
        source, *tokenizer_and_processor, output, shard_size, batch_size
    )
    is_main_process = state.is_main_process
    state.destroy_process_group()
    if not is_main_process:
        return
    typer.echo(f"{num_images} images in {num_shards} shards written to {output}, {num_skipped} skipped.")
    if num_skipped:
        typer.echo(f"Skipped images are listed in {output / 'skipped.jsonl'}.", err=True)
        raise typer.Exit(1)
