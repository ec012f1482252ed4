"""Tiny random checkpoints in the format of the released LLM-CXR, and what its own code would compute with them."""

import copy
import json

import numpy as np
import PIL.Image
import pytest
import tokenizers
import torch
import torchvision.transforms.functional as tvF
from safetensors.torch import load_file, save_file
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor, AutoTokenizer, GPTNeoXConfig

from transformers_cxr import (
    LlmCxrForCausalLM,
    convert_official_checkpoint,
    export_language_model,
    generate_image,
    generate_text,
)

TEXT_TOKENS, CODEBOOK_SIZE, NUM_CODES = 50281, 1024, 256
VOCABULARY = TEXT_TOKENS + CODEBOOK_SIZE
INSTRUCTION_TOKENS = ["### End", "### Instruction:", "### Response:\n"]
REPORT_INSTRUCTION = "Generate free-text radiology reports for the entered chest X-ray images."
IMAGE_INSTRUCTION = (
    "Generate a chest X-ray image that corresponds to the entered free-text radiology reports for the chest X-ray "
    "image."
)
REPORT = "Moderate right pleural effusion (<1 cm), SpO2 > 90%.  No pneumothorax."
SETTINGS = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SETTINGS |= {"intermediate_size": 64, "tie_word_embeddings": False}


def write_tokenizer(folder, text_tokens=TEXT_TOKENS):
    """Write a byte-level BPE of `text_tokens` tokens like that of GPT-NeoX (NFC, runs of spaces as added tokens)."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # `image` becomes a token, and `<` and `>` merge with their neighbors.
    corpus = [REPORT_INSTRUCTION, IMAGE_INSTRUCTION, REPORT, "image\n\nimage <image> (<image>)", "a ><b >\n\n\n <c \n"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|padding|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus * 50, trainer)
    content = json.loads(tokenizer.to_str())
    vocabulary, spaces = content["model"]["vocab"], [" " * n for n in range(24, 1, -1)]
    while len(vocabulary) < text_tokens - len(spaces) - len(INSTRUCTION_TOKENS):
        vocabulary[f"unused{len(vocabulary)}"] = len(vocabulary)
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    tokenizer.add_tokens([tokenizers.AddedToken(run, normalized=True) for run in spaces])
    tokenizer.add_special_tokens(INSTRUCTION_TOKENS)
    assert tokenizer.get_vocab_size() == text_tokens
    tokenizer.save(str(folder / "tokenizer.json"))
    special = dict.fromkeys(["bos_token", "eos_token", "unk_token", "pad_token"], "<|endoftext|>")
    special["additional_special_tokens"] = INSTRUCTION_TOKENS
    settings = {**special, "add_prefix_space": False, "tokenizer_class": "GPTNeoXTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def official_weights(model):
    """Return the weights by the names of Transformers of 2023, with the tables that it saved too."""
    weights = {name.replace("lm_head.", "embed_out."): tensor for name, tensor in model.state_dict().items()}
    for layer in range(model.config.num_hidden_layers):
        prefix = f"gpt_neox.layers.{layer}.attention."
        weights[prefix + "bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()
        weights[prefix + "masked_bias"] = torch.tensor(-1e9)
        weights[prefix + "rotary_emb.inv_freq"] = torch.ones(1)
    return weights


def write_weights(folder, weights, kind):
    for file in [*folder.glob("*.bin*"), *folder.glob("*.safetensors*")]:
        file.unlink()
    stem, suffix = ("model", "safetensors") if "safetensors" in kind else ("pytorch_model", "bin")
    save = save_file if suffix == "safetensors" else torch.save
    if "sharded" not in kind:
        save(weights, folder / f"{stem}.{suffix}")
        return
    names, weight_map = list(weights), {}
    for number in range(3):
        file = f"{stem}-{number + 1:05d}-of-00003.{suffix}"
        part = {name: weights[name] for name in names[number::3]}
        save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.fixture(scope="module")
def official(tmp_path_factory, make_taming_vq_gan):
    """The release: GPT-NeoX, raw tokenizer, VQ-GAN, and the three paths that the converter takes."""
    folder = tmp_path_factory.mktemp("official")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(GPTNeoXConfig(**SETTINGS, initializer_range=0.3)).eval()
    language_model = folder / "llm-cxr"
    language_model.mkdir()
    write_tokenizer(language_model)
    rotary = {"max_position_embeddings": 2048, "rotary_emb_base": 10000, "rotary_pct": 0.25}
    settings = {**SETTINGS, **rotary, "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox"}
    settings |= {"bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "float32", "use_cache": True}
    (language_model / "config.json").write_text(json.dumps(settings))
    write_weights(language_model, official_weights(model), "bin")
    vq_gan, *paths = make_taming_vq_gan(
        folder, n_embed=CODEBOOK_SIZE, resolution=256, ch_mult=[1, 1, 1, 1, 1], attn_resolutions=[16]
    )
    tokenizer = tokenizers.Tokenizer.from_file(str(language_model / "tokenizer.json"))
    return model, tokenizer, vq_gan, (language_model, *paths)


@pytest.fixture(scope="module")
def converted(official, tmp_path_factory):
    """Model, processor and folder."""
    folder = tmp_path_factory.mktemp("converted") / "llm-cxr-3b"
    convert_official_checkpoint(*official[-1], folder)
    return AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder), folder


@pytest.fixture
def parts(official, tmp_path):
    """A copy of the release to change: its three paths, and where to write."""
    language_model, *paths = official[-1]
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in language_model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return [copy, *paths, tmp_path / "output"]


def official_prompt(instruction, context=None, response=None):
    text = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    text += f"\n\n### Instruction:\n{instruction}\n\n"
    text += "" if context is None else f"Input:\n{context}\n\n"
    return text + "### Response:\n" + ("" if response is None else f"{response}\n\n### End")


def official_ids(tokenizer, text, codes=None):
    """Tokenize a text as a whole; the middle one of the three tokens of `<image>` is replaced by the codes."""
    ids = tokenizer.encode(text).ids
    if codes is None:
        return ids
    slot = tokenizer.encode("<image>").ids
    (start,) = [i for i in range(len(ids)) if ids[i : i + 3] == slot]
    return ids[: start + 1] + [TEXT_TOKENS + code for code in codes] + ids[start + 2 :]


def official_pixels(image):
    image = image.convert("RGB")
    scale = 256 / min(image.size)
    size = (round(scale * image.size[1]), round(scale * image.size[0]))
    image = tvF.center_crop(tvF.resize(image, size, interpolation=tvF.InterpolationMode.LANCZOS), [256, 256])
    return 2.0 * tvF.to_tensor(image) - 1.0


def random_codes():
    return np.random.default_rng(0).integers(0, CODEBOOK_SIZE, NUM_CODES).tolist()


def random_image(height, width, *channels):
    array = np.random.default_rng(0).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    return PIL.Image.fromarray(array)


def chat(instruction, *parts):
    content = [{"type": "text", "text": instruction}]
    content += [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("instruction", "context"),
    [
        (REPORT_INSTRUCTION, "<image>"),
        ("Is the effusion > 1 cm? <answer with yes or no>", "<image>"),
        (IMAGE_INSTRUCTION, REPORT),
        ("What is deep learning?", None),
        ("Summarize.\n\nIn  two lines:\n", "It is a    <long> text.\n\n  - a\n  - b"),
    ],
    ids=["report", "question", "image", "text", "text with input"],
)
def test_prompt_ids_are_the_official_ones(official, converted, instruction, context):
    codes = random_codes() if context == "<image>" else None
    conversation = chat(instruction, *([] if context is None else [None if codes else context]))
    text = converted[1].apply_chat_template(conversation, add_generation_prompt=True)
    ids = converted[1](text=text, **({"image_codes": [codes]} if codes else {}))["input_ids"][0]
    assert ids == official_ids(official[1], official_prompt(instruction, context), codes)


def test_training_ids_of_a_generated_image_are_the_official_ones(official, converted):
    processor, codes = converted[1], random_codes()
    conversation = [*chat(IMAGE_INSTRUCTION, REPORT), {"role": "assistant", "content": [{"type": "image"}]}]
    ids = processor(text=processor.apply_chat_template(conversation), image_codes=[codes])["input_ids"][0]
    assert ids == official_ids(official[1], official_prompt(IMAGE_INSTRUCTION, REPORT, "<image>"), codes)


# Rounding down and to the nearest differ at these sizes, for the longer side and for the crop.
@pytest.mark.parametrize("size", [(301, 403), (403, 301), (100, 157, 3)])
def test_pixels_are_the_official_ones(converted, size):
    image = random_image(*size)
    pixel_values = converted[1].image_processor(image, return_tensors="pt").pixel_values[0]
    # Equal in steps of 8 bits; 2 x / 255 - 1 and x / 127.5 - 1 differ in the last digit of a float.
    assert torch.equal(((pixel_values + 1) * 127.5).round(), ((official_pixels(image) + 1) * 127.5).round())
    torch.testing.assert_close(pixel_values, official_pixels(image), rtol=0, atol=2e-7)


@torch.no_grad()
@pytest.mark.parametrize("instruction", [REPORT_INSTRUCTION, "Is there an effusion?", None])
def test_greedy_text_is_the_official_one(official, converted, instruction):
    plain, tokenizer, vq_gan, _ = official
    model, processor, _ = converted
    image = random_image(301, 403)
    pixel_values = processor.image_processor(image, return_tensors="pt").pixel_values
    codes = vq_gan.codes(official_pixels(image)[None])
    assert torch.equal(model.vq_tokenizer.encode(pixel_values), codes) and len(codes.unique()) > 50
    decoded = vq_gan.decode(codes, 16).clamp(-1, 1)
    torch.testing.assert_close(model.vq_tokenizer.decode(codes), decoded, rtol=0, atol=1e-4)
    if instruction is None:
        ids = official_ids(tokenizer, official_prompt("What is deep learning?"))
        text = processor.apply_chat_template(chat("What is deep learning?"), add_generation_prompt=True)
        inputs = processor(text=text, return_tensors="pt")
    else:
        ids = official_ids(tokenizer, official_prompt(instruction, "<image>"), codes[0].tolist())
        text = processor.apply_chat_template(chat(instruction, None), add_generation_prompt=True)
        inputs = processor(text=text, images=[image], return_tensors="pt")
    expected = plain.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        do_sample=False,
        max_new_tokens=30,
        suppress_tokens=list(range(TEXT_TOKENS, VOCABULARY)),
        eos_token_id=tokenizer.token_to_id("### End"),
        pad_token_id=0,
    )
    output = model.generate(**inputs, generation_mode="text", do_sample=False, top_p=None, max_new_tokens=30)
    assert torch.equal(output, expected)
    assert len(expected[0, len(ids) :].unique()) > 3, "the model repeats itself: the test would see little"
    if instruction == REPORT_INSTRUCTION:  # the default
        report = generate_text(model, processor, image, do_sample=False, max_new_tokens=30)
        assert report == [processor.tokenizer.decode(expected[0, len(ids) :], skip_special_tokens=True).strip()]


@torch.no_grad()
def test_greedy_image_is_the_official_one(official, converted):
    plain, tokenizer, vq_gan, _ = official
    model, processor, _ = converted
    ids = official_ids(tokenizer, official_prompt(IMAGE_INSTRUCTION, REPORT)) + tokenizer.encode("<").ids
    expected = plain.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        do_sample=False,
        max_new_tokens=NUM_CODES,
        prefix_allowed_tokens_fn=lambda batch, row: list(range(TEXT_TOKENS, VOCABULARY)),
        pad_token_id=0,
    )[:, len(ids) :]
    codes = generate_image(model, processor, REPORT, output_type="codes", do_sample=False)
    assert torch.equal(torch.as_tensor(codes) + TEXT_TOKENS, expected)


def test_a_converted_checkpoint_has_the_settings_of_the_release(official, converted):
    model, processor, folder = converted
    loaded, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert torch.equal(loaded.get_input_embeddings().weight, official[0].get_input_embeddings().weight)
    config = (folder / "config.json").read_text()
    assert model.config.image_token_offset == TEXT_TOKENS and model.config.image_token_id == VOCABULARY
    assert model.config.text_config.eos_token_id == 0 and str(official[-1][0]) not in config
    generation = model.generation_config
    assert (generation.do_sample, generation.top_p, generation.top_k) == (True, 0.92, 0)
    assert generation.image_generation["top_p"] == 0.92
    assert (processor.report_instruction, processor.image_instruction) == (REPORT_INSTRUCTION, IMAGE_INSTRUCTION)
    assert generation.eos_token_id == official[1].token_to_id("### End")
    model.check_processor(processor)


def test_code_in_the_weights_is_not_executed(official, parts, trap, marker):
    torch.save(official_weights(official[0]) | {"trap": trap}, parts[0] / "pytorch_model.bin")
    with pytest.raises(ValueError, match="Nothing in it was executed"):
        convert_official_checkpoint(*parts)
    assert not marker.exists() and not parts[-1].exists()


@pytest.mark.parametrize(("kind", "dtype"), [("sharded bin", None), ("safetensors", torch.float32)])
def test_weights_of_every_kind_and_dtype_convert(official, parts, kind, dtype):
    source = copy.deepcopy(official[0]).bfloat16()
    write_weights(parts[0], official_weights(source), kind)
    convert_official_checkpoint(*parts, dtype=dtype)
    model, info = AutoModel.from_pretrained(parts[-1], output_loading_info=True)
    assert not any(info.values()), info
    assert model.vq_tokenizer.dtype == torch.float32
    weight = source.get_input_embeddings().weight.to(dtype or torch.bfloat16)
    assert torch.equal(model.get_input_embeddings().weight, weight)


def change_config(**fields):
    def change(parts, official):
        path = parts[0] / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def truncate(parts, _):
    path = parts[0] / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-5000])


def remove(name):
    return lambda parts, _: (parts[0] / name).unlink()


def plain_tokenizer(parts, _):
    for path in parts[0].glob("tokenizer*.json"):
        path.write_text(path.read_text().replace("### Response:", "### Answer:"))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (remove("pytorch_model.bin"), ValueError, "no file named model.safetensors, or pytorch_model.bin"),
        (truncate, ValueError, "it is incomplete"),
        (change_config(num_hidden_layers=3), ValueError, "`config.json` does not match.* missing: gpt_neox.layers.2"),
        (change_config(model_type="llama"), ValueError, "of type 'llama'.*from_language_model"),
        (remove("tokenizer.json"), FileNotFoundError, "No `tokenizer.json`"),
        (lambda parts, _: write_tokenizer(parts[0], 50282), ValueError, "of 50281 tokens .*51305 .*got 50282"),
        (plain_tokenizer, ValueError, "lacks the tokens .*### Response:.*not that of LLM-CXR"),
        (lambda parts, _: parts[-1].mkdir(), FileExistsError, "output' exists"),
    ],
)
def test_parts_that_cannot_be_converted_are_named_and_nothing_is_written(official, parts, change, error, message):
    change(parts, official)
    before = sorted(parts[-1].parent.rglob("*"))
    with pytest.raises(error, match=message):
        convert_official_checkpoint(*parts)
    assert sorted(parts[-1].parent.rglob("*")) == before


def change_weight(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"][0, 0] += 1e-3
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_architecture(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["use_parallel_residual"] = False
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [(change_weight, "weights differ from their source in lm_head.weight"), (change_architecture, "logits")],
)
def test_a_wrong_conversion_is_an_error_and_leaves_nothing(parts, monkeypatch, change, message):
    save = LlmCxrForCausalLM.save_pretrained

    def save_wrongly(model, folder):
        save(model, folder)
        change(folder)

    monkeypatch.setattr(LlmCxrForCausalLM, "save_pretrained", save_wrongly)
    with pytest.raises(ValueError, match=message):
        convert_official_checkpoint(*parts)
    assert [path.name for path in parts[-1].parent.iterdir()] == ["copy"]


def test_exported_backbone_and_tokenizer_are_those_of_the_release(official, converted, tmp_path):
    plain, raw, _, _ = official
    export_language_model(*converted[:2], tmp_path / "plain")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    assert type(exported) is type(plain) and len(tokenizer) == VOCABULARY
    for name, tensor in plain.state_dict().items():
        assert torch.equal(exported.state_dict()[name], tensor)
    codes = random_codes()
    image = "<" + "".join(f"<|cxr_{code:04d}|>" for code in codes) + ">"
    expected = official_ids(raw, official_prompt(REPORT_INSTRUCTION, "<image>"), codes)
    assert tokenizer(official_prompt(REPORT_INSTRUCTION, image)).input_ids == expected
    # Without codes it is the tokenizer of the release.
    prompt = official_prompt(IMAGE_INSTRUCTION, "<image>")
    assert tokenizer(prompt).input_ids == official_ids(raw, prompt)
