"""What the language model writes and draws while it is trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from transformers import Trainer, TrainerCallback
from transformers.integrations import TensorBoardCallback, WandbCallback, is_deepspeed_zero3_enabled
from transformers.utils import logging

from ..llm_cxr.image_processing_llm_cxr import save_image
from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
from ..llm_cxr.processing_llm_cxr import GENERATED_NOTICE
from ..notices import TEXT_NOTICE
from .dataset import InstructionDataset

logger = logging.get_logger(__name__)

# Among so many of the first conversations samples are looked for.
_NUM_SEARCHED = 1000


class SampleCallback(TrainerCallback):
    """
    Lets the model answer and draw every so many steps: `OUTPUT_DIR/samples/step-STEP.json` has texts beside those of the data,
    `OUTPUT_DIR/samples/step-STEP.png` images below those of the data (as their codes show them). They are also sent to
    TensorBoard and Weights & Biases where the Trainer reports to them. Texts are greedy and images have fixed seeds, so that
    steps can be compared, and the random state of the training stays as it is.

    Args:
        trainer (`Trainer`):
            Its model and its trackers are used. The main process samples, so the model must be whole there.
        dataset ([`InstructionDataset`]):
            With the processor of the model, and records with `image_codes`. The first with an X-ray and a text about it are
            answered again, and the first with an image for a response are drawn again, each from what comes before its first
            response. Those that it skips are passed over. Where there are none, a warning says so.
        every (`int`):
            Steps between samples.
        num_samples (`int`, *optional*, defaults to 4):
            Texts and images each time.
        max_new_tokens (`int`, *optional*, defaults to 200):
            Tokens of a text at most.

    Raises:
        ValueError: the weights are sharded (FSDP, DeepSpeed ZeRO-3), or a conversation cannot be trained on.
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
                "With FSDP and DeepSpeed ZeRO-3 no process has the whole model, so that none can sample: set `sample_steps` "
                "to 0 and sample from the checkpoints."
            )
        self.trainer = trainer
        self.processor = dataset.processor
        self.every = every
        self.max_new_tokens = max_new_tokens
        samples = []
        for position in range(min(len(dataset), _NUM_SEARCHED)):
            record = dataset.conversations[position]
            # An error here names the conversation.
            if record.get("image_codes") and not dataset[position]["skipped"]:
                samples.append(_Sample(record))
        self.read = [sample for sample in samples if sample.prompt_codes and not sample.draws][:num_samples]
        self.drawn = [sample for sample in samples if sample.draws][:num_samples]
        if not (self.read or self.drawn):
            logger.warning(
                f"There will be no samples: none of the first {_NUM_SEARCHED} conversations has `image_codes`. Encode the "
                "images (`transformers-cxr encode`) to see some."
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
        if self.read:
            texts = self._texts(model)
            content = json.dumps({"notice": TEXT_NOTICE, "samples": texts}, indent=2, ensure_ascii=False)
            (folder / f"{name}.json").write_text(content + "\n", encoding="utf-8")
        if self.drawn:
            picture = self._picture(model)
            save_image(picture, folder / f"{name}.png")
        model.train()
        self._track(texts, picture, state.global_step)

    @torch.no_grad()
    def _texts(self, model: LlmCxrForCausalLM) -> list[dict[str, str]]:
        inputs = self._prompts(self.read).to(model.device)
        output = model.generate(**inputs, generation_mode="text", do_sample=False, max_new_tokens=self.max_new_tokens)
        generated = self.processor.post_process_multimodal_output(
            output[:, inputs.input_ids.shape[1] :], generation_mode="text"
        )
        return [
            {"id": sample.id, "instruction": sample.instruction, "data": sample.response, "generated": text.strip()}
            for sample, text in zip(self.read, generated)
        ]

    @torch.no_grad()
    def _picture(self, model: LlmCxrForCausalLM) -> PIL.Image.Image:
        inputs = self._prompts(self.drawn).to(model.device)
        generated = model.generate_image(**inputs, seed=0).pixel_values
        codes = torch.tensor([sample.response_codes for sample in self.drawn], device=model.device)
        rows = [
            np.concatenate([np.asarray(image) for image in self.processor.postprocess(pixels)], axis=1)
            for pixels in (model.vq_tokenizer.decode(codes), generated)
        ]
        picture = PIL.Image.fromarray(np.concatenate(rows))
        picture.info["comment"] = f"Upper row: of the data. Lower row: {GENERATED_NOTICE}"
        return picture

    def _prompts(self, samples: list[_Sample]):
        codes = [row for sample in samples for row in sample.prompt_codes]
        return self.processor.apply_chat_template(
            [sample.prompt for sample in samples],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, **({"image_codes": codes} if codes else {})},
        )

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


class _Sample:
    """A conversation up to its first response, and that response."""

    def __init__(self, record: dict):
        messages = record["messages"]
        first = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
        self.id = str(record.get("id", ""))
        self.prompt = messages[:first]
        parts = [part for message in self.prompt for part in _parts(message)]
        num_images = sum(part["type"] == "image" for part in parts)
        self.instruction = next((part["text"] for part in parts if part["type"] == "text"), "")
        self.prompt_codes = record["image_codes"][:num_images]
        response = _parts(messages[first])
        self.draws = any(part["type"] == "image" for part in response)
        self.response = "".join(part["text"] for part in response if part["type"] == "text")
        self.response_codes = record["image_codes"][num_images] if self.draws else None


def _parts(message: dict) -> list[dict]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
