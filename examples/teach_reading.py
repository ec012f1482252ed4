"""
The second stage of the embedded checkpoint: a model that draws learns to read.

    python examples/teach_reading.py --config examples/teach_reading_1.yaml --data_dir DATA --model runs/llm/final \
        --output_dir runs/reading_1
    python examples/teach_reading.py --config examples/teach_reading_2.yaml --data_dir DATA --model runs/reading_1/final \
        --output_dir runs/reading_2

Two things differ from `finetune_llm_cxr.py`. The input embeddings of the codes begin anew (`codebook_embeddings`), as a linear
map of the codebook's vectors, and stay: codes that look alike are then alike to the model from the start, where rows of
their own learn from each code's few occurrences. And an auxiliary loss (`finding_weight`) asks every code of the lower half
of an image for the finding of its study, which a report tells in a few of its words only.

`DATA` is a Hugging Face imagefolder with a `metadata.csv` (columns in `transformers_cxr.data.image_folder`); only its train
split is read. Codes are kept in `OUTPUT_DIR/codes.npy`, and training resumes from the last checkpoint in `OUTPUT_DIR`. Every
setting of `transformers.TrainingArguments` is an argument.
"""

import copy
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from transformers_cxr import LlmCxrForCausalLM, LlmCxrProcessor
from transformers_cxr.data.image_folder import Study, read_image_folder
from transformers_cxr.data.instructions import image_conversation, question_answers, report_conversation
from transformers_cxr.training.arguments import run_script
from transformers_cxr.training.instructions import InstructionCollator, encode_conversation

FINDINGS = ("normal", "bacterial", "viral")
# Of questions that decide what a report says.
DECIDING = ("finding", "etiology", "label")


@dataclass
class ScriptArguments:
    data_dir: str = field(metadata={"help": "imagefolder with a metadata.csv"})
    model: str = field(metadata={"help": "LLM-CXR checkpoint to start from, a Llama"})
    codebook_embeddings: bool = field(
        default=False, metadata={"help": "begin the input rows of codes from the codebook"}
    )
    finding_weight: float = field(default=0.0, metadata={"help": "weight of the auxiliary loss"})
    drawing_ratio: float = field(default=0.12, metadata={"help": "share of the examples that draw"})
    questions: list[int] = field(default_factory=lambda: [1, 2], metadata={"help": "fewest and most a reading example"})
    deciding_first: float = field(default=0.0, metadata={"help": "how often the finding is asked for before the view"})
    one_turn: float = field(default=0.0, metadata={"help": "how often only the first turn of a reading is kept"})
    source_weights: dict = field(default_factory=dict, metadata={"help": "how often studies of a source are drawn"})


def begin_from_codebook(model: LlmCxrForCausalLM, norm: float = 2.0) -> None:
    """
    Gives the model a head of its own, and input rows of the codes that are a linear map of the three main directions of the
    codebook's vectors: the map that comes closest to the rows that it has, scaled to a median Euclidean norm of `norm`, which
    is about that of the rows of text.
    """
    config = copy.deepcopy(model.config.text_config)
    config.tie_word_embeddings = False
    language_model = AutoModelForCausalLM.from_config(config)
    table = model.get_input_embeddings().weight.detach()
    language_model.load_state_dict({**model.language_model.state_dict(), "lm_head.weight": table.clone()})
    codebook = model.vq_tokenizer.codebook.float()
    directions, _, _ = torch.linalg.svd(codebook - codebook.mean(0), full_matrices=False)
    inputs = torch.cat([directions[:, :3] * len(codebook) ** 0.5, torch.ones(len(codebook), 1)], dim=1)
    codes = slice(model.config.image_token_offset, model.config.image_token_offset + len(codebook))
    rows = inputs @ torch.linalg.lstsq(inputs, table[codes]).solution
    with torch.no_grad():
        language_model.get_input_embeddings().weight[codes] = rows * (norm / rows.norm(dim=1).median())
    model.language_model = language_model
    model.config.text_config = config


class ReadingDataset(Dataset):
    """Examples about one study each, drawn anew for every index: reading, or drawing. An index always gives the same one."""

    def __init__(
        self,
        studies: list[Study],
        codes: np.ndarray,
        processor: LlmCxrProcessor,
        size: int,
        seed: int,
        args: ScriptArguments,
    ):
        self.studies, self.codes, self.processor = studies, codes, processor
        self.size, self.seed, self.args = size, seed, args
        # The normal and the other studies of a source are drawn equally often.
        groups = [(study.source, study.findings == ("No Finding",)) for study in studies]
        sizes, studies_of = Counter(groups), Counter(study.source for study in studies)
        groups_of = Counter(source for source, _ in sizes)
        weights = [
            args.source_weights.get(group[0], 1.0) * studies_of[group[0]] / groups_of[group[0]] / sizes[group]
            for group in groups
        ]
        self.cumulative_weights = np.cumsum(weights).tolist()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        rng = random.Random(f"{self.seed}-{index}")
        (position,) = rng.choices(range(len(self.studies)), cum_weights=self.cumulative_weights)
        study = self.studies[position]
        is_drawing = rng.random() < self.args.drawing_ratio
        messages = self._drawing(study, rng) if is_drawing else self._reading(study, rng)
        record = {
            "messages": messages,
            "task": "image" if is_drawing else "report",
            "image_codes": [self.codes[position].tolist()],
        }
        example = encode_conversation(self.processor, record)
        finding = "normal" if study.findings == ("No Finding",) else study.etiology
        # The prompt of a drawing tells the finding: there is nothing to learn from it.
        example["finding"] = -100 if is_drawing or not finding else FINDINGS.index(finding)
        return example

    @staticmethod
    def _drawing(study: Study, rng: random.Random) -> list[dict]:
        messages = image_conversation(study, rng)["messages"]
        # For classifier-free guidance (arXiv 2207.12598).
        if rng.random() < 0.1:
            messages[0]["content"][1]["text"] = ""
        return messages

    def _reading(self, study: Study, rng: random.Random) -> list[dict]:
        questions = question_answers(study, rng)
        if rng.random() < self.args.deciding_first:
            questions.sort(key=lambda question: question[0] not in DECIDING)
        turns = [report_conversation(study, rng)["messages"]]
        for _, question, answer in questions[: rng.randint(*self.args.questions)]:
            pair = (("user", question), ("assistant", answer))
            turns.append([{"role": role, "content": [{"type": "text", "text": text}]} for role, text in pair])
        rng.shuffle(turns)
        if rng.random() < self.args.one_turn:
            turns = turns[:1]
        for user, _ in turns:
            user["content"] = [part for part in user["content"] if part["type"] != "image"]
        turns[0][0]["content"].append({"type": "image"})
        return [message for turn in turns for message in turn]


class ReadingTrainer(Trainer):
    """Trainer with the auxiliary loss: a linear layer on the hidden states two thirds up the backbone tells the finding."""

    def __init__(self, model: LlmCxrForCausalLM, finding_weight: float, **kwargs):
        config = model.config.text_config
        # It trains with the model, and is taken off when training ends.
        model.finding_head = torch.nn.Linear(config.hidden_size, len(FINDINGS))
        self.finding_weight = finding_weight
        self.layer = 2 * config.num_hidden_layers // 3
        super().__init__(model=model, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        finding = inputs.pop("finding")
        inputs = {**inputs, "output_hidden_states": True}
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        unwrapped = self.accelerator.unwrap_model(model)
        is_code = inputs["input_ids"] >= unwrapped.config.image_token_offset
        lower_half = is_code & (is_code.cumsum(-1) > unwrapped.config.vq_config.num_image_tokens // 2)
        hidden = outputs.hidden_states[self.layer][lower_half]
        logits = unwrapped.finding_head(F.rms_norm(hidden, hidden.shape[-1:]))
        targets = finding[:, None].expand_as(is_code)[lower_half]
        if (targets >= 0).any():
            loss = loss + self.finding_weight * F.cross_entropy(logits, targets)
        return (loss, outputs) if return_outputs else loss


@torch.no_grad()
def encode_images(model: LlmCxrForCausalLM, processor: LlmCxrProcessor, studies: list[Study], path: Path) -> np.ndarray:
    """Codes of the studies' images, `np.uint16` of shape `(num_studies, num_image_tokens)`, kept in `path`."""
    if path.is_file():
        return np.load(path)
    rows, batch_size = [], 16
    for start in tqdm(range(0, len(studies), batch_size), desc="Encoding"):
        images = [study.image_path for study in studies[start : start + batch_size]]
        pixel_values = processor.image_processor(images, return_tensors="pt").pixel_values
        rows.append(model.vq_tokenizer.encode(pixel_values.to(model.vq_tokenizer.device)).cpu().numpy())
    codes = np.concatenate(rows).astype(np.uint16)
    np.save(path, codes)
    return codes


def main(args: ScriptArguments, training_args: TrainingArguments):
    set_seed(training_args.seed)
    output_dir = Path(training_args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    studies = read_image_folder(args.data_dir, "train")
    model = LlmCxrForCausalLM.from_pretrained(args.model)
    processor = LlmCxrProcessor.from_pretrained(args.model)
    if args.codebook_embeddings:
        begin_from_codebook(model)
    model.get_input_embeddings().weight.requires_grad_(False)
    model.vq_tokenizer.eval().requires_grad_(False)
    codes = encode_images(model, processor, studies, output_dir / "codes.npy")
    size = training_args.max_steps * training_args.train_batch_size * training_args.world_size
    pad = InstructionCollator(processor.tokenizer.pad_token_id)
    trainer = ReadingTrainer(
        model=model,
        finding_weight=args.finding_weight,
        args=training_args,
        train_dataset=ReadingDataset(studies, codes, processor, size, training_args.seed, args),
        data_collator=lambda examples: pad(examples) | {"finding": torch.tensor([e["finding"] for e in examples])},
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(output_dir))
    if trainer.is_world_process_zero():
        del model.finding_head
        model.save_pretrained(output_dir / "final")
        processor.save_pretrained(output_dir / "final")


if __name__ == "__main__":
    run_script(main, ScriptArguments, TrainingArguments)
