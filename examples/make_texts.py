"""
Generate answers to everyday prompts with an instruct language model, as conversations without images: training on them
beside X-rays keeps the language of the model (self-synthesized rehearsal, arXiv 2403.01244).

    python examples/make_texts.py --model MODEL --output texts.parquet

`MODEL` is a folder, a Hub name, a .gguf file or pip:PACKAGE. `texts.parquet` is for `finetune_llm_cxr.py --texts`.
Answers are sampled with a seed; those that do not end within `max_new_tokens` are left out and counted.
"""

import random
from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import set_seed

from transformers_cxr.conversion.language_models import load_instruct_model
from transformers_cxr.training.arguments import run_script

INSTRUCTIONS = (
    "What is {topic}? Answer in one sentence.",
    "Explain {topic} to a child in two sentences.",
    "Give me one interesting fact about {topic}.",
    "Write a short sentence about {topic}.",
    "Name three words that have to do with {topic}.",
    "Why do people care about {topic}? Be brief.",
    "Write a title for an article about {topic}.",
    "Ask me a question about {topic}.",
    "What should a beginner know about {topic}? One sentence, please.",
    "Write a short and polite email of two sentences about {topic}.",
    "Describe {topic} in a few words.",
    "Is {topic} important? Answer briefly and give a reason.",
)
TOPICS = (
    "baking bread", "gravity", "the Roman Empire", "a rainbow", "playing chess", "volcanoes", "learning a language",
    "coffee", "public libraries", "the water cycle", "jazz", "saving money", "honey bees", "the Moon", "train travel",
    "photography", "friendship", "electric cars", "gardening", "the printing press", "football", "sleep",
    "a thunderstorm", "mathematics", "recycling", "the Olympic Games", "poetry", "cats and dogs", "the ocean",
    "computer programs", "cooking rice", "glaciers", "a job interview", "the Silk Road", "bridges", "dreams",
    "climate", "the theatre", "healthy food", "maps", "clocks", "museums", "penguins", "the internet", "kindness",
    "swimming", "paper", "democracy", "the desert", "birthday parties",
)  # fmt: skip


@dataclass
class Arguments:
    model: str = field(metadata={"help": "instruct model: a folder, Hub name, .gguf file or pip:PACKAGE"})
    output: str = field(metadata={"help": "Parquet file to write"})
    num_prompts: int = field(
        default=len(INSTRUCTIONS) * len(TOPICS), metadata={"help": "number of prompts; default: all"}
    )
    batch_size: int = field(default=16, metadata={"help": "prompts per batch"})
    max_new_tokens: int = field(default=96, metadata={"help": "maximum number of tokens of an answer"})
    dtype: str = field(default="auto", metadata={"help": "dtype of the model, such as bfloat16"})
    seed: int = field(default=0, metadata={"help": "seed of prompts and answers"})


@torch.no_grad()
def main(args: Arguments):
    if Path(args.output).exists():
        raise FileExistsError(f"'{args.output}' exists. Remove it or choose another output.")
    model, tokenizer = load_instruct_model(args.model, args.dtype)
    prompts = [instruction.format(topic=topic) for instruction in INSTRUCTIONS for topic in TOPICS]
    random.Random(args.seed).shuffle(prompts)
    prompts = prompts[: args.num_prompts]
    set_seed(args.seed)
    rows = []
    for start in tqdm(range(0, len(prompts), args.batch_size), desc="Generating texts"):
        batch = prompts[start : start + args.batch_size]
        inputs = tokenizer.apply_chat_template(
            [[{"role": "user", "content": prompt}] for prompt in batch],
            add_generation_prompt=True,
            padding=True,
            return_dict=True,
            return_tensors="pt",
        ).to(model.device)
        # Temperature 1 samples from the distribution that training should keep.
        output = model.generate(
            **inputs,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            max_new_tokens=args.max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
        )[:, inputs["input_ids"].shape[1] :]
        for number, (prompt, ids) in enumerate(zip(batch, output), start=start):
            answer = tokenizer.decode(ids, skip_special_tokens=True).strip()
            if tokenizer.eos_token_id in ids and answer:
                messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
                rows.append({"id": f"prompt-{number}", "messages": messages})
    print(f"{len(rows)} of {len(prompts)} answers are complete.")
    Dataset.from_list(rows).to_parquet(args.output)


if __name__ == "__main__":
    run_script(main, Arguments)
