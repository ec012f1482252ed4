"""
Lets an instruct language model answer everyday prompts, and keeps the answers as conversations without images: training on
them beside X-rays asks a model to go on saying what it would have said before (self-synthesized rehearsal, arXiv 2403.01244).

    python examples/make_texts.py --model MODEL --output texts.parquet

`MODEL` is a folder, a name on the Hub, or a .gguf file. `texts.parquet` is for `examples/finetune_llm_cxr.py --texts`. Answers
are sampled with a seed; one that does not end within `max_new_tokens` is left out, and counted.
"""

import random
from dataclasses import dataclass, field
from pathlib import Path

import torch
from make_vqa import load_model
from tqdm import tqdm
from transformers import set_seed

from transformers_cxr.data.conversations import text_turn
from transformers_cxr.data.readers.text import write_texts
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
    "baking bread", "gravity", "the Roman Empire", "a rainbow", "playing chess", "volcanoes", "learning a language", "coffee",
    "public libraries", "the water cycle", "jazz", "saving money", "honey bees", "the Moon", "train travel", "photography",
    "friendship", "electric cars", "gardening", "the printing press", "football", "sleep", "a thunderstorm", "mathematics",
    "recycling", "the Olympic Games", "poetry", "cats and dogs", "the ocean", "computer programs", "cooking rice", "glaciers",
    "a job interview", "the Silk Road", "bridges", "dreams", "climate", "the theatre", "healthy food", "maps", "clocks",
    "museums", "penguins", "the internet", "kindness", "swimming", "paper", "democracy", "the desert", "birthday parties",
)  # fmt: skip


@dataclass
class Arguments:
    model: str = field(metadata={"help": "instruct language model: a folder, a name on the Hub, or a .gguf file"})
    output: str = field(metadata={"help": ".parquet to write"})
    num_prompts: int = field(
        default=len(INSTRUCTIONS) * len(TOPICS), metadata={"help": "prompts to answer, by default all that there are"}
    )
    batch_size: int = field(default=16, metadata={"help": "prompts at once"})
    max_new_tokens: int = field(default=96, metadata={"help": "largest number of tokens of an answer"})
    dtype: str = field(default="auto", metadata={"help": "dtype of the model, such as bfloat16"})
    seed: int = field(default=0, metadata={"help": "seed of the choice of prompts and of the answers"})


@torch.no_grad()
def main(args: Arguments):
    if Path(args.output).exists():
        raise FileExistsError(f"'{args.output}' exists. Remove it or choose another output.")
    model, tokenizer = load_model(args.model, args.dtype)
    prompts = [instruction.format(topic=topic) for instruction in INSTRUCTIONS for topic in TOPICS]
    random.Random(args.seed).shuffle(prompts)
    prompts = prompts[: args.num_prompts]
    set_seed(args.seed)
    rows = []
    for start in tqdm(range(0, len(prompts), args.batch_size), desc="Writing texts"):
        batch = prompts[start : start + args.batch_size]
        inputs = tokenizer.apply_chat_template(
            [[{"role": "user", "content": prompt}] for prompt in batch],
            add_generation_prompt=True,
            padding=True,
            return_dict=True,
            return_tensors="pt",
        ).to(model.device)
        # At temperature 1 the answers are drawn from the distribution that is to be kept.
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
                rows.append({"id": f"prompt-{number}", "messages": text_turn(prompt, answer)})
    print(f"{write_texts(rows, args.output)} answers of {len(prompts)}; the others do not end, or are empty.")


if __name__ == "__main__":
    run_script(main, Arguments)
