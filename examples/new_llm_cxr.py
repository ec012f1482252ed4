"""
Make a small untrained LLM-CXR: a random Llama with a text tokenizer of its own, extended by an image tokenizer.

    python examples/new_llm_cxr.py --config examples/embedded_checkpoint/language_model.yaml --records DATA \
        --vq_tokenizer runs/vq --output_dir runs/new

`DATA` is a Parquet file of records or a folder with a `metadata.csv`. The text tokenizer is trained on the reports,
questions and instructions of its train split. Then train the model: `examples/finetune_llm_cxr.py --model runs/new`.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from transformers_cxr import LlmCxrForCausalLM, LlmCxrProcessor
from transformers_cxr.conversion.language_models import extend_language_model
from transformers_cxr.data import StudyRecord, open_records
from transformers_cxr.data.conversations import image_conversation, report_conversation
from transformers_cxr.training import run_script


@dataclass
class Arguments:
    records: str = field(metadata={"help": "Parquet file of records, or folder with a metadata.csv"})
    output_dir: str = field(metadata={"help": "folder of the model and its processor"})
    vq_tokenizer: str = field(default="", metadata={"help": "image tokenizer, or an LLM-CXR; default: embedded"})
    model: dict = field(default_factory=dict, metadata={"help": "fields of LlamaConfig"})
    text_vocab_size: int = field(default=1024, metadata={"help": "maximum size of the text vocabulary"})
    new_embeddings: str = field(
        default="random", metadata={"help": "initial embeddings of codes: random, mean, codebook"}
    )
    seed: int = field(default=0, metadata={"help": "seed of the weights"})


def train_text_tokenizer(records: Iterable[StudyRecord], vocab_size: int, seed: int = 0) -> PreTrainedTokenizerFast:
    """
    Train a byte-level BPE tokenizer on the reports, questions and instructions of records. Other text is encoded in
    bytes. The vocabulary has at least the 256 bytes and the end of a text.
    """
    rng = random.Random(seed)
    lines = [
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    ]
    lines += ["\n\nInput:\n"] * 100
    for record in records:
        reading = report_conversation(record, rng, num_questions=1, unanswerable_ratio=0.2)
        for message in (*reading["messages"], *image_conversation(record, rng)["messages"]):
            lines += [part["text"] for part in message["content"] if part["type"] == "text"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def new_llm_cxr(
    tokenizer: PreTrainedTokenizerFast, model: dict, vq_tokenizer: str, new_embeddings: str, seed: int
) -> tuple[LlmCxrForCausalLM, LlmCxrProcessor]:
    """Return a random Llama with the fields `model` of its configuration, extended by an image tokenizer."""
    set_seed(seed)
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **model))
    return extend_language_model(llama, tokenizer, vq_tokenizer, new_embeddings, seed)


def main(args: Arguments):
    tokenizer = train_text_tokenizer(open_records(args.records, "train"), args.text_vocab_size, args.seed)
    for part in new_llm_cxr(tokenizer, args.model, args.vq_tokenizer, args.new_embeddings, args.seed):
        part.save_pretrained(args.output_dir)


if __name__ == "__main__":
    run_script(main, Arguments)
