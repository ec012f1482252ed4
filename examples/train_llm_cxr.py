"""
Trains a small LLM-CXR from scratch on chest X-rays with label-derived reports: reading, answering and drawing.

The embedded checkpoint, after `examples/train_vq_gan.py` has trained its tokenizer:

    python examples/train_llm_cxr.py --config examples/llm_cxr_tiny.yaml --data_dir DATA --vq_tokenizer runs/vq_decoder \
        --output_dir runs/llm

`DATA` is a Hugging Face imagefolder with a `metadata.csv` (columns in `transformers_cxr.data.image_folder`). Only the train
split is read. The codes of the images are kept in `OUTPUT_DIR/codes.npy`, and training resumes from the last checkpoint in
`OUTPUT_DIR`; the finished model and its processor are saved in `OUTPUT_DIR/final`. Every setting of
`transformers.TrainingArguments` is an argument.
"""

import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from transformers_cxr import CXRVQTokenizer, LlmCxrForCausalLM, LlmCxrImageProcessor, LlmCxrProcessor
from transformers_cxr.data.image_folder import Study, read_image_folder
from transformers_cxr.data.instructions import image_conversation, report_conversation, vqa_conversation
from transformers_cxr.training.arguments import parse_arguments
from transformers_cxr.training.instructions import InstructionCollator, InstructionDataset


@dataclass
class ScriptArguments:
    data_dir: str = field(metadata={"help": "imagefolder with a metadata.csv"})
    vq_tokenizer: str = field(default="", metadata={"help": "folder of a CXRVQTokenizer and its image processor"})
    model: dict = field(default_factory=dict, metadata={"help": "fields of LlamaConfig"})
    initial_model: str = field(
        default="", metadata={"help": "LLM-CXR checkpoint to start from, in place of `vq_tokenizer` and `model`"}
    )
    text_vocab_size: int = field(default=1024, metadata={"help": "largest size of the text vocabulary"})
    source_weights: dict = field(default_factory=dict, metadata={"help": "how often studies of a source are drawn"})
    balanced: bool = field(
        default=False, metadata={"help": "draw normal and abnormal studies of a source equally often"}
    )
    drawing_ratio: float = field(default=0.4, metadata={"help": "share of the examples that draw"})
    num_questions: int = field(default=2, metadata={"help": "questions of a reading example beside the report"})


def train_text_tokenizer(studies: list[Study], vocab_size: int, seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the words in reports, questions and instructions; any other text is spelt in bytes."""
    rng = random.Random(seed)
    lines = [
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    ]
    lines += ["\n\nInput:\n"] * 100
    for study in studies:
        for conversation in (report_conversation, image_conversation, vqa_conversation):
            for message in conversation(study, rng)["messages"]:
                lines += [part["text"] for part in message["content"] if part["type"] == "text"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        lines,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


@torch.no_grad()
def encode_images(
    vq_tokenizer: CXRVQTokenizer, image_processor: LlmCxrImageProcessor, studies: list[Study], path: Path
) -> np.ndarray:
    """Codes of the studies' images, `np.uint16` of shape `(num_studies, num_image_tokens)`, kept in `path`."""
    if path.is_file():
        codes = np.load(path)
        if len(codes) == len(studies):
            return codes
        raise ValueError(f"'{path}' holds codes of {len(codes)} images, not of these {len(studies)}: delete it.")
    rows, batch_size = [], 16
    for start in tqdm(range(0, len(studies), batch_size), desc="Encoding"):
        images = [study.image_path for study in studies[start : start + batch_size]]
        pixel_values = image_processor(images, return_tensors="pt").pixel_values.to(vq_tokenizer.device)
        rows.append(vq_tokenizer.encode(pixel_values).cpu().numpy().astype(np.uint16))
    codes = np.concatenate(rows)
    np.save(path, codes)
    return codes


def new_model(args: ScriptArguments, studies: list[Study], seed: int) -> tuple[LlmCxrForCausalLM, LlmCxrProcessor]:
    """A random Llama around the image tokenizer, with a text tokenizer of its own."""
    tokenizer = train_text_tokenizer(studies, args.text_vocab_size, seed)
    backbone = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **args.model))
    vq_tokenizer = CXRVQTokenizer.from_pretrained(args.vq_tokenizer)
    model, processor = LlmCxrForCausalLM.from_language_model(backbone, tokenizer, vq_tokenizer)
    processor.image_processor = LlmCxrImageProcessor.from_pretrained(args.vq_tokenizer)
    model.generation_config.max_new_tokens = 512
    return model, processor


def main(args: ScriptArguments, training_args: TrainingArguments):
    set_seed(training_args.seed)
    studies = read_image_folder(args.data_dir, "train")
    output_dir = Path(training_args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    if args.initial_model:
        model = LlmCxrForCausalLM.from_pretrained(args.initial_model)
        processor = LlmCxrProcessor.from_pretrained(args.initial_model)
    elif not args.vq_tokenizer:
        raise ValueError("Give `--vq_tokenizer` to train a new model, or `--initial_model` to go on from a checkpoint.")
    else:
        model, processor = new_model(args, studies, training_args.seed)
    model.vq_tokenizer.eval().requires_grad_(False)
    codes = encode_images(model.vq_tokenizer, processor.image_processor, studies, output_dir / "codes.npy")

    size = training_args.max_steps * training_args.train_batch_size * training_args.gradient_accumulation_steps
    dataset = InstructionDataset(
        studies,
        codes,
        processor,
        size=size * training_args.world_size,
        drawing_ratio=args.drawing_ratio,
        num_questions=args.num_questions,
        source_weights=args.source_weights,
        balanced=args.balanced,
        seed=training_args.seed,
    )
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=dataset,
        data_collator=InstructionCollator(processor.tokenizer.pad_token_id),
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(training_args.output_dir))
    if trainer.is_world_process_zero():
        model.save_pretrained(output_dir / "final")
        processor.save_pretrained(output_dir / "final")


if __name__ == "__main__":
    main(*parse_arguments(ScriptArguments, TrainingArguments))
