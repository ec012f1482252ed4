"""
Trains the image tokenizer (a VQ-GAN's autoencoder) on a folder of chest X-rays.

The embedded checkpoint's tokenizer:

    python examples/train_vq_gan.py --config examples/vq_gan_tiny.yaml --data_dir DATA --output_dir runs/vq

With the codes settled, the decoder alone is trained further; no code changes, so a language model on the codes stays right:

    python examples/train_vq_gan.py --config examples/vq_gan_tiny_decoder.yaml --data_dir DATA --initial_model runs/vq \
        --output_dir runs/vq_decoder

`DATA` is a Hugging Face imagefolder with a `metadata.csv` (columns in `transformers_cxr.data.image_folder`). Training
resumes from `OUTPUT_DIR/checkpoint` where there is one; the finished tokenizer and its image processor are saved in
`OUTPUT_DIR`.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler
from tqdm import tqdm
from transformers import get_cosine_schedule_with_warmup

from transformers_cxr import CXRVQTokenizer, CXRVQTokenizerConfig, LlmCxrImageProcessor
from transformers_cxr.data.image_folder import Study, read_image_folder
from transformers_cxr.training.arguments import parse_arguments
from transformers_cxr.training.vq_gan import CodebookKeeper, reconstruction_loss


@dataclass
class Arguments:
    data_dir: str = field(metadata={"help": "imagefolder with a metadata.csv"})
    output_dir: str = field(metadata={"help": "where the tokenizer and the training state are saved"})
    model: dict = field(default_factory=dict, metadata={"help": "fields of CXRVQTokenizerConfig"})
    initial_model: str = field(default="", metadata={"help": "tokenizer to start from, in place of `model`"})
    decoder_only: bool = field(default=False, metadata={"help": "train the decoder of `initial_model` for its codes"})
    gradient_weight: float = field(default=1.0, metadata={"help": "weight of the finite differences in the loss"})
    squared_weight: float = field(default=0.0, metadata={"help": "weight of the squared error in the loss"})
    source_weights: dict = field(
        default_factory=dict, metadata={"help": "how often images of a source are drawn, 1.0 if not named"}
    )
    steps: int = field(default=3000, metadata={"help": "optimizer steps"})
    batch_size: int = field(default=4, metadata={"help": "images a process and step"})
    learning_rate: float = field(default=1e-3, metadata={"help": "peak learning rate of AdamW"})
    warmup_steps: int = field(default=100, metadata={"help": "steps of linear warm-up, then cosine decay to 0"})
    initialize_codebook_step: int = field(default=50, metadata={"help": "the codebook is filled from the data here"})
    revive_every: int = field(default=50, metadata={"help": "steps between revivals of dead codes"})
    save_every: int = field(default=200, metadata={"help": "steps between training states"})
    seed: int = field(default=0, metadata={"help": "seed of weights and order of images"})


class ImageDataset(Dataset):
    def __init__(self, studies: list[Study], image_processor: LlmCxrImageProcessor):
        self.studies = studies
        self.image_processor = image_processor

    def __len__(self):
        return len(self.studies)

    def __getitem__(self, index):
        return self.image_processor(self.studies[index].image_path, return_tensors="pt").pixel_values[0]


def main(args: Arguments):
    accelerator = Accelerator()
    set_seed(args.seed)
    if args.initial_model:
        model = CXRVQTokenizer.from_pretrained(args.initial_model)
    else:
        model = CXRVQTokenizer(CXRVQTokenizerConfig(**args.model))
    config = model.config
    if args.decoder_only:
        model.requires_grad_(False)
        model.vq_model.decoder.requires_grad_(True)
        model.vq_model.post_quant_conv.requires_grad_(True)
    image_processor = LlmCxrImageProcessor(
        size={"shortest_edge": config.image_size},
        crop_size={"height": config.image_size, "width": config.image_size},
        do_convert_rgb=config.in_channels == 3,
    )
    studies = read_image_folder(args.data_dir, "train")
    weights = [args.source_weights.get(study.source, 1.0) for study in studies]
    images = args.steps * args.batch_size * accelerator.num_processes
    sampler = WeightedRandomSampler(weights, images, generator=torch.Generator().manual_seed(args.seed))
    loader = DataLoader(ImageDataset(studies, image_processor), args.batch_size, sampler=sampler)

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    schedule = get_cosine_schedule_with_warmup(
        optimizer, args.warmup_steps * accelerator.num_processes, args.steps * accelerator.num_processes
    )
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    keeper = CodebookKeeper(accelerator.unwrap_model(model))
    accelerator.register_for_checkpointing(keeper)

    start, state_dir = 0, Path(args.output_dir) / "checkpoint"
    if state_dir.is_dir():
        accelerator.load_state(str(state_dir))
        start = schedule.scheduler.last_epoch // accelerator.num_processes
        accelerator.print(f"Resuming at step {start}.")
    batches = accelerator.skip_first_batches(loader, start)
    progress = tqdm(batches, total=args.steps, initial=start, disable=not accelerator.is_main_process, miniters=20)
    for step, pixel_values in enumerate(progress, start):
        output = model(pixel_values)
        loss = output.commitment_loss + reconstruction_loss(
            output.reconstruction, pixel_values, args.gradient_weight, args.squared_weight
        )
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

        keeper.update(accelerator.gather(output.codes))
        latents = accelerator.gather(output.latents.detach())
        if not args.decoder_only:
            if step == args.initialize_codebook_step:
                keeper.initialize(latents)
            elif step > args.initialize_codebook_step and step % args.revive_every == 0 and step < 0.8 * args.steps:
                keeper.revive(latents)
        if step % 20 == 0:
            mse = (output.reconstruction.detach().clamp(-1, 1) - pixel_values).square().mean()
            progress.set_postfix_str(
                f"loss {loss.item():.4f} psnr {10 * torch.log10(4 / mse).item():.2f} dB "
                f"live codes {(keeper.usage > keeper.min_usage).float().mean().item():.0%}"
            )
        if (step + 1) % args.save_every == 0:
            accelerator.save_state(str(state_dir))

    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        accelerator.unwrap_model(model).save_pretrained(args.output_dir)
        image_processor.save_pretrained(args.output_dir)


if __name__ == "__main__":
    main(*parse_arguments(Arguments))
