"""
Speed of the image tokenizer relative to the modules of taming-transformers with the same weights.

    python benchmarks/vq_tokenizer.py
    python benchmarks/vq_tokenizer.py --models paper --batch_sizes 1 --repeats 3
    python benchmarks/vq_tokenizer.py --variants taming eager channels_last compile openvino --data_dir DATA

Models: `embedded` is the tokenizer of the embedded checkpoint, `paper` the VQ-GAN of LLM-CXR (f16, 69 M parameters)
with random weights.

Variants:

- `taming`: encoder, quantizer and decoder of taming-transformers, with the same weights.
- `eager`: `CXRVQTokenizer.encode` and `decode`.
- `channels_last`: the same after `tokenizer.to(memory_format=torch.channels_last)`.
- `compile`: the same after `tokenizer.vq_model.encoder.compile()` and `tokenizer.vq_model.decoder.compile()`.
- `openvino`: encoder and decoder as OpenVINO models in fp32 (`pip install openvino`).

Each variant runs in its own process: it loads the model, encodes and decodes once to warm up, and compares with
`eager`; then the variants alternate for `--repeats` rounds. The table gives medians. "x taming" is the rate relative
to `taming`, "other codes" the number of codes in the batch that differ from `eager`, "other pixels" the largest
difference of the decoded images in [-1, 1]. The images are those of `--data_dir`, by default of `examples/images`;
they repeat if the batch is larger.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import transformers
from alternating import PeakMemory, measure, write_results
from torch import nn
from torch.nn import functional as F
from transformers.utils import logging

import transformers_cxr
from transformers_cxr import CXRVQTokenizer, CXRVQTokenizerConfig, LlmCxrForCausalLM, LlmCxrImageProcessor
from transformers_cxr.conversion.taming import taming_ddconfig, vq_tokenizer_to_taming
from transformers_cxr.data.store import open_records

IMAGES = Path(__file__).parents[1] / "examples" / "images"


@dataclass(frozen=True)
class Case:
    model: str
    batch_size: int
    variant: str


@dataclass
class Warmup:
    """
    peak_memory (`int`): bytes above the loaded model.
    other_codes (`int`): number of codes in the batch that differ from `eager`.
    other_pixels (`float`): largest pixel difference to `eager`.
    seconds (`float`): time of the first encoding and decoding, including compilation.
    """

    peak_memory: int
    other_codes: int
    other_pixels: float
    seconds: float


def load_embedded(pixel_values: torch.FloatTensor) -> CXRVQTokenizer:
    return LlmCxrForCausalLM.from_pretrained(transformers_cxr.checkpoint("llm-cxr")).vq_tokenizer


def load_paper(pixel_values: torch.FloatTensor) -> CXRVQTokenizer:
    tokenizer = CXRVQTokenizer(CXRVQTokenizerConfig()).eval()
    # Spread the codes over the latents of the images; with a random codebook all images get the same codes.
    vectors = tokenizer.vq_model.encode(pixel_values[:1]).latents.movedim(1, -1).flatten(0, -2)
    rows = torch.randint(len(vectors), (tokenizer.config.codebook_size,))
    tokenizer.codebook.copy_(vectors[rows] + 0.1 * vectors.std() * torch.randn(tokenizer.codebook.shape))
    return tokenizer


LOAD = {"embedded": load_embedded, "paper": load_paper}


class TamingVQGAN(nn.Module):
    """The modules of `taming.models.vqgan.VQModel`, without Lightning and losses, with the weights of a tokenizer."""

    def __init__(self, tokenizer: CXRVQTokenizer):
        from taming.modules.diffusionmodules import model
        from taming.modules.vqvae.quantize import VectorQuantizer2

        super().__init__()
        config = tokenizer.config
        # taming-transformers is fixed to 32 groups; the embedded tokenizer has fewer.
        model.Normalize = lambda width: nn.GroupNorm(config.norm_num_groups, width, eps=1e-6)
        settings = taming_ddconfig(config)
        # With patches, the modules of taming-transformers see them as pixels.
        settings["resolution"] //= config.patch_size
        settings["in_channels"] *= config.patch_size**2
        settings["out_ch"] = tokenizer.vq_model.decoder.conv_out.out_channels
        self.patch_size, self.to_pixels = config.patch_size, tokenizer.to_pixels
        self.encoder = model.Encoder(**settings)
        self.decoder = model.Decoder(**settings)
        self.quantize = VectorQuantizer2(config.codebook_size, config.codebook_dim, beta=0.25)
        self.quant_conv = nn.Conv2d(config.latent_channels, config.codebook_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.codebook_dim, config.latent_channels, 1)
        self.grid_size = config.grid_size
        self.load_state_dict(vq_tokenizer_to_taming(tokenizer))
        self.eval()

    def encode(self, pixel_values: torch.FloatTensor) -> torch.LongTensor:
        patches = F.pixel_unshuffle(pixel_values, self.patch_size)
        _, _, (_, _, codes) = self.quantize(self.quant_conv(self.encoder(patches)))
        return codes.view(len(pixel_values), -1)

    def decode(self, codes: torch.LongTensor) -> torch.FloatTensor:
        shape = (len(codes), self.grid_size, self.grid_size, self.quantize.e_dim)
        quantized = self.quantize.get_codebook_entry(codes.flatten(), shape)
        return self.to_pixels(self.decoder(self.post_quant_conv(quantized))).clamp(-1, 1)


class OpenVinoModule(nn.Module):
    def __init__(self, module: nn.Module, example: torch.FloatTensor):
        import openvino

        super().__init__()
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        converted = openvino.convert_model(module, example_input=example)
        self.compiled = openvino.Core().compile_model(converted, "CPU", settings)

    def forward(self, values: torch.FloatTensor) -> torch.FloatTensor:
        return torch.from_numpy(self.compiled(values.numpy())[0])


def prepare(tokenizer: CXRVQTokenizer, variant: str, pixel_values: torch.FloatTensor) -> nn.Module:
    if variant == "taming":
        return TamingVQGAN(tokenizer)
    vq_model = tokenizer.vq_model
    if variant == "channels_last":
        tokenizer.to(memory_format=torch.channels_last)
    elif variant == "compile":
        vq_model.encoder.compile()
        vq_model.decoder.compile()
    elif variant == "openvino":
        hidden = vq_model.encoder(pixel_values)
        vq_model.encoder = OpenVinoModule(vq_model.encoder, pixel_values)
        vq_model.decoder = OpenVinoModule(vq_model.decoder, hidden)
    return tokenizer


def timed(function: Callable, values: torch.Tensor) -> float:
    start = time.perf_counter()
    function(values)
    return time.perf_counter() - start


@torch.no_grad()
def work(connection: Connection, args: argparse.Namespace, case: Case) -> None:
    """Load, run once and send a [`Warmup`]; then send the seconds of encoding and decoding for each round."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.manual_seed(0)
    processor = LlmCxrImageProcessor(do_convert_rgb=case.model == "paper")
    images = [args.paths[i % len(args.paths)] for i in range(case.batch_size)]
    pixel_values = processor(images, return_tensors="pt").pixel_values
    tokenizer = LOAD[case.model](pixel_values).eval().requires_grad_(False)
    codes = tokenizer.encode(pixel_values)
    decoded = tokenizer.decode(codes)
    with PeakMemory(pixel_values.device) as memory:
        start = time.perf_counter()
        model = prepare(tokenizer, case.variant, pixel_values)
        other_codes = (model.encode(pixel_values) != codes).sum().item()
        other_pixels = (model.decode(codes) - decoded).abs().max().item()
        seconds = time.perf_counter() - start
    connection.send(Warmup(memory.bytes, other_codes, other_pixels, seconds))
    while connection.recv() is not None:
        connection.send((timed(model.encode, pixel_values), timed(model.decode, codes)))


def main(args: argparse.Namespace) -> None:
    args.paths = [record.image for record in open_records(args.data_dir, "validation")]
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads\n")
    rates = "encode, images/s | x taming | decode, images/s | x taming"
    print(f"| model | batch | variant | {rates} | other codes | other pixels | first run, s | peak memory |")
    print("|---" * 11 + "|")
    results = []
    for model in args.models:
        for batch_size in args.batch_sizes:
            measured = measure(work, args, [Case(model, batch_size, variant) for variant in args.variants])
            medians = {c.variant: [statistics.median(times) for times in zip(*runs)] for c, _, runs in measured}
            for case, warmup, runs in measured:
                cells = []
                for seconds, theirs in zip(medians[case.variant], medians[args.variants[0]]):
                    cells += [f"{batch_size / seconds:.2f}", f"{theirs / seconds:.2f}"]
                print(
                    f"| {model} | {batch_size} | `{case.variant}` | {' | '.join(cells)} | {warmup.other_codes} of "
                    f"{batch_size * 256} | {warmup.other_pixels:.0e} | {warmup.seconds:.1f} | "
                    f"{warmup.peak_memory / 2**20:.0f} MiB |",
                    flush=True,
                )
                results.append({**asdict(case), **asdict(warmup), "encode_and_decode_seconds": runs})
    write_results(args.output, results)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=LOAD, default=["embedded", "paper"])
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 8], help="images at once")
    variants = ["taming", "eager", "channels_last", "compile", "openvino"]
    parser.add_argument(
        "--variants", nargs="+", choices=variants, default=variants[:3], help="the first is the baseline"
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the table gives medians")
    parser.add_argument("--data_dir", default=IMAGES, help="folder of images")
    parser.add_argument("--output", help="JSON file for the single runs")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main(parse_args())
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"Error: {error}")
