"""
Evaluates a checkpoint on the validation split: reconstruction, reports, answers and well-formed images.

    python examples/evaluate_llm_cxr.py --data_dir DATA --output_dir runs/evaluation

The embedded checkpoint is evaluated unless `--model` names another. `DATA` is a Hugging Face imagefolder with a
`metadata.csv` (columns in `transformers_cxr.data.image_folder`). Writes `metrics.json`, `metrics.md` and
`images.png` in `OUTPUT_DIR`: rows of an X-ray, its reconstruction, and two images generated from its report.
"""

import json
import random
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from tqdm import tqdm
from transformers import AutoModel, AutoProcessor, set_seed

from transformers_cxr import LlmCxrForCausalLM, LlmCxrProcessor, checkpoint, generate_image
from transformers_cxr.data.image_folder import Study, read_image_folder
from transformers_cxr.data.instructions import (
    etiology_of_report,
    finding_of_report,
    label_report,
    question_answers,
)
from transformers_cxr.llm_cxr.generation_llm_cxr import IMAGE_INSTRUCTION
from transformers_cxr.pipelines.cxr_text import REPORT_INSTRUCTION
from transformers_cxr.training.arguments import parse_arguments


@dataclass
class Arguments:
    data_dir: str = field(metadata={"help": "imagefolder with a metadata.csv"})
    output_dir: str = field(metadata={"help": "where the results are written"})
    model: str = field(default="", metadata={"help": "checkpoint; the embedded one by default"})
    split: str = field(default="validation", metadata={"help": "split of the metadata"})
    num_questions: int = field(default=400, metadata={"help": "questions, drawn from those of all images"})
    num_images: int = field(default=500, metadata={"help": "images that are drawn at temperature 2"})
    batch_size: int = field(default=32, metadata={"help": "sequences at once"})
    seed: int = field(default=0, metadata={"help": "seed of questions and drawings"})


def batches(items: list, size: int, name: str) -> tqdm:
    return tqdm([items[start : start + size] for start in range(0, len(items), size)], desc=name)


@torch.no_grad()
def encode(model: LlmCxrForCausalLM, processor: LlmCxrProcessor, studies: list[Study], batch_size: int):
    """Codes `(num_studies, num_image_tokens)` and the PSNR in dB of each image's reconstruction."""
    codes, psnr = [], []
    for batch in batches(studies, batch_size, "Encoding"):
        images = [study.image_path for study in batch]
        pixel_values = processor.image_processor(images, return_tensors="pt").pixel_values.to(model.device)
        batch_codes = model.vq_tokenizer.encode(pixel_values)
        error = (model.vq_tokenizer.decode(batch_codes) - pixel_values).square().mean(dim=(1, 2, 3))
        psnr += (10 * torch.log10(4 / error)).tolist()
        codes += batch_codes.tolist()
    return codes, psnr


def answer(
    model: LlmCxrForCausalLM,
    processor: LlmCxrProcessor,
    codes: list,
    instructions: list[str],
    batch_size: int,
    name: str,
) -> list[str]:
    """Greedy text for each image and instruction."""
    texts = []
    for batch in batches(list(zip(codes, instructions)), batch_size, name):
        prompts = processor.apply_chat_template(
            [
                [{"role": "user", "content": [{"type": "text", "text": instruction}, {"type": "image"}]}]
                for _, instruction in batch
            ],
            add_generation_prompt=True,
        )
        inputs = processor(text=prompts, image_codes=[c for c, _ in batch], return_tensors="pt", padding=True)
        output = model.generate(**inputs.to(model.device), generation_mode="text", do_sample=False, max_new_tokens=96)
        texts += processor.post_process_multimodal_output(
            output[:, inputs.input_ids.shape[1] :], generation_mode="text"
        )
    return [text.strip() for text in texts]


def balanced_accuracy(references: list[str], predictions: list[str | None]) -> float:
    """Mean over the classes of the share of their studies that are predicted right; `None` is wrong."""
    right = defaultdict(list)
    for reference, prediction in zip(references, predictions):
        right[reference].append(prediction == reference)
    return float(np.mean([np.mean(values) for values in right.values()]))


def count_well_formed(model: LlmCxrForCausalLM, processor: LlmCxrProcessor, texts: list[str], batch_size: int) -> int:
    """Images that `generate` draws at temperature 2 with all their codes, the end of the image and no more."""
    num_codes, well_formed = processor.num_image_tokens, 0
    for batch in batches(texts, batch_size, "Drawing at temperature 2"):
        prompts = processor.image_prompts(batch, IMAGE_INSTRUCTION)
        inputs = processor(text=prompts, return_tensors="pt", padding=True).to(model.device)
        output = model.generate(
            **inputs, do_sample=True, temperature=2.0, top_k=0, max_new_tokens=num_codes + 8, generation_mode="text"
        )
        new = output[:, inputs.input_ids.shape[1] :] - processor.image_token_offset
        is_code = (new >= 0) & (new < processor.codebook_size)
        end = new[:, num_codes] == processor.eoi_token_id - processor.image_token_offset
        whole = is_code[:, :num_codes].all(-1) & ~is_code[:, num_codes:].any(-1) & end
        well_formed += int(whole.sum())
    return well_formed


def picture(model, processor, studies: list[Study], reports: list[str], codes: list, seed: int) -> PIL.Image.Image:
    """Rows of an X-ray, its reconstruction, and two images drawn from its report."""
    rows = []
    for study, report, code in zip(studies, reports, codes):
        original = processor.image_processor(study.image_path, return_tensors="pt").pixel_values
        with torch.no_grad():
            decoded = model.vq_tokenizer.decode(torch.tensor([code], device=model.device))
        drawn = generate_image(model, processor, report, num_images=2, guidance_scale=1.5, top_p=0.95, seed=seed)
        images = processor.postprocess(original) + processor.postprocess(decoded) + drawn
        rows.append(np.concatenate([np.asarray(image.convert("L")) for image in images], axis=1))
    return PIL.Image.fromarray(np.concatenate(rows))


def main(args: Arguments):
    set_seed(args.seed)
    path = args.model or checkpoint("llm-cxr")
    model = AutoModel.from_pretrained(path).eval()
    processor = AutoProcessor.from_pretrained(path)
    studies = read_image_folder(args.data_dir, args.split)
    codes, psnr = encode(model, processor, studies, args.batch_size)

    metrics = {}
    for source in sorted({study.source for study in studies}):
        values = [p for study, p in zip(studies, psnr) if study.source == source]
        metrics[f"psnr_{source}"] = {"value": float(np.mean(values)), "unit": "dB", "count": len(values)}
    used = len(np.unique(codes))
    metrics["codebook_usage"] = {"value": used / processor.codebook_size, "unit": "share", "count": len(studies)}

    labelled = [i for i, study in enumerate(studies) if study.source == "kermany"]
    reports = answer(
        model, processor, [codes[i] for i in labelled], [REPORT_INSTRUCTION] * len(labelled), args.batch_size, "Reports"
    )
    findings = ["normal" if studies[i].findings == ("No Finding",) else "pneumonia" for i in labelled]
    metrics["report_finding_balanced_accuracy"] = {
        "value": balanced_accuracy(findings, [finding_of_report(report) for report in reports]),
        "unit": "share",
        "count": len(labelled),
    }
    pneumonia = [(studies[i].etiology, report) for i, report in zip(labelled, reports) if studies[i].etiology]
    metrics["report_etiology_balanced_accuracy"] = {
        "value": balanced_accuracy([e for e, _ in pneumonia], [etiology_of_report(report) for _, report in pneumonia]),
        "unit": "share",
        "count": len(pneumonia),
    }

    rng = random.Random(args.seed)
    questions = [(i, *triple) for i, study in enumerate(studies) for triple in question_answers(study, rng)]
    questions = rng.sample(questions, min(args.num_questions, len(questions)))
    answers = answer(
        model, processor, [codes[i] for i, *_ in questions], [q for _, _, q, _ in questions], args.batch_size, "Answers"
    )
    right = defaultdict(list)
    for (i, kind, _, reference), text in zip(questions, answers):
        same = re.sub(r"\W+", " ", text.lower()) == re.sub(r"\W+", " ", reference.lower())
        right[f"vqa_{kind}_{studies[i].source}_accuracy"].append(same)
        right["vqa_accuracy"].append(same)
    for name, values in sorted(right.items()):
        metrics[name] = {"value": float(np.mean(values)), "unit": "share", "count": len(values)}

    texts = [label_report(rng.choice(studies), rng) for _ in range(args.num_images)]
    well_formed = count_well_formed(model, processor, texts, args.batch_size)
    metrics["well_formed_images_at_temperature_2"] = {"value": well_formed, "unit": "images", "count": args.num_images}

    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    lines = ["| metric | value | unit | over |", "|---|---|---|---|"]
    lines += [f"| {name} | {m['value']:.4g} | {m['unit']} | {m['count']} |" for name, m in metrics.items()]
    (output_dir / "metrics.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    shown = [
        next(i for i in labelled if (studies[i].etiology or "normal") == k) for k in ("normal", "bacterial", "viral")
    ]
    shown += [next(i for i, study in enumerate(studies) if study.source == "hannover")]
    chosen = [studies[i] for i in shown]
    originals = [label_report(study, rng) for study in chosen]
    picture(model, processor, chosen, originals, [codes[i] for i in shown], args.seed).save(output_dir / "images.png")


if __name__ == "__main__":
    main(*parse_arguments(Arguments))
