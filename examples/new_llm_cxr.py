"""
Makes a small untrained LLM-CXR: a random Llama with a text tokenizer of its own, around an image tokenizer.

The start of the embedded checkpoint, after `examples/train_vq_gan.py` has trained its image tokenizer:

    python examples/new_llm_cxr.py --config examples/llm_cxr_tiny.yaml --data_dir DATA --vq_tokenizer runs/vq_decoder \
        --output_dir runs/new

`DATA` is a Hugging Face imagefolder with a `metadata.csv` (columns in `transformers_cxr.data.readers.image_folder`): the text tokenizer
learns the words of the reports, questions and instructions about its train split. Then `examples/finetune_llm_cxr.py` trains
the model: `--model runs/new`.
"""

import random
from dataclasses import dataclass, field

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from transformers_cxr import CXRVQTokenizer, LlmCxrForCausalLM, LlmCxrImageProcessor
from transformers_cxr.data.conversations import image_conversation, question_answers, report_conversation
from transformers_cxr.data.records import StudyRecord
from transformers_cxr.data.store import open_records
from transformers_cxr.training.arguments import run_script


@dataclass
class Arguments:
    data_dir: str = field(metadata={"help": "imagefolder with a metadata.csv"})
    vq_tokenizer: str = field(metadata={"help": "folder of a CXRVQTokenizer and its image processor"})
    output_dir: str = field(metadata={"help": "where model and processor are saved"})
    model: dict = field(default_factory=dict, metadata={"help": "fields of LlamaConfig"})
    text_vocab_size: int = field(default=1024, metadata={"help": "largest size of the text vocabulary"})
    new_embeddings: str = field(default="random", metadata={"help": "rows of codes: random, mean or codebook"})
    seed: int = field(default=0, metadata={"help": "seed of the weights"})


def train_text_tokenizer(studies: list[StudyRecord], vocab_size: int, seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the words in reports, questions and instructions; any other text is spelt in bytes."""
    rng = random.Random(seed)
    lines = [
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    ]
    lines += ["\n\nInput:\n"] * 100
    for study in studies:
        for conversation in (report_conversation, image_conversation):
            for message in conversation(study, rng)["messages"]:
                lines += [part["text"] for part in message["content"] if part["type"] == "text"]
        # A study of which nothing is known but its image answers no question.
        for _, question, answer in question_answers(study, rng)[:1]:
            lines += [question, answer]
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


def main(args: Arguments):
    set_seed(args.seed)
    tokenizer = train_text_tokenizer(open_records(args.data_dir, "train"), args.text_vocab_size, args.seed)
    backbone = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **args.model))
    vq_tokenizer = CXRVQTokenizer.from_pretrained(args.vq_tokenizer)
    model, processor = LlmCxrForCausalLM.from_language_model(
        backbone, tokenizer, vq_tokenizer, new_embeddings=args.new_embeddings, seed=args.seed
    )
    processor.image_processor = LlmCxrImageProcessor.from_pretrained(args.vq_tokenizer)
    model.generation_config.max_new_tokens = 512
    model.save_pretrained(args.output_dir)
    processor.save_pretrained(args.output_dir)


if __name__ == "__main__":
    run_script(main, Arguments)
