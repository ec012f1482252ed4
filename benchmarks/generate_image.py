"""
Image generation by `generate_image`, compared with `generate` and with the official way.

    python benchmarks/generate_image.py
    python benchmarks/generate_image.py --models embedded --num_images 1 8 --repeats 5 --output image.json
    python benchmarks/generate_image.py --models official --official_size pythia-410m
    python benchmarks/generate_image.py --models embedded --server http://localhost:8000

Models: `embedded` is the checkpoint of the package, `random` a random Llama of the shape of SmolLM2-135M, `official` a
random GPT-NeoX with the VQ-GAN, vocabulary and token layout of the released LLM-CXR. Measure the converted release
itself with `--models embedded --checkpoint FOLDER`.

Methods, all at temperature 1 and top-p 0.92, each including the decoding to pixels:

- `resampling`, the official way: `generate` without the grammar, one image at a time, repeated until exactly as many
  codes came out as an image has. The released code of LLM-CXR (arXiv 2305.11490) works this way. A random model
  practically never succeeds, so there one attempt is made and its time reported. In the token layout of the release
  the model also writes the tokens around an image, and an attempt ends when a whole image could be complete; the
  released code continues to 512 tokens, so its failed attempts take longer.
- `generate`: `model.generate` under the image grammar, all images in one batch.
- `generate_image`: `model.generate_image`, all images in one batch.
- `compiled`: the same with `compile_config=CompileConfig()`.
- `int8`, with `--methods int8` and `pip install torchao`: `compiled` with linear layers of the backbone in int8.
- `vllm`, with `--server`: the same by a server that runs the checkpoint. Its memory is not in the table.

Each method runs in its own process. It loads the model and warms up with a few codes, which also compiles the step;
then the methods of a model alternate for `--repeats` rounds. The table gives medians:

- "x official way": how many times as fast as `resampling`, at least.
- "memory floor": the share of the time in which the processor would read the weights that a code needs (the backbone
  without its embeddings, and the rows of the head for the codes) once for each of the codes.
- "start": seconds of the warm-up. Inductor keeps compiled code on the disk, so a second run is faster; set
  `TORCHINDUCTOR_FORCE_DISABLE_CACHES=1` to compile anew.
- "peak memory": memory above that after the warm-up.
- "whole images": the number of images and attempts in all rounds.
"""

import argparse
import contextlib
import statistics
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
import transformers
from alternating import PeakMemory, measure, write_results
from transformers import AutoProcessor, CompileConfig, GenerationMixin, GPTNeoXConfig, LlamaConfig
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging

import transformers_cxr
from transformers_cxr import CXRVQTokenizerConfig, LlmCxrConfig, LlmCxrForCausalLM

if TYPE_CHECKING:
    from transformers_cxr.serving.client import ServerModel

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
    seconds (`float`): wall time.
    peak_memory_bytes (`int`): peak memory above that at the start.
    """

    images: int
    attempts: int
    seconds: float = 0.0
    peak_memory_bytes: int = 0


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


class WarmUpEnd(Exception):
    """Ends a warm-up."""


class WarmUp(BaseStreamer):
    """Streamer that ends the generation after a few codes."""

    def __init__(self):
        self.steps = 0

    def put(self, value):
        self.steps += 1
        if self.steps == 4:
            raise WarmUpEnd

    def end(self):
        pass


def run_generate_image(
    model: "LlmCxrForCausalLM | ServerModel", prompt: torch.LongTensor, case: Case, **kwargs
) -> Run:
    codes = model.generate_image(prompt, num_images=case.num_images, **SAMPLING, **kwargs)
    with torch.no_grad():
        model.vq_tokenizer.decode(codes)
    return Run(images=len(codes), attempts=len(codes))


def run_compiled(model: LlmCxrForCausalLM, prompt: torch.LongTensor, case: Case, **kwargs) -> Run:
    return run_generate_image(model, prompt, case, compile_config=CompileConfig(), **kwargs)


def run_vllm(model: "ServerModel", prompt: torch.LongTensor, case: Case, streamer: BaseStreamer | None = None) -> Run:
    return run_generate_image(model, prompt, case, guidance_scale=1)


def run_generate(model: LlmCxrForCausalLM, prompt: torch.LongTensor, case: Case, **kwargs) -> Run:
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
        **kwargs,
    )
    new_ids = ids[:, prompt.shape[1] - given_codes :]
    with torch.no_grad():
        images = model.decode_image_tokens(new_ids[:, :num_codes])
    return Run(images=len(images), attempts=len(images))


def run_resampling(model: LlmCxrForCausalLM, prompt: torch.LongTensor, case: Case, **kwargs) -> Run:
    config = model.config
    num_codes = config.vq_config.num_image_tokens
    codes_end = config.image_token_offset + config.vq_config.codebook_size
    max_new_tokens, end_token_id = num_codes + 1, config.eoi_token_id
    if config.text_image_markers:
        # The model also writes the `<` at the end of our prompt, and `### End` after the `>`.
        prompt = prompt[:, :-1]
        max_new_tokens, end_token_id = num_codes + 3, model.generation_config.eos_token_id
    run = Run(images=0, attempts=0)
    while run.images < case.num_images and run.attempts < case.max_attempts * case.num_images:
        ids = GenerationMixin.generate(
            model,
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=max_new_tokens,
            eos_token_id=end_token_id,
            pad_token_id=0,
            **SAMPLING,
            **kwargs,
        )
        new_ids = ids[0, prompt.shape[1] :]
        code_ids = new_ids[(new_ids >= config.image_token_offset) & (new_ids < codes_end)]
        run.attempts += 1
        if len(code_ids) == num_codes:
            with torch.no_grad():
                model.decode_image_tokens(code_ids[None])
            run.images += 1
    return run


LOAD = {"embedded": load_embedded, "random": load_random, "official": load_official}
RUN = {
    "resampling": run_resampling,
    "generate": run_generate,
    "generate_image": run_generate_image,
    "compiled": run_compiled,
    "int8": run_compiled,
    "vllm": run_vllm,
}


def work(connection: Connection, args: argparse.Namespace, case: Case) -> None:
    """Load, warm up and send the bytes of the weights and the seconds; then send a [`Run`] for each seed received."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.manual_seed(0)
    model, prompt = LOAD[case.model](args)
    num_bytes, device = weight_bytes(model), model.device
    if case.method == "vllm":
        # Needs the extra `serve`.
        from transformers_cxr.serving.client import load_server_model

        model, _ = load_server_model(args.server, args.checkpoint)
    if case.method == "int8":
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(model.model.language_model, Int8DynamicActivationInt8WeightConfig())
    start = time.perf_counter()
    with contextlib.suppress(WarmUpEnd):
        RUN[case.method](model, prompt, case, streamer=WarmUp())
    connection.send((num_bytes, time.perf_counter() - start))
    while (seed := connection.recv()) is not None:
        torch.manual_seed(seed)
        start = time.perf_counter()
        with PeakMemory(device) as memory:
            run = RUN[case.method](model, prompt, case)
        run.seconds, run.peak_memory_bytes = time.perf_counter() - start, memory.bytes
        connection.send(run)


def weight_bytes(model: LlmCxrForCausalLM) -> int:
    """Return the bytes of the weights that are read for each code."""
    language_model, head = model.model.language_model, model.lm_head.weight
    embeddings = {id(module.weight) for module in language_model.modules() if isinstance(module, torch.nn.Embedding)}
    weights = [p for p in language_model.parameters() if id(p) not in embeddings]
    return sum(p.nbytes for p in weights) + model.config.vq_config.codebook_size * head[0].nbytes


def memory_bandwidth() -> float:
    """Return the bytes per second at which the processor reads memory: the best of several sums of 512 MiB."""
    values = torch.ones(2**27)
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        values.sum()
        seconds.append(time.perf_counter() - start)
    return values.nbytes / min(seconds)


def main(args: argparse.Namespace) -> None:
    bandwidth = memory_bandwidth()
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads, "
        f"{bandwidth / 1e9:.1f} GB/s\n"
    )
    columns = "seconds per image | x official way | memory floor | start | peak memory | whole images"
    print(f"| model | images | method | {columns} |")
    print("|---|---|---|---|---|---|---|---|---|")
    results = []
    for model in args.models:
        # A random model never succeeds in the official way: one failed attempt is enough.
        cases = [Case(model, "resampling", 1, args.max_attempts if model == "embedded" else 1)]
        cases += [Case(model, method, n, 1) for n in args.num_images for method in args.methods]
        measured = measure(work, args, cases)
        official = statistics.median(run.seconds / max(run.images, 1) for run in measured[0][2])
        for case, (num_bytes, start), runs in measured:
            seconds = statistics.median(run.seconds / max(run.images, 1) for run in runs)
            attempts, images = sum(run.attempts for run in runs), sum(run.images for run in runs)
            num_codes = LlmCxrConfig.from_pretrained(args.checkpoint).vq_config.num_image_tokens
            floor = num_bytes * num_codes / bandwidth / case.num_images / seconds
            peak = max(run.peak_memory_bytes for run in runs)
            print(
                f"| {case.model} | {case.num_images} | {case.method} | {seconds:.2f} | {official / seconds:.1f} | "
                f"{floor:.0%} | {start:.1f} s | {peak / 2**20:.0f} MiB | {images} of {attempts} |",
                flush=True,
            )
            results.append({**asdict(case), "start_seconds": start, "runs": [asdict(run) for run in runs]})
    write_results(args.output, results)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=LOAD, default=list(LOAD))
    parser.add_argument("--num_images", nargs="+", type=int, default=[1, 8, 32], help="images generated at once")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=["generate", "generate_image", "compiled", "int8"],
        default=["generate", "generate_image", "compiled"],
        help="methods beside `resampling`",
    )
    parser.add_argument("--server", help="URL of a server that runs the checkpoint, for the method `vllm`")
    parser.add_argument("--repeats", type=int, default=3, help="number of rounds")
    parser.add_argument("--max_attempts", type=int, default=20, help="attempts per image before resampling gives up")
    parser.add_argument("--checkpoint", help="checkpoint folder; default: the embedded one")
    parser.add_argument("--random_layers", type=int, default=30, help="layers of the random Llama, 30 in SmolLM2-135M")
    parser.add_argument("--official_size", choices=OFFICIAL_SIZES, default="pythia-160m", help="shape of `official`")
    parser.add_argument("--output", help="JSON file for the single runs")
    args = parser.parse_args()
    if args.server:
        args.methods = [*args.methods, "vllm"]
        if args.models != ["embedded"]:
            parser.error("`--server` needs `--models embedded`: a server runs one checkpoint, that of `--checkpoint`.")
    args.checkpoint = args.checkpoint or str(transformers_cxr.checkpoint("llm-cxr"))
    return args


if __name__ == "__main__":
    main(parse_args())
