"""
Write the embedded checkpoint: a trained model with its settings of image generation, the language model in bf16. Its
model card is that of the training; `transformers-cxr get` adds the code.

    python examples/embedded_checkpoint/publish.py --model runs/embedded/dpo/final \
        --output_dir runs/embedded/llm-cxr

It loads in fp32 all the same, and the image tokenizer stays in fp32 on disk, because rounding changes codes.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch

from transformers_cxr import LlmCxrForCausalLM, LlmCxrProcessor
from transformers_cxr.training import run_script


@dataclass
class Arguments:
    model: str = field(metadata={"help": "trained LLM-CXR"})
    output_dir: str = field(metadata={"help": "folder to write"})
    guidance_scale: float = field(default=3.0, metadata={"help": "classifier-free guidance of image generation"})
    top_p: float = field(default=0.9, metadata={"help": "nucleus of image generation"})
    min_chest_xray_score: float = field(
        default=0.75, metadata={"help": "lowest score of chest X-rays, see benchmarks/chest_xray_check.py"}
    )


def main(args: Arguments):
    model = LlmCxrForCausalLM.from_pretrained(args.model)
    model.generation_config.image_generation = {"guidance_scale": args.guidance_scale, "top_p": args.top_p}
    model.config.min_chest_xray_score = args.min_chest_xray_score
    # Adults have too few X-rays of more than 64x64 pixels.
    model.generation_config.weak_image_words = ["adult", "man", "woman"]
    weights = {
        name: value if name.startswith("model.vq_tokenizer") else value.to(torch.bfloat16)
        for name, value in model.state_dict().items()
    }
    model.save_pretrained(args.output_dir, state_dict=weights)
    LlmCxrProcessor.from_pretrained(args.model).save_pretrained(args.output_dir)
    shutil.copy(Path(args.model) / "README.md", args.output_dir)


if __name__ == "__main__":
    run_script(main, Arguments)
