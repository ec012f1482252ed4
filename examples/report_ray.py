"""
Encode X-rays and write a report of each, with actors of Ray Data on one machine or a cluster.

    pip install ray
    python examples/report_ray.py --images scans --output_dir runs/reports --num_actors 8 --gpus_per_actor 0.5

`scans` is a folder, a file or a glob. Every actor keeps its part of the model in memory: some encode the images, and
others write reports from the codes. A cluster needs a common file system. The Parquet files in `OUTPUT_DIR` have an
image and its report per row. Unreadable images are named, and left out. The same command resumes.
"""

import os
from dataclasses import dataclass, field
from glob import glob

import pyarrow.parquet as pq
import ray
import torch

from transformers_cxr import generate_text
from transformers_cxr.checkpoints import load_checkpoint, load_vq_tokenizer
from transformers_cxr.cli.images import ImageReader, list_images
from transformers_cxr.llm_cxr.processing_llm_cxr import TEXT_NOTICE
from transformers_cxr.training.arguments import run_script


@dataclass
class Arguments:
    images: str = field(metadata={"help": "folder, file or glob of X-rays"})
    output_dir: str = field(metadata={"help": "folder to write to or to resume"})
    model: str = field(default="", metadata={"help": "checkpoint; default: the embedded one"})
    batch_size: int = field(default=32, metadata={"help": "images per batch and per file"})
    num_actors: int = field(default=1, metadata={"help": "actors that encode, and as many that write reports"})
    gpus_per_actor: float = field(default=0.0, metadata={"help": "GPUs of an actor, such as 0.5"})


class Encoder:
    def __init__(self, model: str):
        self.vq_tokenizer, image_processor = load_vq_tokenizer(model)
        self.reader = ImageReader(image_processor)

    @torch.no_grad()
    def __call__(self, batch: dict):
        for images, pixel_values in self.reader.read([batch["image"].tolist()]):
            codes = self.vq_tokenizer.encode(pixel_values.to(self.vq_tokenizer.device))
            yield {"image": images, "codes": codes.cpu().numpy().astype("uint16")}


class Reporter:
    def __init__(self, model: str):
        self.model_and_processor = load_checkpoint(model)

    def __call__(self, batch: dict) -> dict:
        reports = generate_text(*self.model_and_processor, image_codes=batch["codes"], do_sample=False)
        return {"image": batch["image"], "report": reports, "notice": [TEXT_NOTICE] * len(reports)}


def main(args: Arguments):
    # The workers of a cluster have other working directories.
    images, output = list_images([os.path.abspath(args.images)]), os.path.abspath(args.output_dir)
    finished = pq.read_table(output, columns=["image"])["image"].to_pylist() if glob(f"{output}/*.parquet") else []
    missing = [{"image": image} for image in sorted(set(images).difference(finished))]
    if not missing:
        return
    actors = {
        "fn_constructor_args": (args.model,),
        "batch_size": args.batch_size,
        "compute": ray.data.ActorPoolStrategy(size=args.num_actors),
        "num_cpus": 0,  # so that two actors and the process that writes fit on two cores
        "num_gpus": args.gpus_per_actor,
    }
    # A file of the output is a block.
    blocks = ray.data.from_items(missing, override_num_blocks=-(-len(missing) // args.batch_size))
    blocks.map_batches(Encoder, **actors).map_batches(Reporter, **actors).write_parquet(output)


if __name__ == "__main__":
    run_script(main, Arguments)
