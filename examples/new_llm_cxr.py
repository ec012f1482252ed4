"""
Make a small untrained LLM-CXR: a random Llama with a text tokenizer of its own, extended by an image tokenizer.

    python examples/new_llm_cxr.py --config examples/embedded_checkpoint/language_model.yaml --records DATA \
        --vq_tokenizer runs/vq --output_dir runs/new

`DATA` is a Parquet file of records or a folder with a `metadata.csv`. The text tokenizer is trained on the reports,
questions and instructions of its train split. Then train the model: `examples/finetune_llm_cxr.py --model runs/new`.
"""

from dataclasses import dataclass, field

from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from transformers_cxr.conversion.language_models import extend_language_model
from transformers_cxr.data import open_records
from transformers_cxr.training import run_script
from transformers_cxr.training.text_tokenizer import train_text_tokenizer


@dataclass
class Arguments:
    records: str = field(metadata={"help": "Parquet file of records, or folder with a metadata.csv"})
    output_dir: str = field(metadata={"help": "folder of the model and its processor"})
    vq_tokenizer: str = field(default="", metadata={"help": "image tokenizer, or an LLM-CXR; default: embedded"})
    model: dict = field(default_factory=dict, metadata={"help": "fields of LlamaConfig"})
    text_vocab_size: int = field(default=1024, metadata={"help": "maximum size of the text vocabulary"})
    new_embeddings: str = field(default="random", metadata={"help": "initial embeddings of codes"})
    seed: int = field(default=0, metadata={"help": "seed of the weights"})


def main(args: Arguments):
    set_seed(args.seed)
    tokenizer = train_text_tokenizer(open_records(args.records, "train"), args.text_vocab_size, args.seed)
    backbone = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **args.model))
    model, processor = extend_language_model(backbone, tokenizer, args.vq_tokenizer, args.new_embeddings, args.seed)
    model.save_pretrained(args.output_dir)
    processor.save_pretrained(args.output_dir)


if __name__ == "__main__":
    run_script(main, Arguments)
