"""
Train the image tokenizer (a VQ-GAN) on chest X-rays or any other images.

The recipe of the paper, from the ImageNet model of taming-transformers in the format of this package:

    python examples/train_vq_gan.py --config examples/vq_gan_paper.yaml --records DATA \
        --initial_model IMAGENET_VQ_GAN --output_dir runs/vq

`DATA` is a Parquet file of records, a folder of images with or without a `metadata.csv` (the train split is used), or
Parquet or WebDataset files of images, which are streamed. `accelerate launch` instead of `python` trains on several
devices. Training resumes from `OUTPUT_DIR/checkpoint-STEP`, with the same weights as without the interruption. The
tokenizer and its image processor are saved in `OUTPUT_DIR`, reconstructions in `OUTPUT_DIR/samples`.
`docs/train_vq_gan.md` explains losses and settings.
"""

from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import set_seed
from diffusers.training_utils import EMAModel
from tqdm import tqdm
from transformers import get_scheduler
from transformers.trainer_utils import SchedulerType

from transformers_cxr import CXRVQTokenizer, CXRVQTokenizerConfig, LlmCxrImageProcessor, save_image
from transformers_cxr.data.image_source import is_streamed
from transformers_cxr.evaluation.metrics.reconstruction import reconstruction_picture
from transformers_cxr.files import check_same_settings, file_fingerprint
from transformers_cxr.training import SavingArguments, add_card_and_code, augment, run_script, vq_gan

logger = get_logger(__name__)

# Settings that do not change the trained weights.
FREE_SETTINGS = ("output_dir", "dataloader_num_workers", "save_every", "sample_every", "logging_steps", "report_to")


@dataclass
class Arguments:
    records: str = field(metadata={"help": "records, folder of images, or Parquet or WebDataset files of images"})
    output_dir: str = field(metadata={"help": "folder of the tokenizer and the checkpoints"})
    model: dict = field(default_factory=dict, metadata={"help": "fields of CXRVQTokenizerConfig"})
    initial_model: str = field(default="", metadata={"help": "tokenizer to start from instead of `model`"})

    gradient_weight: float = field(default=1.0, metadata={"help": "weight of the L1 loss of finite differences"})
    spectral_weight: float = field(default=0.0, metadata={"help": "weight of the L1 loss of local Fourier amplitudes"})
    perceptual_weight: float = field(default=0.0, metadata={"help": "weight of the perceptual loss"})
    perceptual_network: str = field(default="vgg", metadata={"help": "its network: vgg (LPIPS) or efficientnet-lite0"})
    clinical_weight: float = field(default=0.0, metadata={"help": "weight of the clinical loss"})
    clinical_classifier: str = field(
        default="densenet121-res224-all",
        metadata={"help": "classifier of the clinical loss: a torchxrayvision name or a folder"},
    )
    disc_weight: float = field(default=0.0, metadata={"help": "weight of the adversarial loss, times an adaptive one"})
    disc_channels: int = field(default=64, metadata={"help": "channels of the discriminator's first layer"})
    disc_start: int = field(default=0, metadata={"help": "first step of the discriminator and the adversarial loss"})
    crop_size: int = field(
        default=0, metadata={"help": "side of random crops for spectral, perceptual and adversarial loss; 0: none"}
    )

    source_weights: dict = field(default_factory=dict, metadata={"help": "sampling weights of datasets; default: 1.0"})
    augment: bool = field(default=False, metadata={"help": "augment every other image, see training/augmentation.py"})
    steps: int = field(default=3000, metadata={"help": "optimizer steps"})
    batch_size: int = field(default=4, metadata={"help": "images per device and forward pass"})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "forward passes per optimizer step"})
    learning_rate: float = field(default=1e-3, metadata={"help": "peak learning rate of AdamW"})
    lr_scheduler_type: SchedulerType = field(default="cosine", metadata={"help": "schedule after the warm-up"})
    warmup_steps: int = field(default=100, metadata={"help": "steps of linear warm-up"})
    adam_beta1: float = field(default=0.9, metadata={"help": "beta1 of AdamW"})
    adam_beta2: float = field(default=0.99, metadata={"help": "beta2 of AdamW"})
    weight_decay: float = field(default=1e-4, metadata={"help": "weight decay of AdamW; 0 for Adam"})
    max_grad_norm: float = field(default=1.0, metadata={"help": "maximum gradient norm of the autoencoder"})
    ema_decay: float = field(default=0.0, metadata={"help": "decay of the moving average of weights to save; 0: none"})
    bf16: bool = field(default=False, metadata={"help": "run the networks under bf16 autocast"})
    initialize_codebook_step: int = field(default=50, metadata={"help": "step of codebook initialization; -1: never"})
    revive_every: int = field(default=50, metadata={"help": "steps between dead-code revivals; 0: never"})

    dataloader_num_workers: int = field(default=0, metadata={"help": "processes that read images"})
    save_every: int = field(default=200, metadata={"help": "steps between checkpoints"})
    sample_every: int = field(default=500, metadata={"help": "steps between reconstructions"})
    logging_steps: int = field(default=20, metadata={"help": "steps between logged losses"})
    report_to: str = field(default="", metadata={"help": "tracker of Accelerate, such as tensorboard or wandb"})
    seed: int = field(default=0, metadata={"help": "seed of weights and order of images"})


def main(args: Arguments, saving_args: SavingArguments):
    accelerator = Accelerator(
        mixed_precision="bf16" if args.bf16 else None,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=args.report_to or None,
        project_dir=args.output_dir,
    )
    if args.report_to:
        if not accelerator.log_with:
            raise ImportError(f"The tracker '{args.report_to}' is not installed: `pip install {args.report_to}`.")
        settings = {k: v if isinstance(v, (int, float)) else str(v) for k, v in asdict(args).items()}
        accelerator.init_trackers("vq_gan", config=settings)
    set_seed(args.seed)

    # Models.
    if args.initial_model:
        tokenizer = CXRVQTokenizer.from_pretrained(args.initial_model)
    else:
        tokenizer = CXRVQTokenizer(CXRVQTokenizerConfig(**args.model))
    config = tokenizer.config
    tokenizer.to(memory_format=torch.channels_last)
    weights = {name: value for name, value in asdict(args).items() if name.endswith("_weight")}
    autoencoder_loss = vq_gan.load_autoencoder_loss(
        args.perceptual_network, args.clinical_classifier, accelerator.device, **weights
    )
    discriminator = vq_gan.PatchDiscriminator(config.in_channels, args.disc_channels) if args.disc_weight else None

    # Images.
    checkpoint, step = vq_gan.last_checkpoint(args.output_dir) or (None, 0)
    size = {"height": config.image_size, "width": config.image_size}
    image_processor = LlmCxrImageProcessor(
        size={"shortest_edge": config.image_size}, crop_size=size, do_convert_rgb=config.in_channels == 3
    )
    loader, shown = vq_gan.load_training_images(
        args.records,
        image_processor,
        args.batch_size,
        num_batches=args.steps * args.gradient_accumulation_steps,
        start=step * args.gradient_accumulation_steps,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
        source_weights=args.source_weights,
        num_workers=args.dataloader_num_workers,
        seed=args.seed,
    )

    # Settings, which a resumed run must share.
    settings = {name: value for name, value in asdict(args).items() if name not in FREE_SETTINGS}
    settings["num_processes"] = accelerator.num_processes
    if not is_streamed(args.records):
        settings["records_fingerprint"] = file_fingerprint(args.records)
    with accelerator.main_process_first():
        check_same_settings(Path(args.output_dir) / "settings.json", settings, replace=checkpoint is None)

    # Optimizers.
    betas = (args.adam_beta1, args.adam_beta2)
    adam = {"lr": args.learning_rate, "betas": betas, "weight_decay": args.weight_decay}
    optimizer = torch.optim.AdamW(tokenizer.parameters(), **adam)
    schedule = get_scheduler(args.lr_scheduler_type, optimizer, args.warmup_steps, args.steps)
    model, optimizer = accelerator.prepare(tokenizer, optimizer)
    models = [model]
    if discriminator is not None:
        disc_optimizer = torch.optim.AdamW(discriminator.parameters(), **adam)
        unwrapped_discriminator = discriminator.to(accelerator.device)
        discriminator, disc_optimizer = accelerator.prepare(discriminator, disc_optimizer)
        models.append(discriminator)
    # Codes that are revived late would not be trained.
    codebook = vq_gan.CodebookManager(tokenizer, args.initialize_codebook_step, args.revive_every, 0.8 * args.steps)
    accelerator.register_for_checkpointing(schedule, codebook)
    if args.ema_decay:
        average = EMAModel(tokenizer.parameters(), decay=args.ema_decay)
        accelerator.register_for_checkpointing(average)
    # The iterator uses the random state, so it is created before that state is restored.
    batches = islice(iter(loader), (args.steps - step) * args.gradient_accumulation_steps)
    if checkpoint:
        accelerator.load_state(str(checkpoint))
        if args.ema_decay:
            average.to(accelerator.device)
        accelerator.print(f"Resuming at step {step}.")

    unreadable = set()
    progress = tqdm(total=args.steps, initial=step, disable=not accelerator.is_main_process, miniters=20)
    for batch in batches:
        pixel_values = batch["pixel_values"].to(accelerator.device)
        if args.augment:
            pixel_values[::2] = augment(pixel_values[::2])
        for message in set(batch["unreadable"]) - unreadable:
            unreadable.add(message)
            logger.warning(f"Unreadable image {len(unreadable)}: {message}", main_process_only=False)
        adversarial = discriminator is not None and step >= args.disc_start

        with accelerator.accumulate(*models):
            output = model(pixel_values, follow_autocast=args.bf16)
            judge = unwrapped_discriminator if adversarial else None
            crops = (output.reconstruction, pixel_values)
            if args.crop_size:
                crops = vq_gan.random_crops(args.crop_size, *crops)
            with accelerator.autocast():
                loss, terms = autoencoder_loss(output, pixel_values, tokenizer.last_weight, judge, crops)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(tokenizer.parameters(), args.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            if adversarial:
                disc_loss = vq_gan.hinge_loss(discriminator(crops[1]), discriminator(crops[0].detach()))
                accelerator.backward(disc_loss)
                for group in disc_optimizer.param_groups:
                    group["lr"] = schedule.get_last_lr()[0]
                disc_optimizer.step()
                disc_optimizer.zero_grad()
                terms["discriminator"] = disc_loss.detach()

        codebook.update(accelerator.gather(output.codes))
        if not accelerator.sync_gradients:
            continue
        schedule.step()
        codebook.maintain(accelerator.gather(output.latents.detach()), step)
        if args.ema_decay:
            average.step(tokenizer.parameters())

        if step % args.logging_steps == 0:
            mse = (output.reconstruction.detach().clamp(-1, 1) - pixel_values).square().mean()
            values = {name: term.item() for name, term in terms.items()} | {
                "loss": loss.item(),
                "psnr": 10 * torch.log10(4 / mse).item(),
                "live_codes": codebook.live_fraction,
                "codebook_perplexity": codebook.perplexity,
                "learning_rate": schedule.get_last_lr()[0],
                "unreadable_images": len(unreadable),
            }
            progress.set_postfix({name: f"{values[name]:.4g}" for name in ("loss", "psnr", "codebook_perplexity")})
            accelerator.log(values, step=step)
            codebook.warn_if_collapsed(step)

        step += 1
        progress.update()
        if accelerator.is_main_process and step % args.sample_every == 0:
            picture = reconstruction_picture(tokenizer, shown)
            path = Path(args.output_dir) / "samples" / f"step-{step:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_image(picture, path)
            image = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None]
            for tracker in accelerator.trackers:
                tracker.log_images({"reconstructions": image}, step=step)
        if step % args.save_every == 0:
            vq_gan.save_checkpoint(accelerator, args.output_dir, step)

    progress.close()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if args.ema_decay:
            average.copy_to(tokenizer.parameters())
        tokenizer.save_pretrained(args.output_dir)
        image_processor.save_pretrained(args.output_dir)
        add_card_and_code(
            args.output_dir,
            Path(args.output_dir) / "settings.json",
            args.initial_model,
            [args.records],
            remote_code=saving_args.remote_code,
        )
    accelerator.end_training()


if __name__ == "__main__":
    run_script(main, Arguments, SavingArguments)
