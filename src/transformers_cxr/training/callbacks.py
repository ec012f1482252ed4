"""Log samples during training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from transformers import Trainer, TrainerCallback
from transformers.integrations import TensorBoardCallback, WandbCallback, is_deepspeed_zero3_enabled
from transformers.utils import logging

from ..llm_cxr.generation_llm_cxr import generate_image, generate_text
from ..llm_cxr.image_processing_llm_cxr import save_image
from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
from ..llm_cxr.processing_llm_cxr import IMAGE_NOTICE, TEXT_NOTICE
from .dataset import InstructionDataset

logger = logging.get_logger(__name__)

# Samples are taken from this many conversations at most.
_MAX_CONVERSATIONS = 1000


class SampleCallback(TrainerCallback):
    """
    Generate texts and images at regular steps, with the prompts of the first conversations of the data that begin
    with a text about an X-ray or with a generated X-ray.

    `OUTPUT_DIR/samples/step-STEP.json` holds generated texts and those of the data, `step-STEP.png` reconstructions of
    the images of the data above generated images. TensorBoard and Weights & Biases get them, too, if the Trainer
    reports to them. Texts are greedy and images have fixed seeds, so steps are comparable. The random state of
    training does not change.

    Args:
        trainer (`Trainer`):
            Trainer whose model generates, on the main process.
        dataset ([`InstructionDataset`]):
            Conversations with `image_codes`. Those that are too long are not used.
        every (`int`):
            Steps between samples.
        num_samples (`int`, *optional*, defaults to 4):
            Maximum number of texts and of images.
        max_new_tokens (`int`, *optional*, defaults to 200):
            Maximum number of tokens of a text.

    Raises:
        ValueError: the weights are sharded (FSDP, DeepSpeed ZeRO-3), or a conversation is invalid.
    """

    def __init__(
        self,
        trainer: Trainer,
        dataset: InstructionDataset,
        every: int,
        num_samples: int = 4,
        max_new_tokens: int = 200,
    ):
        if trainer.is_fsdp_enabled or is_deepspeed_zero3_enabled():
            raise ValueError(
                "With FSDP and DeepSpeed ZeRO-3 no process has the whole model to generate samples with. Set "
                "`sample_steps` to 0 and generate samples from the checkpoints."
            )
        self.trainer = trainer
        self.processor = dataset.processor
        self.every = every
        self.max_new_tokens = max_new_tokens
        self.text_samples, self.image_samples = [], []
        for position in range(min(len(dataset), _MAX_CONVERSATIONS)):
            conversation = dataset.conversations[position]
            if not conversation.get("image_codes") or dataset[position]["skipped"]:
                continue
            if [message["role"] for message in conversation["messages"][:2]] != ["user", "assistant"]:
                continue
            user, assistant = (_parts(message) for message in conversation["messages"][:2])
            codes = conversation["image_codes"]
            texts = [part["text"] for part in user if part["type"] == "text"]
            num_images = len(user) - len(texts)
            sample = {"id": str(conversation.get("id", "")), "instruction": "\n".join(texts)}
            if texts and num_images and assistant[0]["type"] == "text":
                self.text_samples.append({**sample, "data": assistant[0]["text"], "codes": codes[:num_images]})
            elif texts and not num_images and assistant[0]["type"] == "image":
                self.image_samples.append({**sample, "text": texts[-1], "codes": codes[0]})
            if min(len(self.text_samples), len(self.image_samples)) >= num_samples:
                break
        self.text_samples, self.image_samples = self.text_samples[:num_samples], self.image_samples[:num_samples]
        if not (self.text_samples or self.image_samples):
            logger.warning(
                f"There will be no samples: none of the first {_MAX_CONVERSATIONS} conversations has `image_codes`. "
                "Encode the images (`transformers-cxr encode`) to get samples."
            )

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every or not state.is_world_process_zero:
            return
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        model.eval()
        folder = Path(args.output_dir) / "samples"
        folder.mkdir(exist_ok=True)
        name = f"step-{state.global_step:06d}"
        texts, picture = [], None
        if self.text_samples:
            texts = self._generate_texts(model)
            content = json.dumps({"notice": TEXT_NOTICE, "samples": texts}, indent=2, ensure_ascii=False)
            (folder / f"{name}.json").write_text(content + "\n", encoding="utf-8")
        if self.image_samples:
            picture = self._generate_picture(model)
            save_image(picture, folder / f"{name}.png")
        model.train()
        self._track(texts, picture, state.global_step)

    def _generate_texts(self, model: LlmCxrForCausalLM) -> list[dict[str, str]]:
        generated = generate_text(
            model,
            self.processor,
            instruction=[sample["instruction"] for sample in self.text_samples],
            image_codes=[sample["codes"] for sample in self.text_samples],
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
        )
        return [
            {**{name: sample[name] for name in ("id", "instruction", "data")}, "generated": text}
            for sample, text in zip(self.text_samples, generated)
        ]

    @torch.no_grad()
    def _generate_picture(self, model: LlmCxrForCausalLM) -> PIL.Image.Image:
        codes = torch.tensor([sample["codes"] for sample in self.image_samples], device=model.device)
        reconstructed = self.processor.postprocess(model.vq_tokenizer.decode(codes))
        generated = generate_image(model, self.processor, [sample["text"] for sample in self.image_samples], seed=0)
        rows = [np.concatenate([np.asarray(image) for image in row], axis=1) for row in (reconstructed, generated)]
        picture = PIL.Image.fromarray(np.concatenate(rows))
        picture.info["comment"] = f"Upper row: reconstructions of the data. Lower row: {IMAGE_NOTICE}"
        return picture

    def _track(self, texts: list[dict[str, str]], picture: PIL.Image.Image | None, step: int) -> None:
        lines = [
            f"**{text['instruction']}**\n\ndata: {text['data']}\n\ngenerated: {text['generated']}" for text in texts
        ]
        text = "\n\n---\n\n".join([TEXT_NOTICE, *lines])
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback):
                if texts:
                    callback.tb_writer.add_text("samples", text, step)
                if picture is not None:
                    array = np.atleast_3d(np.asarray(picture))
                    callback.tb_writer.add_image("samples", array, step, dataformats="HWC")
            elif isinstance(callback, WandbCallback):
                import wandb

                if texts:
                    wandb.log({"samples/texts": wandb.Html(text), "train/global_step": step})
                if picture is not None:
                    caption = picture.info["comment"]
                    wandb.log({"samples/images": wandb.Image(picture, caption=caption), "train/global_step": step})


def _parts(message: dict) -> list[dict]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
