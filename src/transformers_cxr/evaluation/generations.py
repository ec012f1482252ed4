"""What a model gives for examples: in batches, over several processes, kept as Parquet, resumed after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from accelerate import PartialState
from tqdm import tqdm

from ..files import atomic_write, check_same_settings
from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
from ..llm_cxr.processing_llm_cxr import IMAGE_INSTRUCTION, LlmCxrProcessor
from .examples import Example

Transform = Callable[[torch.FloatTensor, Example], torch.FloatTensor]


def fingerprint(model: LlmCxrForCausalLM, processor: LlmCxrProcessor) -> str:
    """A hash of the weights, the prompt format, the vocabulary and the preparation of images: what an output depends on."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    described = [processor.chat_template, processor.tokenizer.get_vocab(), processor.image_processor.to_dict()]
    digest.update(json.dumps(described, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def processes() -> PartialState:
    """The processes that `accelerate launch` or `torchrun` started, on GPUs or on CPUs; one without them."""
    # Accelerate takes CPUs only where it is told to. A process may have to wait long for another one's share.
    cpu = not torch.accelerator.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() in (
        "1",
        "true",
        "yes",
    )
    return PartialState(cpu=cpu, timeout=timedelta(days=7))


def seed_of(seed: int, example: Example) -> int:
    """The seed of an example: it depends on `seed` and on the example's id, not on the batch or the process."""
    return int.from_bytes(hashlib.sha256(f"{seed}-{example.id}".encode()).digest()[:6], "big")


def generate(
    examples: Sequence[Example],
    produce: Callable[[list[Example]], list[str] | np.ndarray],
    folder: str | Path,
    settings: dict,
    batch_size: int = 32,
    name: str = "",
) -> list:
    """
    Gives what `produce` gives for each example, and keeps it in `folder`, a Parquet file a batch: a second call, or one after
    a kill, only produces what is missing.

    Under `accelerate launch` each process produces a share of the batches. A batch holds the same examples whatever the
    number of processes, so that the outputs are the same. All processes return all outputs; they need a common file system.

    Args:
        examples (`Sequence[Example]`):
            Examples with unique ids.
        produce (`Callable[[list[Example]], list[str] | np.ndarray]`):
            Gives a text an example, or codes as `np.uint16` of shape `(len(batch), num_image_tokens)`.
        folder (`str` or `Path`):
            Where the outputs are kept: `settings.json` and Parquet files of the columns `id`, `prompt`, `text` or `codes`,
            and what an example cost: the `process`, the `seconds` (its share of the batch's), and `peak_mib`, the largest
            memory so far, of the process or on the GPU.
        settings (`dict`):
            What the outputs depend on beside the examples; JSON values.
        batch_size (`int`, *optional*, defaults to 32):
            Examples at once.
        name (`str`, *optional*):
            Name of the progress bar.

    Returns:
        `list[str]` or `list[np.ndarray]`: an output an example, in their order.

    Raises:
        ValueError: `folder` was made with other settings, or with another prompt for an example.
    """
    folder, state = Path(folder), processes()
    with state.main_process_first():
        check_same_settings(folder / "settings.json", settings)
    kept = read_generations(folder)
    for example in examples:
        if example.id in kept and kept[example.id]["prompt"] != example.prompt:
            raise ValueError(
                f"'{folder}' holds an output for another prompt of '{example.id}': choose another output folder, or remove "
                "this one."
            )
    starts = range(0, len(examples), batch_size)
    missing = [s for s in starts if any(e.id not in kept for e in examples[s : s + batch_size])]
    mine = missing[state.process_index :: state.num_processes]
    for start in tqdm(mine, desc=name, unit="batch", disable=not mine or not state.is_local_main_process):
        batch = list(examples[start : start + batch_size])
        began = time.perf_counter()
        outputs = produce(batch)
        seconds = (time.perf_counter() - began) / len(batch)
        cost = {"process": state.process_index, "seconds": seconds, "peak_mib": _peak_mib(state.device)}
        _write(folder / f"{start:08d}-{len(batch)}.parquet", batch, outputs, cost)
    state.wait_for_everyone()
    kept = read_generations(folder)
    column = "codes" if "codes" in kept[examples[0].id] else "text"
    outputs = [kept[example.id][column] for example in examples]
    return [np.array(output, dtype=np.uint16) for output in outputs] if column == "codes" else outputs


def read_generations(folder: str | Path) -> dict[str, dict]:
    """The rows of a folder of [`generate`] by their id."""
    tables = [pyarrow.parquet.read_table(path) for path in sorted(Path(folder).glob("[0-9]*.parquet"))]
    return {row["id"]: row for table in tables for row in table.to_pylist()}


def text_generator(
    model: LlmCxrForCausalLM,
    processor: LlmCxrProcessor,
    max_new_tokens: int = 256,
    transform: Transform | None = None,
) -> Callable[[list[Example]], list[str]]:
    """
    A function for [`generate`] that reads the X-rays of examples and answers their prompts, greedily.

    Args:
        model ([`LlmCxrForCausalLM`]), processor ([`LlmCxrProcessor`]):
            A checkpoint.
        max_new_tokens (`int`, *optional*, defaults to 256):
            Longest answer.
        transform (`Callable[[torch.FloatTensor, Example], torch.FloatTensor]`, *optional*):
            Applied to the pixels `(channels, height, width)`, in [-1, 1], of each X-ray before it is encoded.
    """

    @torch.no_grad()
    def produce(batch: list[Example]) -> list[str]:
        pixel_values = processor.image_processor([e.image_path for e in batch], return_tensors="pt").pixel_values
        if transform is not None:
            pixel_values = torch.stack([transform(pixels, e) for pixels, e in zip(pixel_values, batch)])
        codes = model.vq_tokenizer.encode(pixel_values.to(model.device))
        prompts = processor.apply_chat_template(
            [
                [{"role": "user", "content": [{"type": "text", "text": e.prompt}, {"type": "image"}]}]
                for e in batch
            ],
            add_generation_prompt=True,
        )  # fmt: skip
        inputs = processor(text=prompts, image_codes=codes, return_tensors="pt", padding=True).to(model.device)
        output = model.generate(**inputs, generation_mode="text", do_sample=False, max_new_tokens=max_new_tokens)
        texts = processor.post_process_multimodal_output(
            output[:, inputs.input_ids.shape[1] :], generation_mode="text"
        )
        return [text.strip() for text in texts]

    return produce


def image_generator(
    model: LlmCxrForCausalLM,
    processor: LlmCxrProcessor,
    seed: int = 0,
    num_images: int = 1,
    instruction: str = IMAGE_INSTRUCTION,
    **generate_kwargs,
) -> Callable[[list[Example]], np.ndarray]:
    """
    A function for [`generate`] that draws the prompts of examples: codes, `np.uint16` of shape
    `(len(batch), num_images * num_image_tokens)`. The images of an example depend on `seed` and its id, not on its batch.

    Args:
        model ([`LlmCxrForCausalLM`]), processor ([`LlmCxrProcessor`]):
            A checkpoint.
        seed (`int`, *optional*, defaults to 0):
            Another seed draws other images.
        num_images (`int`, *optional*, defaults to 1):
            Images an example.
        instruction (`str`, *optional*):
            The instruction of the prompt.
        **generate_kwargs:
            Passed to [`LlmCxrForCausalLM.generate_image`]: `guidance_scale`, `temperature`, `top_k`, `top_p`.
    """

    def produce(batch: list[Example]) -> np.ndarray:
        prompts = processor.image_prompts([e.prompt for e in batch], instruction)
        inputs = processor(text=prompts, return_tensors="pt", padding=True).to(model.device)
        output = model.generate_image(
            inputs.input_ids,
            attention_mask=inputs.attention_mask,
            num_images=num_images,
            seed=[seed_of(seed, e) + i for e in batch for i in range(num_images)],
            **processor.with_negative_prompt(generate_kwargs, instruction, model.device),
        )
        return output.codes.cpu().numpy().astype(np.uint16).reshape(len(batch), -1)

    return produce


def code_generator(model: LlmCxrForCausalLM, processor: LlmCxrProcessor) -> Callable[[list[Example]], np.ndarray]:
    """A function for [`generate`] that encodes the X-rays of examples: `np.uint16`, `(len(batch), num_image_tokens)`."""

    @torch.no_grad()
    def produce(batch: list[Example]) -> np.ndarray:
        pixel_values = processor.image_processor([e.image_path for e in batch], return_tensors="pt").pixel_values
        return model.vq_tokenizer.encode(pixel_values.to(model.device)).cpu().numpy().astype(np.uint16)

    return produce


def interleaved_generator(
    model: LlmCxrForCausalLM, processor: LlmCxrProcessor, seed: int = 0, temperature: float = 2.0
) -> Callable[[list[Example]], list[str]]:
    """
    A function for [`generate`] that draws with the model's `generate`, which ends images by itself under the grammar: the
    token ids that it gives, with a space between them. A hot temperature shows whether images are whole.
    """
    num_codes = processor.num_image_tokens

    @torch.no_grad()
    def produce(batch: list[Example]) -> list[str]:
        prompts = processor.image_prompts([e.prompt for e in batch], IMAGE_INSTRUCTION)
        inputs = processor(text=prompts, return_tensors="pt", padding=True).to(model.device)
        # `generate` draws a batch from one stream of random numbers.
        with torch.random.fork_rng():
            torch.manual_seed(seed_of(seed, batch[0]))
            output = model.generate(
                **inputs,
                do_sample=True,
                temperature=temperature,
                top_k=0,
                max_new_tokens=num_codes + 8,
                generation_mode="text",
            )
        new = output[:, inputs.input_ids.shape[1] :].tolist()
        return [" ".join(map(str, ids)) for ids in new]

    return produce


def is_well_formed(output: str, processor: LlmCxrProcessor) -> bool:
    """Whether an output of [`interleaved_generator`] is an image of all its codes, its end, and no code after it."""
    ids, length = list(map(int, output.split(" "))), processor.num_image_tokens
    is_code = [0 <= i - processor.image_token_offset < processor.codebook_size for i in ids]
    ends = len(ids) > length and ids[length] == processor.eoi_token_id
    return all(is_code[:length]) and ends and not any(is_code[length:])


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _write(path: Path, batch: list[Example], outputs: list[str] | np.ndarray, cost: dict) -> None:
    columns = {"id": [e.id for e in batch], "prompt": [e.prompt for e in batch]}
    columns |= {name: [value] * len(batch) for name, value in cost.items()}
    if isinstance(outputs, np.ndarray):
        columns["codes"] = pa.array(list(outputs), type=pa.list_(pa.uint16()))
    else:
        columns["text"] = outputs
    with atomic_write(path) as partial:
        pyarrow.parquet.write_table(pa.table(columns), partial)
