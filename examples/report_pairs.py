"""
Write pairs of reports for `examples/dpo_llm_cxr.py`: that of an X-ray, and the same wording with another finding.

    python examples/report_pairs.py --model llm-cxr --records DATA --output pairs.jsonl

Normal X-rays, bacterial and viral pneumonia come in turn, each augmented and encoded by the model's image tokenizer.
Only X-rays of the train split that are labeled so are used.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle

import torch
from tqdm import tqdm
from transformers import set_seed

from transformers_cxr import training
from transformers_cxr.checkpoints import load_checkpoint
from transformers_cxr.data import StudyRecord, label_report, open_records
from transformers_cxr.data.conversations import turns_to_messages
from transformers_cxr.data.wording import REPORT_INSTRUCTIONS
from transformers_cxr.files import atomic_write

LABELS = {
    "normal": {"No Finding": 1, "Pneumonia": 0},
    "bacterial": {"Pneumonia": 1, "Bacterial Pneumonia": 1, "Viral Pneumonia": 0},
    "viral": {"Pneumonia": 1, "Bacterial Pneumonia": 0, "Viral Pneumonia": 1},
}


@dataclass
class Arguments:
    model: str = field(metadata={"help": "LLM-CXR model: folder or Hub id"})
    records: str = field(metadata={"help": "records, .parquet or folder with a metadata.csv; the train split is used"})
    output: str = field(metadata={"help": "JSON Lines file to write"})
    num_pairs: int = field(default=3600, metadata={"help": "number of pairs"})
    seed: int = field(default=0, metadata={"help": "random seed"})


def report_pair(record: StudyRecord, names: Sequence[str], rng: random.Random) -> list[tuple[str, str]]:
    """Return a request and a report for each finding, in the same wording."""
    request, wording = rng.choice(REPORT_INSTRUCTIONS), rng.random()
    return [(request, label_report(replace(record, labels=LABELS[name]), random.Random(wording))) for name in names]


@torch.inference_mode()
def main(args: Arguments):
    set_seed(args.seed)
    rng = random.Random(args.seed)
    model, processor = load_checkpoint(args.model)
    records = open_records(args.records, "train")
    records_of = {}
    for name, labels in LABELS.items():
        found = [each for each in records if each.labels == labels]
        if not found:
            raise ValueError(f"No {name} X-ray in the train split of '{args.records}', which has the labels {labels}.")
        rng.shuffle(found)
        records_of[name] = cycle(found)
    with atomic_write(args.output) as path, open(path, "w", encoding="utf-8") as file:
        for index in tqdm(range(args.num_pairs)):
            finding = list(LABELS)[index % len(LABELS)]
            record = next(records_of[finding])
            pixel_values = processor.image_processor(record.image, return_tensors="pt").pixel_values
            (codes,) = model.vq_tokenizer.encode(training.augment(pixel_values)).tolist()
            names = finding, rng.choice([name for name in LABELS if name != finding])
            messages = [turns_to_messages([turn]) for turn in report_pair(record, names, rng)]
            pair = {"prompt": messages[0][:1], "chosen": messages[0][1:], "rejected": messages[1][1:]}
            file.write(json.dumps(pair | {"image_codes": [codes]}) + "\n")


if __name__ == "__main__":
    training.run_script(main, Arguments)
