"""
Time and peak memory of `transformers-cxr convert`, on a random checkpoint in the format of the released LLM-CXR.

    python benchmarks/convert.py
    python benchmarks/convert.py --size dolly-v2-3b --dtype bfloat16
    python benchmarks/convert.py --size tiny

Sizes: `pythia-410m` is 1.6 GB in fp32; `dolly-v2-3b` is the size of the released LLM-CXR, 5.7 GB in bf16. Both use the
VQ-GAN of LLM-CXR. The weights are written by `torch.save` as `--shards` files to a temporary folder, which needs twice
their size on disk. Building and conversion run in their own processes. The peak memory is the largest resident set of
the conversion, including the pages of memory-mapped files.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Hidden size, layers, attention heads.
SIZES = {"tiny": (64, 2, 4), "pythia-410m": (1024, 24, 16), "dolly-v2-3b": (2560, 32, 32)}
TEXT_TOKENS, CODEBOOK_SIZE = 50281, 1024
INSTRUCTION_TOKENS = ["### End", "### Instruction:", "### Response:\n"]
MB = 2**20


def write_tokenizer(folder: Path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {token: i for i, token in enumerate(["<|endoftext|>", *pre_tokenizers.ByteLevel.alphabet()])}
    while len(vocabulary) < TEXT_TOKENS - len(INSTRUCTION_TOKENS):
        vocabulary[f"unused{len(vocabulary)}"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(INSTRUCTION_TOKENS)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "GPTNeoXTokenizer", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def build(folder: Path, size: str, dtype: str, shards: int):
    import torch
    from transformers import AutoModelForCausalLM, GPTNeoXConfig

    from transformers_cxr import CXRVQTokenizer, CXRVQTokenizerConfig
    from transformers_cxr.conversion.taming import export_vq_gan

    torch.manual_seed(0)
    hidden_size, layers, heads = SIZES[size]
    config = GPTNeoXConfig(
        vocab_size=TEXT_TOKENS + CODEBOOK_SIZE,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden_size,
        tie_word_embeddings=False,
    )
    folder.mkdir()
    config.save_pretrained(folder)
    write_tokenizer(folder)
    with torch.device("meta"):
        state = AutoModelForCausalLM.from_config(config).state_dict()
    shapes = {name.replace("lm_head.", "embed_out."): tensor.shape for name, tensor in state.items()}
    names, per_shard = list(shapes), -(-len(shapes) // shards)
    weight_map = {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        part = names[number * per_shard : (number + 1) * per_shard]
        torch.save(
            {name: torch.randn(shapes[name], dtype=getattr(torch, dtype)) * 0.02 for name in part}, folder / file
        )
        weight_map |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    channels = (32, 32, 32, 32, 32) if size == "tiny" else (128, 128, 256, 256, 512)
    export_vq_gan(CXRVQTokenizer(CXRVQTokenizerConfig(block_out_channels=channels)), folder.parent / "vq-gan")


def run(command: list[str]) -> tuple[float, float]:
    """Run a process; return its seconds and peak MB. The memory of the parent counts, so it imports little."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"{' '.join(command)} failed.")
    return seconds, usage.ru_maxrss / (MB if sys.platform == "darwin" else 1024)


def main(size: str, dtype: str, shards: int):
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "language-model"
        run([__file__, "--size", size, "--dtype", dtype, "--shards", str(shards), "--build", str(folder)])
        entry = ["-c", "from transformers_cxr.cli.main import main; main()"]
        vq_gan = [
            "--vq-gan-config",
            f"{temporary}/vq-gan/vq_gan.yaml",
            "--vq-gan-checkpoint",
            f"{temporary}/vq-gan/vq_gan.ckpt",
        ]
        output = Path(temporary) / "output"
        base = run(["-c", "import transformers_cxr.conversion.official"])[1]
        seconds, peak = run([*entry, "convert", "--language-model", str(folder), *vq_gan, "--output", str(output)])
        sizes = [file.stat().st_size / MB for file in folder.glob("*.bin")]
    print("| language model | MB | largest shard, MB | seconds | peak MB | imports alone, MB | peak / shard |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {size}, {dtype} | {sum(sizes):.0f} | {max(sizes):.0f} | {seconds:.1f} | {peak:.0f} | {base:.0f} | "
        f"{peak / max(sizes):.2f} |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="pythia-410m")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--shards", type=int, default=4, help="files of the language model")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    arguments = vars(parser.parse_args())
    if folder := arguments.pop("build"):
        build(folder, **arguments)
    else:
        main(**arguments)
