"""
Ways to learn a codebook, at equal compute: the same small VQ-GAN, images, steps and seed with each quantizer.

    python benchmarks/codebooks.py --data_dir DATA
    python benchmarks/codebooks.py --data_dir DATA --ways default rotation --steps 1200

Ways, of 1,024 codes each but for FSQ:

- `plain`: nearest code, straight-through gradient and a random codebook, as in taming-transformers.
- `initialized`: the codebook filled from the latents of step `--initialize_step`.
- `default`: that, and dead codes moved onto latents, as `examples/train_vq_gan.py` does by default.
- `ema`: `default` with the codes as moving averages of their latents in the place of a loss (arXiv 1711.00937, appendix A.1).
- `cosine`: `default` with latents and codes on the unit sphere (arXiv 2110.04627, section 3.2).
- `rotation`: `default` with the gradient turned from the code to the latent (arXiv 2410.06424, section 4).
- `fsq`: latents rounded to 8, 5, 5 and 5 levels, 1,000 codes (arXiv 2309.15505).
- `lookup_free`: the signs of ten latents, with the entropy penalty (arXiv 2310.05737, section 3.1).

The images of the train split are trained on; PSNR, use and perplexity of the codebook are those of the validation split.
`DATA` is a folder as `examples/train_vq_gan.py` takes it.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import get_scheduler

from transformers_cxr import CXRVQTokenizer, CXRVQTokenizerConfig, LlmCxrImageProcessor
from transformers_cxr.data.readers.image_folder import list_images
from transformers_cxr.evaluation.metrics.reconstruction import codebook_statistics
from transformers_cxr.training.vq_gan.codebook import CodebookKeeper
from transformers_cxr.training.vq_gan.losses import reconstruction_loss

FSQ_LEVELS = (8, 5, 5, 5)
BITS = 10


def straight_through(latents: torch.FloatTensor, quantized: torch.FloatTensor) -> torch.FloatTensor:
    return latents + (quantized - latents).detach()


class Nearest(nn.Module):
    """
    The nearest code. `forward` takes latents `(num_latents, codebook_dim)` and gives the quantized ones with the gradient of
    the latents, the loss of the quantizer, and the codes `(num_latents,)`.
    """

    codebook_dim = 16

    def __init__(self, codebook: nn.Parameter):
        super().__init__()
        self.codebook = codebook

    def forward(self, latents):
        codes = torch.cdist(latents, self.codebook).argmin(dim=1)
        quantized = self.codebook[codes]
        # In the weighting of taming-transformers, which `CXRVQTokenizer` has too.
        loss = F.mse_loss(latents, quantized.detach()) + 0.25 * F.mse_loss(quantized, latents.detach())
        return self.pass_gradient(latents, quantized), loss, codes

    def pass_gradient(self, latents, quantized):
        return straight_through(latents, quantized)

    def after_step(self, latents, codes):
        """Called with the latents and codes of a training step, without gradient."""


class Ema(Nearest):
    def __init__(self, codebook, decay: float = 0.99):
        super().__init__(codebook.requires_grad_(False))
        self.decay = decay
        self.counts = torch.ones(len(codebook))

    def after_step(self, latents, codes):
        # A code that was moved goes on from where it is.
        sums = self.codebook * self.counts[:, None]
        sums.lerp_(torch.zeros_like(sums).index_add_(0, codes, latents), 1 - self.decay)
        self.counts.lerp_(torch.bincount(codes, minlength=len(self.counts)).float(), 1 - self.decay).clamp_(min=1e-5)
        self.codebook.copy_(sums / self.counts[:, None])


class Cosine(Nearest):
    def forward(self, latents):
        latents, codebook = F.normalize(latents, dim=1), F.normalize(self.codebook, dim=1)
        codes = (latents @ codebook.T).argmax(dim=1)
        quantized = codebook[codes]
        loss = F.mse_loss(latents, quantized.detach()) + 0.25 * F.mse_loss(quantized, latents.detach())
        return straight_through(latents, quantized), loss, codes


class Rotation(Nearest):
    def pass_gradient(self, latents, quantized):
        with torch.no_grad():
            scale = quantized.norm(dim=1, keepdim=True) / latents.norm(dim=1, keepdim=True)
            source, target = F.normalize(latents, dim=1), F.normalize(quantized, dim=1)
            middle = F.normalize(source + target, dim=1)

        def dot(first, second):
            return (first * second).sum(dim=1, keepdim=True)

        # The rotation of the plane of both that takes the one to the other, constant in the backward pass.
        return scale * (latents - 2 * dot(middle, latents) * middle + 2 * dot(source, latents) * target)


class Fsq(Nearest):
    codebook_dim = len(FSQ_LEVELS)

    def __init__(self, codebook):
        super().__init__(codebook.requires_grad_(False))
        self.levels = torch.tensor(FSQ_LEVELS)
        self.basis = torch.tensor([1, *FSQ_LEVELS[:-1]]).cumprod(0)

    def forward(self, latents):
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        bounded = (latents + (offset / half).atanh()).tanh() * half - offset
        rounded = straight_through(bounded, bounded.round())
        codes = ((rounded.detach().round().long() + self.levels // 2) * self.basis).sum(dim=1)
        return rounded / (self.levels // 2), latents.new_zeros(()), codes


class LookupFree(Nearest):
    codebook_dim = BITS

    def __init__(self, codebook):
        super().__init__(codebook.requires_grad_(False))

    def forward(self, latents):
        signs = torch.where(latents > 0, 1.0, -1.0)
        codes = ((signs > 0).long() << torch.arange(BITS)).sum(dim=1)

        def entropy(p):
            return F.binary_cross_entropy(p, p, reduction="none").sum(dim=-1)

        # The probability of a sign is the softmax of the negative squared distances to both.
        probability = (4 * latents).sigmoid()
        penalty = entropy(probability).mean() - entropy(probability.mean(dim=0))
        loss = 0.25 * F.mse_loss(latents, signs) + 0.1 * penalty
        return straight_through(latents, signs), loss, codes


# Quantizer, whether the codebook is initialized from the data, whether dead codes are revived.
WAYS: dict[str, tuple[Callable, bool, bool]] = {
    "plain": (Nearest, False, False),
    "initialized": (Nearest, True, False),
    "default": (Nearest, True, True),
    "ema": (Ema, True, True),
    "cosine": (Cosine, True, True),
    "rotation": (Rotation, True, True),
    "fsq": (Fsq, False, False),
    "lookup_free": (LookupFree, False, False),
}


def load_images(args: argparse.Namespace, split: str, number: int) -> torch.ByteTensor:
    """Images evenly from the split, `(number, 1, image_size, image_size)`."""
    paths, _ = list_images(args.data_dir, split)
    paths = [paths[i * len(paths) // number] for i in range(min(number, len(paths)))]
    size = {"height": args.image_size, "width": args.image_size}
    processor = LlmCxrImageProcessor(size={"shortest_edge": args.image_size}, crop_size=size, do_convert_rgb=False)
    images = [processor(path, return_tensors="pt").pixel_values for path in tqdm(paths, desc=f"Reading {split}")]
    return (torch.cat(images) * 127.5 + 127.5).round().byte()


def to_pixels(images: torch.ByteTensor) -> torch.FloatTensor:
    return images.float() / 127.5 - 1


def train(args: argparse.Namespace, way: str, train_images: torch.ByteTensor, images: torch.ByteTensor) -> dict:
    torch.manual_seed(args.seed)
    quantizer_class, initializes, revives = WAYS[way]
    tokenizer = CXRVQTokenizer(
        CXRVQTokenizerConfig(
            image_size=args.image_size,
            in_channels=1,
            block_out_channels=args.block_out_channels,
            layers_per_block=1,
            attention_levels=(),
            latent_channels=64,
            norm_num_groups=4,
            codebook_size=1024,
            codebook_dim=quantizer_class.codebook_dim,
        )
    )
    quantizer = quantizer_class(tokenizer.codebook)
    keeper = CodebookKeeper(tokenizer)
    trained = [parameter for parameter in tokenizer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    schedule = get_scheduler("cosine", optimizer, args.steps // 20, args.steps)
    order = torch.randint(len(train_images), (args.steps, args.batch_size), generator=torch.Generator().manual_seed(0))

    def forward(pixel_values):
        grid = tokenizer.vq_model.encode(pixel_values).latents
        latents = grid.movedim(1, -1).flatten(0, -2)
        quantized, loss, codes = quantizer(latents)
        quantized = quantized.unflatten(0, (len(grid), *grid.shape[2:])).movedim(-1, 1)
        return tokenizer._decode_quantized(quantized), loss, codes, grid

    start = time.process_time()
    for step in tqdm(range(args.steps), desc=way):
        pixel_values = to_pixels(train_images[order[step]])
        reconstruction, quantizer_loss, codes, grid = forward(pixel_values)
        loss = reconstruction_loss(reconstruction, pixel_values) + quantizer_loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        with torch.no_grad():
            quantizer.after_step(grid.movedim(1, -1).flatten(0, -2), codes)
        keeper.update(codes)
        if initializes and step == args.initialize_step:
            keeper.initialize(grid.detach())
        elif revives and step > args.initialize_step and step % args.revive_every == 0 and step < 0.8 * args.steps:
            keeper.revive(grid.detach())
    seconds = time.process_time() - start

    psnr, all_codes = [], []
    with torch.no_grad():
        for batch in images.split(32):
            reconstruction, _, codes, _ = forward(to_pixels(batch))
            mse = (reconstruction.clamp(-1, 1) - to_pixels(batch)).square().mean(dim=(1, 2, 3))
            psnr.append(10 * torch.log10(4 / mse))
            all_codes.append(codes)
    size = torch.tensor(FSQ_LEVELS).prod().item() if way == "fsq" else 1024
    return {
        "way": way,
        "psnr": torch.cat(psnr).mean().item(),
        "codebook_size": size,
        **codebook_statistics(torch.cat(all_codes), size),
        "cpu_seconds": seconds,
    }


def main(args: argparse.Namespace) -> None:
    train_images, images = load_images(args, "train", args.train_images), load_images(args, "validation", args.images)
    results = [train(args, way, train_images, images) for way in args.ways]
    print(
        f"\n{args.image_size}x{args.image_size} pixels, {args.steps} steps of {args.batch_size} images, "
        f"seed {args.seed}, {len(images)} validation images\n"
    )
    print("| way | PSNR, dB | codes in use | perplexity | CPU seconds |\n|---|---|---|---|---|")
    for row in results:
        print(
            f"| `{row['way']}` | {row['psnr']:.2f} | {row['codebook_usage']:.1%} of {row['codebook_size']} | "
            f"{row['codebook_perplexity']:.0f} | {row['cpu_seconds']:.0f} |"
        )
    if args.output:
        with open(args.output, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=2)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="imagefolder with a metadata.csv, or any folder of images")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--block_out_channels", nargs="+", type=int, default=[8, 16, 32, 64], help="by default f8")
    parser.add_argument("--train_images", type=int, default=2000)
    parser.add_argument("--images", type=int, default=256, help="of the validation split")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--initialize_step", type=int, default=50)
    parser.add_argument("--revive_every", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="JSON file")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main(parse_args())
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"Error: {error}")
