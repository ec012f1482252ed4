"""A model on a server, in place of a local model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from transformers import AutoProcessor, GenerationConfig

from ..checkpoints import find_checkpoint, load_vq_tokenizer
from ..llm_cxr.configuration_llm_cxr import LlmCxrConfig
from ..llm_cxr.generation_llm_cxr import LlmCxrGenerationMixin, image_seeds
from ..llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer
from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
from ..llm_cxr.processing_llm_cxr import LlmCxrProcessor, code_token

try:
    import openai
except ImportError as error:
    raise ImportError("A server needs the client openai: `pip install transformers-cxr[serve]`.") from error

# The lowest bias of the OpenAI API.
EXCLUDED = -100
# Prompts that compare a server with a local model. A lower precision changes few of the most likely codes.
NUM_PROBES = 64
MIN_AGREEMENT = 0.75


class ServerModel(LlmCxrGenerationMixin):
    """
    An LLM-CXR whose language model runs on a server, such as `vllm serve`. [`generate_text`] and [`generate_image`]
    take it in place of a model. Images are encoded and decoded here, and prompts are sent as token ids, so that the
    server reads what the model would read. The requests of a batch run at the same time.

    Args:
        url (`str`):
            URL of the server, such as "http://localhost:8000".
        config ([`LlmCxrConfig`]), generation_config (`GenerationConfig`), vq_tokenizer ([`CXRVQTokenizer`]):
            Parts of the checkpoint that the server runs.

    Raises:
        ConnectionError: No server answers.
        ValueError: The server runs another model, or does not keep to allowed tokens.
    """

    check_processor = LlmCxrForCausalLM.check_processor

    def __init__(
        self, url: str, config: LlmCxrConfig, generation_config: GenerationConfig, vq_tokenizer: CXRVQTokenizer
    ):
        self.url = url
        self.config = config
        self.generation_config = generation_config
        self.vq_tokenizer = vq_tokenizer
        self.device = vq_tokenizer.device
        # The server, unlike the service of OpenAI, needs no key.
        self.client = openai.OpenAI(base_url=f"{url.rstrip('/').removesuffix('/v1')}/v1", api_key="none")
        self.name = self._send(lambda: self.client.models.list().data[0].id)
        self._check_model()

    def _check_model(self) -> None:
        """Raise a `ValueError` unless the server continues with a code that is the only allowed token."""
        first = self.config.image_token_offset
        request = {"max_tokens": 1, "temperature": 0}
        extra = {"allowed_token_ids": [first], "skip_special_tokens": False, "return_token_ids": True}
        choice = self._send(
            lambda: self.client.completions.create(
                model=self.name, prompt=[self.config.boi_token_id], **request, extra_body=extra
            ).choices[0]
        )
        if getattr(choice, "token_ids", None) != [first]:
            raise ValueError(
                f"The server at '{self.url}' does not keep to `allowed_token_ids`, without which images are not "
                "whole. vLLM does."
            )
        if choice.text != code_token(0):
            raise ValueError(
                f"The server at '{self.url}' runs another model, '{self.name}': its token {first} is '{choice.text}' "
                f"and not '{code_token(0)}'. Give its checkpoint as `--model`."
            )

    @torch.no_grad()
    def check_weights(self, model: LlmCxrForCausalLM) -> None:
        """Raise a `ValueError` unless the server has the weights of a local model: it continues images alike."""
        first, size = self.config.image_token_offset, self.config.vq_config.codebook_size
        codes = torch.arange(NUM_PROBES) * 37 % size + first
        ids = torch.cat([torch.tensor([self.config.boi_token_id]), codes])
        logits = model(ids[None].to(model.device)).logits[0, :NUM_PROBES, first : first + size].cpu()
        prompts = [ids[: length + 1] for length in range(NUM_PROBES)]
        served = torch.tensor(self._complete(prompts, [self._image_request(1, do_sample=False)] * NUM_PROBES))
        agreement = float((logits.argmax(-1) + first == served[:, 0]).float().mean())
        if agreement < MIN_AGREEMENT:
            raise ValueError(
                f"The server at '{self.url}' has other weights than the checkpoint: only {agreement:.0%} of its most "
                "likely codes are the same. Give the checkpoint that it runs as `--model`."
            )

    def _send(self, request):
        """Return the answer of the server, with the errors of the client in words."""
        try:
            return request()
        except openai.APIConnectionError as error:
            reason = error.__cause__ or error
            raise ConnectionError(f"No answer from the server at '{self.url}': {reason}.") from error
        except openai.APIStatusError as error:
            raise ValueError(f"The server at '{self.url}' refused a request: {error.message}") from error

    def _complete(self, prompts: Sequence[torch.LongTensor], requests: Sequence[dict[str, Any]]) -> list[list[int]]:
        """Return the new ids of prompts, each with the fields of its request."""

        def complete(prompt: torch.LongTensor, request: dict[str, Any]) -> list[int]:
            extra = {"return_token_ids": True, **request}
            answer = self._send(
                lambda: self.client.completions.create(model=self.name, prompt=prompt.tolist(), extra_body=extra)
            )
            return answer.choices[0].token_ids

        with ThreadPoolExecutor(max_workers=len(prompts)) as pool:
            return list(pool.map(complete, prompts, requests))

    def generate(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.LongTensor,
        generation_mode: str = "text",
        streamer: None = None,
        **kwargs,
    ) -> torch.LongTensor:
        """
        Generate texts, as [`~LlmCxrForCausalLM.generate`] does. Samples are drawn from the random numbers of torch.

        Args:
            input_ids, attention_mask (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                Prompts, padded on the left.
            generation_mode (`str`, *optional*, defaults to `"text"`):
                The server has no grammar of images: only `"text"`.
            **kwargs:
                `max_new_tokens`, `do_sample`, `temperature`, `top_k`, `top_p` and `num_return_sequences`.

        Raises:
            ConnectionError: The server does not answer.
            ValueError: It refuses a request, or an argument is not known.
        """
        config, unknown = self._prepare_generation_config(None, **kwargs)
        if generation_mode != "text" or streamer is not None or config.num_beams != 1 or unknown:
            raise ValueError(
                "A server only generates whole texts without beams, with the arguments `max_new_tokens`, `do_sample`, "
                f"`temperature`, `top_k`, `top_p` and `num_return_sequences`; got {sorted(kwargs)}."
            )
        first = self.config.image_token_offset
        excluded = [*range(first, first + self.config.vq_config.codebook_size)]
        if not self.config.text_image_markers:
            excluded += [self.config.image_token_id, self.config.boi_token_id, self.config.eoi_token_id]
        request = {
            "max_tokens": config.max_new_tokens,
            "logit_bias": dict.fromkeys(map(str, excluded), EXCLUDED),
            **self._sampling(config.do_sample, config.temperature, config.top_k, config.top_p),
        }
        number = config.num_return_sequences
        prompts = [ids[kept.bool()] for ids, kept in zip(input_ids, attention_mask) for _ in range(number)]
        seeds = torch.randint(2**31, (len(prompts),)).tolist()
        answers = self._complete(prompts, [{**request, "seed": seed} for seed in seeds])
        new_ids = torch.full((len(answers), max(map(len, answers))), config.pad_token_id)
        for row, answer in zip(new_ids, answers):
            row[: len(answer)] = torch.tensor(answer)
        return torch.cat([input_ids.cpu().repeat_interleave(number, dim=0), new_ids], dim=1)

    def generate_image(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.LongTensor | None = None,
        num_images: int = 1,
        guidance_scale: float | None = None,
        negative_input_ids: torch.LongTensor | None = None,
        do_sample: bool = True,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | Sequence[int] | None = None,
        callback_on_step_end: Callable[[LlmCxrGenerationMixin, int, dict], object] | None = None,
        compile_config: None = None,
    ) -> torch.LongTensor:
        """
        Generate the codes of images, as [`~LlmCxrForCausalLM.generate_image`] does, without guidance. The random
        numbers of a seed are those of the server, and `callback_on_step_end` is called when all images are finished.

        Raises:
            ConnectionError: The server does not answer.
            ValueError: It refuses a request, or there is a `guidance_scale` above 1 or a `compile_config`.
        """
        defaults = self.image_generation
        guidance_scale = defaults.get("guidance_scale", 1.0) if guidance_scale is None else guidance_scale
        if guidance_scale > 1:
            raise ValueError(
                f"A server has no guidance, but `guidance_scale` is {guidance_scale}. Give 1 (`--guidance-scale 1`), "
                "or generate without the server."
            )
        if compile_config is not None:
            raise ValueError("A server compiles as it is started to: leave out `compile_config` (`--torch-compile`).")
        temperature = defaults.get("temperature", 1.0) if temperature is None else temperature
        top_k = defaults.get("top_k") if top_k is None else top_k
        top_p = defaults.get("top_p") if top_p is None else top_p
        length = self.config.vq_config.num_image_tokens
        request = self._image_request(length, do_sample, temperature, top_k, top_p)
        rows = self._image_prompts(input_ids, attention_mask)
        prompts = [row for row in rows for _ in range(num_images)]
        seeds = image_seeds(seed, len(prompts)) or [None] * len(prompts)
        answers = self._complete(prompts, [{**request, "seed": each} for each in seeds])
        codes = torch.tensor(answers) - self.config.image_token_offset
        for step in range(length) if callback_on_step_end is not None else ():
            callback_on_step_end(self, step, {"codes": codes[:, : step + 1]})
        return codes

    def _image_request(self, length: int, *sampling, **sampling_kwargs) -> dict[str, Any]:
        """Return a request for exactly `length` codes."""
        first = self.config.image_token_offset
        codes = list(range(first, first + self.config.vq_config.codebook_size))
        sampling = self._sampling(*sampling, **sampling_kwargs)
        return {"max_tokens": length, "min_tokens": length, "allowed_token_ids": codes, **sampling}

    @staticmethod
    def _sampling(do_sample: bool, temperature=None, top_k=None, top_p=None) -> dict[str, float]:
        if not do_sample:
            return {"temperature": 0}
        given = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        return {name: value for name, value in given.items() if value is not None}


def load_server_model(
    url: str, name: str | None = None, device: str | torch.device | None = None
) -> tuple[ServerModel, LlmCxrProcessor]:
    """
    Return a model on a server, and the processor of its checkpoint.

    Args:
        url (`str`): URL of the server, such as "http://localhost:8000".
        name (`str`, *optional*): Checkpoint that the server runs: a folder or Hub name; the embedded one by default.
        device (`str` or `torch.device`, *optional*): Device of the VQ-GAN; CUDA by default if available.

    Raises:
        ConnectionError: No server answers.
        ValueError, OSError: The server runs another model, or the device or the checkpoint does not exist.
    """
    path, _ = find_checkpoint(name)
    config = LlmCxrConfig.from_pretrained(path)
    vq_tokenizer, _ = load_vq_tokenizer(name, device)
    processor = AutoProcessor.from_pretrained(path)
    processor.vq_tokenizer = vq_tokenizer
    model = ServerModel(url, config, GenerationConfig.from_pretrained(path), vq_tokenizer)
    model.check_processor(processor)
    return model, processor
