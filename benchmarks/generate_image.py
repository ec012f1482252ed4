"""
Image generation by `generate_image`, compared with `generate` and with resampling.

    python benchmarks/generate_image.py
    python benchmarks/generate_image.py --models embedded --num_images 1 8 --repeats 5 --output image.json
    python benchmarks/generate_image.py --models official --official_size pythia-410m

Models: `embedded` is the checkpoint of the package, `random` a random Llama of the shape of SmolLM2-135M, `official` a
random GPT-NeoX with the VQ-GAN, vocabulary and token layout of the released LLM-CXR. Measure the converted release
itself with `--models embedded --checkpoint FOLDER`.

Methods, all at temperature 1 and top-p 0.92, each including the decoding to pixels:

- `generate_image`: `model.generate_image`, all images in one batch.
- `generate`: `model.generate` under the image grammar, all images in one batch.
- `resampling`: `generate` without the grammar, one image at a time, repeated until exactly as many codes came out as
  an image has. The released code of LLM-CXR (arXiv 2305.11490) works this way. A random model practically never
  succeeds, so there one attempt per image is made and its time reported. In the token layout of the release the model
  also writes the tokens around an image, and an attempt ends when a whole image could be complete; the released code
  continues to 512 tokens, so its failed attempts take longer.

Each method runs in its own process: it loads the model and generates once to warm up while its memory is measured;
then the methods alternate for `--repeats` rounds. The table gives medians. "Time / generate" is the seconds per image
relative to `generate`, "peak memory" the memory above the loaded model, "whole images" the number of images and
attempts in all rounds.
"""

import argparse
import statistics
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection

import torch
import torch.nn.functional as F
import transformers
from alternating import PeakMemory, measure, write_results
from transformers import AutoProcessor, GenerationMixin, GPTNeoXConfig, LlamaConfig
from transformers.utils import logging

import transformers_cxr
from transformers_cxr import CXRVQTokenizerConfig, LlmCxrConfig, LlmCxrForCausalLM

TEXT = (
    "FINDINGS: This is a chest X-ray of a child, AP view. The X-ray shows no sign of pneumonia.\n"
    "IMPRESSION: Normal chest X-ray."
)
# Hidden size, layers and attention heads. LLM-CXR is a dolly-v2-3b.
OFFICIAL_SIZES = {
    "pythia-14m": (128, 6, 4),
    "pythia-160m": (768, 12, 12),
    "pythia-410m": (1024, 24, 16),
    "dolly-v2-3b": (2560, 32, 32),
}
SAMPLING = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 0.92}


@dataclass(frozen=True)
class Case:
    model: str
    method: str
    num_images: int
    max_attempts: int


@dataclass
class Run:
    """
    images (`int`): number of whole images.
    attempts (`int`): number of attempts.
    tokens (`int`): generated tokens, including those of failed attempts.
    seconds (`float`): wall time.
    """

    images: int
    attempts: int
    tokens: int
    seconds: float = 0.0

    @property
    def seconds_an_image(self) -> float:
        return self.seconds / self.images if self.images else float("inf")


def load_embedded(args: argparse.Namespace) -> tuple[LlmCxrForCausalLM, torch.LongTensor]:
    """Return the checkpoint and a prompt, of shape `(1, sequence_length)`, that ends with the begin-of-image token."""
    model = LlmCxrForCausalLM.from_pretrained(args.checkpoint).eval()
    processor = AutoProcessor.from_pretrained(args.checkpoint)
    content = [{"type": "text", "text": text} for text in (processor.image_instruction, TEXT)]
    prompt = processor.encode_prompts([[{"role": "user", "content": content}]])
    return model, F.pad(prompt.input_ids, (0, 1), value=processor.boi_token_id)


def load_random(args: argparse.Namespace) -> tuple[LlmCxrForCausalLM, torch.LongTensor]:
    """Return a random Llama with a VQ-GAN of the checkpoint's shape, and a prompt of 64 random tokens."""
    vq_config = LlmCxrConfig.from_pretrained(args.checkpoint).vq_config
    text_tokens = 49152
    # As `LlmCxrProcessor.from_tokenizer` numbers them: three tokens of the instruction format come first.
    text_config = LlamaConfig(
        vocab_size=text_tokens + 6 + vq_config.codebook_size,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=args.random_layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    config = LlmCxrConfig(
        text_config=text_config,
        vq_config=vq_config,
        image_token_id=text_tokens + 3,
        boi_token_id=text_tokens + 4,
        eoi_token_id=text_tokens + 5,
        image_token_offset=text_tokens + 6,
    )
    model = LlmCxrForCausalLM(config).eval()
    prompt = torch.cat([torch.randint(3, text_tokens, (1, 63)), torch.tensor([[config.boi_token_id]])], dim=1)
    return model, prompt


def load_official(args: argparse.Namespace) -> tuple[LlmCxrForCausalLM, torch.LongTensor]:
    """Return a random GPT-NeoX in the layout of the released LLM-CXR, and a prompt of 64 random tokens."""
    hidden_size, num_layers, num_heads = OFFICIAL_SIZES[args.official_size]
    vq_config = CXRVQTokenizerConfig()
    # 50,281 text tokens, then the codes; `<` and `>` are the 29th and 31st, `### End` the fourth from the end.
    text_tokens = 50281
    text_config = GPTNeoXConfig(
        vocab_size=text_tokens + vq_config.codebook_size,
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
    )
    config = LlmCxrConfig(
        text_config=text_config,
        vq_config=vq_config,
        image_token_id=text_tokens + vq_config.codebook_size,
        boi_token_id=29,
        eoi_token_id=31,
        image_token_offset=text_tokens,
        text_image_markers=True,
    )
    model = LlmCxrForCausalLM(config).eval()
    model.generation_config.eos_token_id = text_tokens - 4
    prompt = torch.cat([torch.randint(32, text_tokens - 4, (1, 63)), torch.tensor([[config.boi_token_id]])], dim=1)
    return model, prompt


def run_generate_image(model: LlmCxrForCausalLM, prompt: torch.LongTensor, case: Case) -> Run:
    codes = model.generate_image(prompt, num_images=case.num_images, **SAMPLING)
    return Run(images=len(codes), attempts=len(codes), tokens=codes.numel())


def run_generate(model: LlmCxrForCausalLM, prompt: torch.LongTensor, case: Case) -> Run:
    num_codes = model.config.vq_config.num_image_tokens
    given_codes = 0
    if model.config.text_image_markers:
        # `<` may also be text: the first code marks the image.
        given_codes = 1
        prompt = torch.cat([prompt, torch.tensor([[model.config.image_token_offset]])], dim=1)
    ids = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=num_codes - given_codes + 1,
        num_return_sequences=case.num_images,
        pad_token_id=0,
        **SAMPLING,
    )
    new_ids = ids[:, prompt.shape[1] - given_codes :]
    with torch.no_grad():
        images = model.decode_image_tokens(new_ids[:, :num_codes])
    return Run(images=len(images), attempts=len(images), tokens=new_ids.numel())


def run_resampling(model: LlmCxrForCausalLM, prompt: torch.LongTensor, case: Case) -> Run:
    config = model.config
    num_codes = config.vq_config.num_image_tokens
    codes_end = config.image_token_offset + config.vq_config.codebook_size
    max_new_tokens, end_token_id = num_codes + 1, config.eoi_token_id
    if config.text_image_markers:
        # The model also writes the `<` at the end of our prompt, and `### End` after the `>`.
        prompt = prompt[:, :-1]
        max_new_tokens, end_token_id = num_codes + 3, model.generation_config.eos_token_id
    run = Run(images=0, attempts=0, tokens=0)
    while run.images < case.num_images and run.attempts < case.max_attempts * case.num_images:
        ids = GenerationMixin.generate(
            model,
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=max_new_tokens,
            eos_token_id=end_token_id,
            pad_token_id=0,
            **SAMPLING,
        )
        new_ids = ids[0, prompt.shape[1] :]
        code_ids = new_ids[(new_ids >= config.image_token_offset) & (new_ids < codes_end)]
        run.attempts += 1
        run.tokens += len(new_ids)
        if len(code_ids) == num_codes:
            with torch.no_grad():
                model.decode_image_tokens(code_ids[None])
            run.images += 1
    return run


LOAD = {"embedded": load_embedded, "random": load_random, "official": load_official}
RUN = {"generate": run_generate, "generate_image": run_generate_image, "resampling": run_resampling}


def work(connection: Connection, args: argparse.Namespace, case: Case) -> None:
    """Load, generate once and send the peak memory in bytes; then send a [`Run`] for each seed received."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.manual_seed(0)
    model, prompt = LOAD[case.model](args)
    # The first attempt of resampling reaches the peak.
    with PeakMemory(model.device) as memory:
        RUN[case.method](model, prompt, Case(case.model, case.method, case.num_images, max_attempts=1))
    connection.send(memory.bytes)
    while (seed := connection.recv()) is not None:
        torch.manual_seed(seed)
        start = time.perf_counter()
        run = RUN[case.method](model, prompt, case)
        run.seconds = time.perf_counter() - start
        connection.send(run)


def table_row(case: Case, peak: int, runs: list[Run], seconds_of: dict[str, float]) -> str:
    seconds = seconds_of[case.method]
    attempts, images = sum(run.attempts for run in runs), sum(run.images for run in runs)
    tokens_per_second = statistics.median(run.tokens / run.seconds for run in runs)
    time_cell, more = f"{seconds:.2f}", ""
    if seconds == float("inf"):
        seconds = statistics.median(run.seconds / run.attempts for run in runs)
        time_cell, more = f"{seconds:.2f} an attempt, no image", "> "
    ratios = " | ".join(f"{more}{seconds / seconds_of[method]:.2f}" for method in ("generate", "generate_image"))
    return (
        f"| {case.model} | {case.num_images} | {case.method} | {time_cell} | {ratios} | {tokens_per_second:.0f} | "
        f"{peak / 2**20:.0f} MiB | {images} of {attempts} |"
    )


def main(args: argparse.Namespace) -> None:
    groups = []
    for model in args.models:
        for num_images in args.num_images:
            # One failed attempt of the random Llama is enough.
            methods = [m for m in RUN if not (m == "resampling" and model == "random" and num_images > 1)]
            attempts = args.max_attempts if model == "embedded" else 1
            groups.append([Case(model, method, num_images, attempts) for method in methods])

    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads\n")
    ratios = "time / generate | time / generate_image"
    print(f"| model | images | method | seconds per image | {ratios} | tokens/s | peak memory | whole images |")
    print("|---|---|---|---|---|---|---|---|---|")
    results = []
    for group in groups:
        measured = measure(work, args, group)
        seconds_of = {c.method: statistics.median(run.seconds_an_image for run in runs) for c, _, runs in measured}
        for case, peak, runs in measured:
            print(table_row(case, peak, runs, seconds_of), flush=True)
            results.append({**asdict(case), "peak_memory_bytes": peak, "runs": [asdict(run) for run in runs]})
    write_results(args.output, results)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=LOAD, default=["embedded", "random"])
    parser.add_argument("--num_images", nargs="+", type=int, default=[1, 8], help="images generated at once")
    parser.add_argument("--repeats", type=int, default=3, help="number of rounds")
    parser.add_argument("--max_attempts", type=int, default=20, help="attempts per image before resampling gives up")
    parser.add_argument("--checkpoint", help="checkpoint folder; default: the embedded one")
    parser.add_argument("--random_layers", type=int, default=30, help="layers of the random Llama, 30 in SmolLM2-135M")
    parser.add_argument("--official_size", choices=OFFICIAL_SIZES, default="pythia-160m", help="shape of `official`")
    parser.add_argument("--output", help="JSON file for the single runs")
    args = parser.parse_args()
    args.checkpoint = args.checkpoint or str(transformers_cxr.checkpoint("llm-cxr"))
    return args


if __name__ == "__main__":
    main(parse_args())
