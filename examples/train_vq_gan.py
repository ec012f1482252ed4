"""
Trains the image tokenizer (a VQ-GAN) on a folder of chest X-rays, or of any other images.

The paper's recipe, from the weights of taming-transformers' ImageNet model in the format of this package:

    python examples/train_vq_gan.py --config examples/vq_gan_paper.yaml --data_dir DATA --initial_model IMAGENET_VQ_GAN \
        --output_dir runs/vq

The embedded checkpoint's tokenizer:

    python examples/train_vq_gan.py --config examples/vq_gan_tiny.yaml --data_dir DATA --output_dir runs/vq

With the codes settled, the decoder alone is trained further; no code changes, so a language model on the codes stays right:

    python examples/train_vq_gan.py --config examples/vq_gan_tiny_decoder.yaml --data_dir DATA --initial_model runs/vq \
        --output_dir runs/vq_decoder

`DATA` is a Hugging Face imagefolder with a `metadata.csv` (columns in `transformers_cxr.data.readers.image_folder`), whose train
split is used, any folder of images, or a Parquet or WebDataset file or a folder of these, which are streamed. `accelerate
launch` in the place of `python` trains on several devices. Training resumes from `OUTPUT_DIR/checkpoint-STEP` where there is
one, to the same weights as without the interruption; the finished tokenizer and its image processor are saved in
`OUTPUT_DIR`, pictures of reconstructions in `OUTPUT_DIR/samples`. `docs/train_vq_gan.md` explains the losses and settings.
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
from torch.utils.data import DataLoader, WeightedRandomSampler
from tqdm import tqdm
from transformers import get_scheduler
from transformers.trainer_utils import SchedulerType

from transformers_cxr import CXRVQTokenizer, CXRVQTokenizerConfig, LlmCxrImageProcessor
from transformers_cxr.classifiers import load_classifier
from transformers_cxr.data.image_source import is_streamed, open_source
from transformers_cxr.data.store import open_records
from transformers_cxr.evaluation.metrics.reconstruction import reconstruction_picture
from transformers_cxr.files import check_same_settings
from transformers_cxr.llm_cxr.image_processing_llm_cxr import save_image
from transformers_cxr.training.arguments import run_script
from transformers_cxr.training.resuming import SETTINGS_NAME
from transformers_cxr.training.vq_gan.checkpoints import last_checkpoint, save_checkpoint
from transformers_cxr.training.vq_gan.codebook import CodebookManager
from transformers_cxr.training.vq_gan.discriminator import PatchDiscriminator
from transformers_cxr.training.vq_gan.images import ImageDataset, ImageStream, collate_images
from transformers_cxr.training.vq_gan.losses import AutoencoderLoss, PerceptualLoss, hinge_loss, load_lpips

logger = get_logger(__name__)

# The settings that do not change what comes out.
FREE_SETTINGS = ("output_dir", "dataloader_num_workers", "save_every", "sample_every", "logging_steps", "report_to")


@dataclass
class Arguments:
    data_dir: str = field(metadata={"help": "folder of images, or a Parquet or WebDataset file or folder"})
    output_dir: str = field(metadata={"help": "where the tokenizer and the training state are saved"})
    model: dict = field(default_factory=dict, metadata={"help": "fields of CXRVQTokenizerConfig"})
    initial_model: str = field(default="", metadata={"help": "tokenizer to start from, in place of `model`"})
    decoder_only: bool = field(default=False, metadata={"help": "train the decoder of `initial_model` for its codes"})

    gradient_weight: float = field(default=1.0, metadata={"help": "weight of the finite differences in the loss"})
    squared_weight: float = field(default=0.0, metadata={"help": "weight of the squared error in the loss"})
    spectral_weight: float = field(default=0.0, metadata={"help": "weight of local Fourier amplitudes in the loss"})
    perceptual_weight: float = field(default=0.0, metadata={"help": "weight of LPIPS in the loss"})
    clinical_weight: float = field(default=0.0, metadata={"help": "weight of the clinical term in the loss"})
    clinical_classifier: str = field(
        default="densenet121-res224-all",
        metadata={"help": "of the clinical term: a name of torchxrayvision or the folder of an image classifier"},
    )
    disc_weight: float = field(default=0.0, metadata={"help": "factor of the adversarial loss's adaptive weight"})
    disc_channels: int = field(default=64, metadata={"help": "channels of the discriminator's first layer"})
    disc_start: int = field(default=0, metadata={"help": "steps before discriminator and adversarial loss begin"})

    source_weights: dict = field(
        default_factory=dict, metadata={"help": "how often images of a source are drawn, 1.0 if not named"}
    )
    steps: int = field(default=3000, metadata={"help": "optimizer steps"})
    batch_size: int = field(default=4, metadata={"help": "images a process and forward"})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "forwards an optimizer step"})
    learning_rate: float = field(default=1e-3, metadata={"help": "peak learning rate of AdamW"})
    lr_scheduler_type: SchedulerType = field(default="cosine", metadata={"help": "what comes after the warm-up"})
    warmup_steps: int = field(default=100, metadata={"help": "steps of linear warm-up"})
    adam_beta1: float = field(default=0.9, metadata={"help": "beta1 of AdamW"})
    adam_beta2: float = field(default=0.99, metadata={"help": "beta2 of AdamW"})
    weight_decay: float = field(default=1e-4, metadata={"help": "weight decay of AdamW; 0 makes it Adam"})
    max_grad_norm: float = field(
        default=1.0, metadata={"help": "norm that gradients of the autoencoder are clipped to"}
    )
    ema_decay: float = field(default=0.0, metadata={"help": "decay of the average of weights that is saved; 0: none"})
    bf16: bool = field(default=False, metadata={"help": "encoder and decoder under bf16 autocast"})
    initialize_codebook_step: int = field(
        default=50, metadata={"help": "the codebook is filled from the data here; -1: never"}
    )
    revive_every: int = field(default=50, metadata={"help": "steps between revivals of dead codes; 0: never"})

    dataloader_num_workers: int = field(default=0, metadata={"help": "processes that read images"})
    save_every: int = field(default=200, metadata={"help": "steps between training states"})
    sample_every: int = field(default=500, metadata={"help": "steps between pictures of reconstructions"})
    logging_steps: int = field(default=20, metadata={"help": "steps between logged losses"})
    report_to: str = field(default="", metadata={"help": "tracker of Accelerate, such as tensorboard or wandb"})
    seed: int = field(default=0, metadata={"help": "seed of weights and order of images"})


def main(args: Arguments):
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

    # The autoencoder.
    if args.initial_model:
        model = CXRVQTokenizer.from_pretrained(args.initial_model)
    else:
        model = CXRVQTokenizer(CXRVQTokenizerConfig(**args.model))
    config = model.config
    if args.decoder_only:
        model.requires_grad_(False)
        model.vq_model.decoder.requires_grad_(True)
        model.vq_model.post_quant_conv.requires_grad_(True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    last_weight = model.vq_model.decoder.conv_out.weight

    # The losses.
    loss_of = AutoencoderLoss(
        gradient_weight=args.gradient_weight,
        squared_weight=args.squared_weight,
        spectral_weight=args.spectral_weight,
        perceptual_weight=args.perceptual_weight,
        clinical_weight=args.clinical_weight,
        disc_weight=args.disc_weight,
    )
    if args.perceptual_weight:
        loss_of.perceptual = PerceptualLoss(load_lpips()).to(accelerator.device)
    if args.clinical_weight:
        loss_of.clinical = load_classifier(args.clinical_classifier).to(accelerator.device)
    discriminator = PatchDiscriminator(config.in_channels, args.disc_channels) if args.disc_weight else None

    run = {name: value for name, value in asdict(args).items() if name not in FREE_SETTINGS}
    run["num_processes"] = accelerator.num_processes
    checkpoint, start = last_checkpoint(args.output_dir) or (None, 0)
    with accelerator.main_process_first():
        check_same_settings(Path(args.output_dir) / SETTINGS_NAME, run, replace=checkpoint is None)

    # The images. Every process takes its part of one order, which the seed fixes.
    image_processor = LlmCxrImageProcessor(
        size={"shortest_edge": config.image_size},
        crop_size={"height": config.image_size, "width": config.image_size},
        do_convert_rgb=config.in_channels == 3,
    )
    if is_streamed(args.data_dir):
        if args.source_weights:
            raise ValueError("`source_weights` needs a folder of images: a stream has no sources.")
        dataset = ImageStream(
            open_source(args.data_dir, "train"),
            image_processor,
            args.batch_size,
            start=start * args.gradient_accumulation_steps,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
            seed=args.seed,
        )
        order = None
        shown = ImageStream(dataset.source, image_processor, batch_size=1, seed=args.seed)
        shown = torch.stack([example["pixel_values"] for example in islice(shown, 8)])
    else:
        records = open_records(args.data_dir, "train")
        dataset = ImageDataset([record.image for record in records], image_processor)
        weights = [args.source_weights.get(record.source, 1.0) for record in records]
        images_a_step = args.batch_size * accelerator.num_processes * args.gradient_accumulation_steps
        sampler = WeightedRandomSampler(
            weights, args.steps * images_a_step, generator=torch.Generator().manual_seed(args.seed)
        )
        order = torch.tensor(list(sampler)).view(-1, accelerator.num_processes, args.batch_size)
        order = order[:, accelerator.process_index].flatten().tolist()
        order = order[start * args.gradient_accumulation_steps * args.batch_size :]
        shown = torch.stack([dataset[i]["pixel_values"] for i in range(0, len(dataset), -(-len(dataset) // 8))])

    # The optimizers.
    adam = {
        "lr": args.learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "weight_decay": args.weight_decay,
    }
    optimizer = torch.optim.AdamW(trained, **adam)
    schedule = get_scheduler(args.lr_scheduler_type, optimizer, args.warmup_steps, args.steps)
    tokenizer = model
    model, optimizer = accelerator.prepare(model, optimizer)
    models = [model]
    if discriminator is not None:
        disc_optimizer = torch.optim.AdamW(discriminator.parameters(), **adam)
        bare_discriminator = discriminator.to(accelerator.device)
        discriminator, disc_optimizer = accelerator.prepare(discriminator, disc_optimizer)
        models.append(discriminator)
    keeper = CodebookManager(tokenizer)
    accelerator.register_for_checkpointing(schedule, keeper)
    if args.ema_decay:
        average = EMAModel(tokenizer.parameters(), decay=args.ema_decay)
        accelerator.register_for_checkpointing(average)

    loader = DataLoader(
        dataset,
        args.batch_size,
        sampler=order,
        collate_fn=collate_images,
        num_workers=args.dataloader_num_workers if order else min(args.dataloader_num_workers, 1),
    )
    # A loader that begins draws from the random state, so it begins before that state is restored.
    batches = islice(iter(loader), (args.steps - start) * args.gradient_accumulation_steps)
    if checkpoint:
        accelerator.load_state(str(checkpoint))
        if args.ema_decay:
            average.to(accelerator.device)
        accelerator.print(f"Resuming at step {start}.")

    step, unreadable, collapsed = start, set(), False
    progress = tqdm(total=args.steps, initial=start, disable=not accelerator.is_main_process, miniters=20)
    for batch in batches:
        pixel_values = batch["pixel_values"].to(accelerator.device)
        for message in set(batch["unreadable"]) - unreadable:
            unreadable.add(message)
            logger.warning(f"Unreadable image no. {len(unreadable)}: {message}", main_process_only=False)
        adversarial = discriminator is not None and step >= args.disc_start

        with accelerator.accumulate(*models):
            output = model(pixel_values, follow_autocast=args.bf16)
            loss, parts = loss_of(output, pixel_values, last_weight, bare_discriminator if adversarial else None)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(trained, args.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            if adversarial:
                disc_loss = hinge_loss(discriminator(pixel_values), discriminator(output.reconstruction.detach()))
                accelerator.backward(disc_loss)
                for group in disc_optimizer.param_groups:
                    group["lr"] = schedule.get_last_lr()[0]
                disc_optimizer.step()
                disc_optimizer.zero_grad()
                parts["discriminator"] = disc_loss.detach()

        keeper.update(accelerator.gather(output.codes))
        if not accelerator.sync_gradients:
            continue
        schedule.step()
        latents = accelerator.gather(output.latents.detach())
        if not args.decoder_only:
            if step == args.initialize_codebook_step:
                keeper.initialize(latents)
            elif (
                args.revive_every
                and step > args.initialize_codebook_step
                and step % args.revive_every == 0
                and step < 0.8 * args.steps
            ):
                keeper.revive(latents)
        if args.ema_decay:
            average.step(tokenizer.parameters())

        if step % args.logging_steps == 0:
            mse = (output.reconstruction.detach().clamp(-1, 1) - pixel_values).square().mean()
            values = {name: part.item() for name, part in parts.items()} | {
                "loss": loss.item(),
                "psnr": 10 * torch.log10(4 / mse).item(),
                "live_codes": keeper.live_fraction,
                "codebook_perplexity": keeper.perplexity,
                "learning_rate": schedule.get_last_lr()[0],
                "unreadable_images": len(unreadable),
            }
            progress.set_postfix_str(
                f"loss {values['loss']:.4f} psnr {values['psnr']:.2f} dB live codes {values['live_codes']:.0%} "
                f"perplexity {values['codebook_perplexity']:.0f}"
            )
            accelerator.log(values, step=step)
            if keeper.has_collapsed and not collapsed:
                logger.warning(
                    f"The codebook has collapsed by step {step}: the perplexity of {config.codebook_size} codes is "
                    f"{keeper.perplexity:.0f}, and {keeper.live_fraction:.0%} of them are in use. Revive dead codes more often "
                    "(`revive_every`), fill the codebook from the data (`initialize_codebook_step`), or lower the learning "
                    "rate."
                )
            collapsed = keeper.has_collapsed

        step += 1
        progress.update()
        if accelerator.is_main_process and step % args.sample_every == 0:
            picture = reconstruction_picture(tokenizer, shown)
            path = Path(args.output_dir) / "samples" / f"step-{step:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_image(picture, path)
            for tracker in accelerator.trackers:
                # Channels first, which is what TensorBoard and W&B both take.
                image = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
                tracker.log_images({"reconstructions": image[None]}, step=step)
        if step % args.save_every == 0:
            save_checkpoint(accelerator, args.output_dir, step)

    progress.close()
    if unreadable:
        total = f" of {len(dataset)}" if order else ""
        logger.warning(f"{len(unreadable)}{total} images could not be read.", main_process_only=False)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if args.ema_decay:
            average.copy_to(tokenizer.parameters())
        tokenizer.save_pretrained(args.output_dir)
        image_processor.save_pretrained(args.output_dir)
    accelerator.end_training()


if __name__ == "__main__":
    run_script(main, Arguments)
