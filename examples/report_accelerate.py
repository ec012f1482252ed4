"""
Encode X-rays and write a report of each, with several processes on one or more machines.

    accelerate launch --num_processes 8 examples/report_accelerate.py --records scans --output_dir runs/reports

`scans` is a folder of X-rays or a Parquet file of records. Every process encodes and reads a share of the images;
machines need a common file system. `OUTPUT_DIR/reports.jsonl` has a line per X-ray; `OUTPUT_DIR/codes` is a folder of
`transformers-cxr encode`, whose `skipped.jsonl` lists unreadable images. The same command resumes, with any number of
processes.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from transformers_cxr import generate_text
from transformers_cxr.checkpoints import load_checkpoint, model_fingerprint
from transformers_cxr.data import load_codes, open_records
from transformers_cxr.data.encoding import encode_images
from transformers_cxr.data.image_source import open_source
from transformers_cxr.data.records import records_fingerprint
from transformers_cxr.evaluation import Example
from transformers_cxr.evaluation.predictions import distributed_state, predict
from transformers_cxr.files import atomic_write
from transformers_cxr.llm_cxr.processing_llm_cxr import TEXT_NOTICE
from transformers_cxr.training.arguments import run_script


@dataclass
class Arguments:
    records: str = field(metadata={"help": "folder of X-rays or Parquet file of records"})
    output_dir: str = field(metadata={"help": "folder to write to or to resume"})
    model: str = field(default="", metadata={"help": "checkpoint; default: the embedded one"})
    batch_size: int = field(default=32, metadata={"help": "images per batch"})
    shard_size: int = field(default=4096, metadata={"help": "images per file of codes, the share of a process"})


def main(args: Arguments):
    state, folder = distributed_state(), Path(args.output_dir)
    model, processor = load_checkpoint(args.model, state.device)
    source = open_source(args.records, id_column="file_name")
    encode_images(
        source, model.vq_tokenizer, processor.image_processor, folder / "codes", args.shard_size, args.batch_size
    )
    codes = load_codes(folder / "codes")
    rows = {image_id: row for row, image_id in enumerate(codes["id"])}
    records = {record.id: record for record in open_records(args.records) if record.id in rows}.values()

    def write_reports(batch: list[Example]) -> list[str]:
        image_codes = codes[[rows[example.id] for example in batch]]["codes"]
        return generate_text(model, processor, image_codes=image_codes, do_sample=False)

    examples = [Example.from_record(record, processor.report_instruction) for record in records]
    settings = {"model": model_fingerprint(model, processor), "data": records_fingerprint(records)}
    predictions = predict(examples, write_reports, folder / "reports", settings, args.batch_size, "reports")
    if state.is_main_process:
        with atomic_write(folder / "reports.jsonl") as partial, partial.open("w", encoding="utf-8") as file:
            for each in predictions:
                line = {"image": str(each.example.image_path), "report": each.output, "generated": True}
                file.write(json.dumps(line | {"notice": TEXT_NOTICE}, ensure_ascii=False) + "\n")
    state.destroy_process_group()


if __name__ == "__main__":
    run_script(main, Arguments)
