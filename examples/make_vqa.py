"""
Generate questions and answers about X-rays from their reports with an instruct language model, and keep those that the
report supports.

    python examples/make_vqa.py --records records.parquet --model MODEL --output vqa.jsonl

`records.parquet` is a file of records; `MODEL` is a folder, a Hub name, a .gguf file or pip:PACKAGE. `vqa.jsonl` has a
line per study: `questions`, and `rejected` questions with the reason. An interrupted run resumes. Read the result with
`transformers_cxr.data.read_vqa`.

Questions inherit the license of the reports: those from MIMIC-CXR are credentialed data.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from transformers_cxr.conversion.language_models import load_instruct_model
from transformers_cxr.data.store import iterate, load_records, select_records
from transformers_cxr.reports import grounding_error
from transformers_cxr.training.arguments import run_script

PROMPT = """\
Write {number} short questions that can be asked about the chest X-ray of this report, each about another finding, \
and answer each in the words of the report. Write nothing but a JSON list of objects with "question" and "answer".

{report}"""
# A turn that shows the format.
EXAMPLE_REPORT = "The heart is enlarged. Small right pleural effusion. No pneumothorax. Dual-lead pacemaker."
EXAMPLE_ANSWER = json.dumps(
    [
        {"question": "Is there a pneumothorax?", "answer": "No."},
        {"question": "What is the size of the heart?", "answer": "Enlarged."},
        {"question": "On which side is the pleural effusion?", "answer": "Right."},
        {"question": "Is there a pacemaker?", "answer": "Yes, a dual-lead pacemaker."},
        {"question": "How large is the pleural effusion?", "answer": "Small."},
    ]
)
# Beginning of the answer, without which small models do not write JSON.
ANSWER_START = '[{"question": "'


@dataclass
class Arguments:
    records: str = field(metadata={"help": "Parquet file of records"})
    model: str = field(metadata={"help": "instruct model: a folder, Hub name, .gguf file or pip:PACKAGE"})
    output: str = field(metadata={"help": ".jsonl file to write or resume"})
    split: str = field(default="train", metadata={"help": "split of the records"})
    num_studies: int = field(default=0, metadata={"help": "maximum number of studies; 0: all"})
    num_questions: int = field(default=5, metadata={"help": "questions per report"})
    batch_size: int = field(default=8, metadata={"help": "reports per batch"})
    max_new_tokens: int = field(default=384, metadata={"help": "maximum number of tokens of an answer"})
    dtype: str = field(default="auto", metadata={"help": "dtype of the model, such as bfloat16"})


@torch.no_grad()
def generate_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, reports: list[str], args: Arguments
) -> list[str]:
    """Return the greedy answer of the model for each report."""
    prompts = [
        tokenizer.apply_chat_template(
            [
                {"role": "user", "content": PROMPT.format(report=EXAMPLE_REPORT, number=5)},
                {"role": "assistant", "content": EXAMPLE_ANSWER},
                {"role": "user", "content": PROMPT.format(report=report, number=args.num_questions)},
                {"role": "assistant", "content": ANSWER_START},
            ],
            continue_final_message=True,
            tokenize=False,
        )
        for report in reports
    ]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
    output = model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=args.max_new_tokens,
        stop_strings=["]"],
        tokenizer=tokenizer,
        pad_token_id=tokenizer.pad_token_id,
    )
    texts = tokenizer.batch_decode(output[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    return [ANSWER_START + text for text in texts]


def parse_question_answers(text: str) -> list[dict[str, str]]:
    """
    Return the questions and answers of a JSON list of `{"question": ..., "answer": ...}`, which may be inside of text.

    Raises:
        ValueError: there is no such list.
    """
    start = text.find("[")
    if start < 0:
        raise ValueError("no JSON list")
    try:
        items, _ = json.JSONDecoder(object_pairs_hook=unique_keys).raw_decode(text[start:])
    except json.JSONDecodeError as error:
        raise ValueError(f"no valid JSON: {error.msg}") from error
    for item in items:
        if not isinstance(item, dict) or set(item) != {"question", "answer"}:
            raise ValueError("an item is not an object of 'question' and 'answer'")
        if not all(isinstance(value, str) and value.strip() for value in item.values()):
            raise ValueError("a question or an answer is not a text")
    return [{key: value.strip() for key, value in item.items()} for item in items]


def unique_keys(pairs: list[tuple[str, object]]) -> dict:
    """Return the object of the pairs. By default, Python keeps only the last of equal keys."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("duplicate key in an object")
    return dict(pairs)


def check_answer(text: str, report: str) -> tuple[list[dict], list[dict]]:
    """Return the questions that the report supports, and rejected ones with the reason."""
    try:
        pairs = parse_question_answers(text)
    except ValueError as error:
        return [], [{"text": text, "reason": str(error)}]
    questions, rejected = [], []
    for pair in pairs:
        reason = grounding_error(pair["question"], pair["answer"], report)
        if pair["question"] in {kept["question"] for kept in questions}:
            reason = "duplicate question"
        if reason is None:
            questions.append(pair)
        else:
            rejected.append({**pair, "reason": reason})
    return questions, rejected


def load_finished(path: Path, model: str) -> list[dict]:
    """Return the lines of an earlier run, after removing an incomplete last line from the file."""
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)
    lines = [json.loads(line) for line in whole.splitlines()]
    if other := next((line for line in lines if line.get("model") != model), None):
        raise ValueError(f"'{path}' was written by '{other.get('model')}', not by '{model}'. Choose another output.")
    return lines


def iterate_studies(args: Arguments) -> Iterator[dict]:
    """Yield the first image of each study with a report."""
    rows = select_records(load_records(args.records), splits=(args.split,))
    seen = set()
    for row in iterate(rows, ["source", "study", "patient", "split", "findings", "impression"]):
        if (row["source"], row["study"]) not in seen and (row["findings"] or row["impression"]):
            seen.add((row["source"], row["study"]))
            yield row


def summarize(lines: list[dict]) -> str:
    kept = sum(len(line["questions"]) for line in lines)
    reasons = Counter(item["reason"].partition(":")[0] for line in lines for item in line["rejected"])
    unreadable = sum(1 for line in lines if any("text" in item for item in line["rejected"]))
    pairs = kept + sum(1 for line in lines for item in line["rejected"] if "text" not in item)
    text = [f"{len(lines)} reports, {len(lines) - unreadable} answered with valid JSON: {pairs} pairs, {kept} kept"]
    return "\n".join(text + [f"  {count}  {reason}" for reason, count in reasons.most_common()])


def main(args: Arguments):
    path = Path(args.output)
    lines = load_finished(path, args.model)
    done = {(line["source"], line["study"]) for line in lines}
    chosen = islice(iterate_studies(args), args.num_studies or None)
    waiting = [row for row in chosen if (row["source"], row["study"]) not in done]
    if waiting:
        model, tokenizer = load_instruct_model(args.model, args.dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for start in tqdm(range(0, len(waiting), args.batch_size), desc="Generating questions"):
            batch = waiting[start : start + args.batch_size]
            reports = [f"{row.pop('findings')}\n{row.pop('impression')}".strip() for row in batch]
            for row, report, text in zip(batch, reports, generate_answers(model, tokenizer, reports, args)):
                questions, rejected = check_answer(text, report)
                lines.append({**row, "model": args.model, "questions": questions, "rejected": rejected})
                file.write(json.dumps(lines[-1], ensure_ascii=False) + "\n")
            file.flush()
    print(summarize(lines))


if __name__ == "__main__":
    run_script(main, Arguments)
