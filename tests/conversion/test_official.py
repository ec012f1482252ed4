"""The released LLM-CXR: tiny random checkpoints in its format, made here by other means, and what the converted ones do."""

import json
import os
import pickle

import numpy as np
import PIL.Image
import pytest
import tokenizers
import torch
import torchvision.transforms.functional as tvF
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GPTNeoXConfig,
    pipeline,
)

from transformers_cxr import convert_official_checkpoint, export_language_model, generate_image

TEXT_TOKENS, CODEBOOK_SIZE, NUM_CODES = 50281, 1024, 256
VOCABULARY = TEXT_TOKENS + CODEBOOK_SIZE
INSTRUCTION_TOKENS = ["### End", "### Instruction:", "### Response:\n"]
REPORT_INSTRUCTION = "Generate free-text radiology reports for the entered chest X-ray images."
IMAGE_INSTRUCTION = (
    "Create a chest X-ray image that corresponds to the free-text radiology reports entered for the chest X-ray image."
)
REPORT = "Moderate right pleural effusion (<1 cm), SpO2 > 90%.  No pneumothorax."


def write_tokenizer(folder, text_tokens=TEXT_TOKENS):
    """A byte-level BPE as GPT-NeoX has it (NFC, runs of spaces as added tokens), of exactly `text_tokens` tokens."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # `image` becomes a token, and `<` and `>` merge with what may stand beside them.
    corpus = [
        REPORT_INSTRUCTION,
        IMAGE_INSTRUCTION,
        REPORT,
        "image\n\nimage <image> (<image>).",
        "a ><b >\n\n\n <c \n\n",
    ]
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
    end_of_text = dict.fromkeys(["bos_token", "eos_token", "unk_token", "pad_token"], "<|endoftext|>")
    special = {**end_of_text, "additional_special_tokens": INSTRUCTION_TOKENS}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    settings = {**special, "add_prefix_space": False, "tokenizer_class": "GPTNeoXTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def official_weights(model, with_tables=True):
    """The names in which Transformers of 2023 saved a GPT-NeoX, with the tables that it saved too."""
    weights = {name.replace("lm_head.", "embed_out."): tensor for name, tensor in model.state_dict().items()}
    for layer in range(model.config.num_hidden_layers if with_tables else 0):
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
    names = list(weights)
    weight_map = {}
    for number in range(3):
        file = f"{stem}-{number + 1:05d}-of-00003.{suffix}"
        part = {name: weights[name] for name in names[number::3]}
        save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


@pytest.fixture(scope="module")
def official(tmp_path_factory, make_taming_vq_gan):
    """The release: GPT-NeoX, raw tokenizer, VQ-GAN, and the three paths that the converter takes."""
    folder = tmp_path_factory.mktemp("official")
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    language_model = folder / "llm-cxr"
    language_model.mkdir()
    write_tokenizer(language_model)
    settings = {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 2048,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
    }
    (language_model / "config.json").write_text(json.dumps(settings))
    write_weights(language_model, official_weights(model), "bin")
    vq_gan, config_path, checkpoint_path = make_taming_vq_gan(
        folder, n_embed=CODEBOOK_SIZE, resolution=256, ch_mult=[1, 1, 1, 1, 1], attn_resolutions=[16]
    )
    tokenizer = tokenizers.Tokenizer.from_file(str(language_model / "tokenizer.json"))
    return model, tokenizer, vq_gan, (language_model, config_path, checkpoint_path)


@pytest.fixture(scope="module")
def converted(official, tmp_path_factory):
    """Model, processor and folder."""
    folder = tmp_path_factory.mktemp("converted") / "llm-cxr-3b"
    convert_official_checkpoint(*official[-1], folder)
    return AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder), folder


@pytest.fixture
def parts(official, tmp_path):
    """A copy of the release to break: its three paths, and where to write."""
    language_model, config_path, checkpoint_path = official[-1]
    copy = tmp_path / "broken"
    copy.mkdir()
    for file in language_model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return [copy, config_path, checkpoint_path, tmp_path / "output"]


def official_prompt(instruction, context=None, response=None):
    text = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    text += f"\n\n### Instruction:\n{instruction}\n\n"
    text += "" if context is None else f"Input:\n{context}\n\n"
    return text + "### Response:\n" + ("" if response is None else f"{response}\n\n### End")


def official_ids(tokenizer, text, codes=None):
    """A text is tokenized as a whole; of the three tokens of `<image>`, the one in the middle gives way to the codes."""
    ids = tokenizer.encode(text).ids
    if codes is None:
        return ids
    slot = tokenizer.encode("<image>").ids
    assert len(slot) == 3
    (start,) = [i for i in range(len(ids)) if ids[i : i + 3] == slot]
    return ids[: start + 1] + [TEXT_TOKENS + code for code in codes] + ids[start + 2 :]


def random_codes(seed=0):
    return np.random.default_rng(seed).integers(0, CODEBOOK_SIZE, NUM_CODES).tolist()


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
        ("Summarise.\n\nIn  two lines:\n", "It is a    <long> text.\n\n  - a\n  - b"),
    ],
    ids=["report", "question", "image", "text", "text with input"],
)
def test_prompt_ids_are_the_official_ones(official, converted, instruction, context):
    tokenizer, (_, processor, _) = official[1], converted
    codes = random_codes() if context == "<image>" else None
    conversation = chat(instruction, *([] if context is None else [None if codes else context]))
    ids = processor.apply_chat_template(
        conversation,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        processor_kwargs={"image_codes": [codes]} if codes else {},
    )["input_ids"]
    assert ids[0] == official_ids(tokenizer, official_prompt(instruction, context), codes)


def test_training_ids_of_a_drawn_image_are_the_official_ones(official, converted):
    tokenizer, (_, processor, _) = official[1], converted
    codes = random_codes()
    conversation = [*chat(IMAGE_INSTRUCTION, REPORT), {"role": "assistant", "content": [{"type": "image"}]}]
    ids = processor(text=processor.apply_chat_template(conversation), image_codes=[codes])["input_ids"][0]
    assert ids == official_ids(tokenizer, official_prompt(IMAGE_INSTRUCTION, REPORT, "<image>"), codes)
    prompt = processor(text=processor.image_prompts([REPORT], IMAGE_INSTRUCTION))["input_ids"][0]
    assert prompt == ids[: len(prompt)] and ids[len(prompt)] == codes[0] + TEXT_TOKENS


def official_pixels(image):
    image = image.convert("RGB")
    scale = 256 / min(image.size)
    size = (round(scale * image.size[1]), round(scale * image.size[0]))
    image = tvF.center_crop(tvF.resize(image, size, interpolation=tvF.InterpolationMode.LANCZOS), [256, 256])
    return 2.0 * tvF.to_tensor(image) - 1.0


# Sizes at which rounding down and to the nearest differ, for the longer side and for the crop.
@pytest.mark.parametrize(
    "size", [(301, 403), (403, 301), (256, 259), (259, 256), (300, 301), (2544, 3056), (100, 157)]
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pixels_are_the_official_ones(converted, size, mode):
    shape = (size[1], size[0], 3) if mode == "RGB" else size[::-1]
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    ours = converted[1].image_processor(image, return_tensors="pt").pixel_values[0]
    # In steps of 8 bits they are the same; 2 x / 255 - 1 and x / 127.5 - 1 round the last digit of a float differently.
    assert torch.equal(((ours + 1) * 127.5).round(), ((official_pixels(image) + 1) * 127.5).round())
    torch.testing.assert_close(ours, official_pixels(image), rtol=0, atol=2e-7)


def test_codes_and_decoded_images_are_those_of_taming(official, converted):
    vq_gan, (model, processor, _) = official[2], converted
    image = PIL.Image.fromarray(np.random.default_rng(1).integers(0, 256, (403, 301, 3), dtype=np.uint8))
    with torch.no_grad():
        expected = vq_gan.codes(official_pixels(image)[None])
        codes = model.vq_tokenizer.encode(processor.image_processor(image, return_tensors="pt").pixel_values)
        assert torch.equal(codes, expected) and len(codes.unique()) > 50
        torch.testing.assert_close(
            model.vq_tokenizer.decode(codes), vq_gan.decode(codes, 16).clamp(-1, 1), rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("instruction", [REPORT_INSTRUCTION, "Is there an effusion?"])
def test_greedy_text_on_an_image_is_the_official_one(official, converted, instruction):
    plain, tokenizer, vq_gan, _ = official
    model, processor, _ = converted
    image = PIL.Image.fromarray(np.random.default_rng(2).integers(0, 256, (301, 403), dtype=np.uint8))
    with torch.no_grad():
        codes = vq_gan.codes(official_pixels(image)[None])[0].tolist()
    ids = torch.tensor([official_ids(tokenizer, official_prompt(instruction, "<image>"), codes)])
    end = tokenizer.token_to_id("### End")
    all_codes = list(range(TEXT_TOKENS, VOCABULARY))
    kwargs = {"do_sample": False, "max_new_tokens": 30, "eos_token_id": end, "pad_token_id": 0}
    expected = plain.generate(ids, attention_mask=torch.ones_like(ids), suppress_tokens=all_codes, **kwargs)
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "text", "text": instruction}, {"type": "image", "image": image}]}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    output = model.generate(**inputs, generation_mode="text", do_sample=False, top_p=None, max_new_tokens=30)
    assert torch.equal(output, expected)
    assert len(expected[0, ids.shape[1] :].unique()) > 3, "the model repeats itself: the test would see little"


def test_greedy_text_without_an_image_is_the_official_one(official, converted):
    plain, tokenizer, _, _ = official
    model, processor, _ = converted
    ids = torch.tensor([official_ids(tokenizer, official_prompt("What is deep learning?"))])
    expected = plain.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=30,
        suppress_tokens=list(range(TEXT_TOKENS, VOCABULARY)),
        eos_token_id=tokenizer.token_to_id("### End"),
        pad_token_id=0,
    )
    text = processor.apply_chat_template(chat("What is deep learning?"), add_generation_prompt=True)
    inputs = processor(text=text, return_tensors="pt")
    output = model.generate(**inputs, generation_mode="text", do_sample=False, top_p=None, max_new_tokens=30)
    assert torch.equal(output, expected)


def test_greedy_image_is_the_official_one(official, converted):
    plain, tokenizer, vq_gan, _ = official
    model, processor, _ = converted
    ids = official_ids(tokenizer, official_prompt(IMAGE_INSTRUCTION, REPORT)) + tokenizer.encode("<").ids
    all_codes = list(range(TEXT_TOKENS, VOCABULARY))
    with torch.no_grad():
        expected = plain.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=NUM_CODES,
            prefix_allowed_tokens_fn=lambda batch, row: all_codes,
            pad_token_id=0,
        )[:, len(ids) :]
        drawn = vq_gan.decode(expected - TEXT_TOKENS, 16).clamp(-1, 1)
    (text,) = processor.image_prompts([REPORT], IMAGE_INSTRUCTION)
    inputs = processor(text=text, return_tensors="pt")
    assert inputs.input_ids[0].tolist() == ids
    output = model.generate_image(**inputs, do_sample=False)
    assert torch.equal(output.codes + TEXT_TOKENS, expected)
    torch.testing.assert_close(output.pixel_values, drawn, rtol=0, atol=1e-4)


def test_free_generation_draws_whole_images(official, converted):
    model, processor, _ = converted
    boi = processor.boi_token_id
    with torch.no_grad():
        model.get_output_embeddings().bias = torch.nn.Parameter(torch.zeros(VOCABULARY), requires_grad=False)
        model.get_output_embeddings().bias[boi] = 20.0
        model.get_output_embeddings().bias[TEXT_TOKENS:] = 10.0
    text = processor.apply_chat_template(chat(IMAGE_INSTRUCTION, REPORT), add_generation_prompt=True)
    inputs = processor(text=[text] * 2, return_tensors="pt")
    torch.manual_seed(0)
    try:
        output = model.generate(**inputs, temperature=2.0, top_p=None, max_new_tokens=300, eos_token_id=-1)
    finally:
        model.get_output_embeddings().bias = None
    for row in output:
        _, images = processor.split_interleaved(row)
        assert images and (row >= TEXT_TOKENS).sum() == NUM_CODES * len(images)


def test_converted_checkpoint_loads_as_every_other(official, converted):
    model, processor, folder = converted
    for auto_class in (AutoModelForCausalLM, AutoModelForImageTextToText):
        loaded, info = auto_class.from_pretrained(folder, output_loading_info=True)
        assert not any(info.values()), info
        assert torch.equal(loaded.get_input_embeddings().weight, official[0].get_input_embeddings().weight)
    config, generation = model.config, model.generation_config
    assert (config.image_token_offset, config.image_token_id) == (TEXT_TOKENS, VOCABULARY)
    assert model.get_input_embeddings().weight.shape[0] == config.text_config.vocab_size == VOCABULARY
    assert (generation.do_sample, generation.top_p, generation.top_k) == (True, 0.92, 0)
    assert generation.eos_token_id == official[1].token_to_id("### End")
    model.check_processor(processor)


def test_pipelines_run_on_the_converted_checkpoint(converted):
    folder = str(converted[2])
    image = PIL.Image.new("L", (300, 400), 128)
    report = pipeline("cxr-report", model=folder)
    assert isinstance(report(image, max_new_tokens=5)[0]["generated_text"], str)
    answer = pipeline("cxr-vqa", model=folder)(image=image, question="Is there an effusion?", max_new_tokens=5)
    assert isinstance(answer[0]["generated_text"], str)
    (drawn,) = generate_image(*converted[:2], REPORT, instruction=IMAGE_INSTRUCTION, top_p=0.92, seed=0)
    assert drawn.size == (256, 256) and drawn.mode == "RGB"


@pytest.mark.parametrize("kind", ["sharded bin", "safetensors", "sharded safetensors"])
def test_weights_of_every_kind_convert(official, parts, kind):
    write_weights(parts[0], official_weights(official[0], with_tables=kind == "sharded bin"), kind)
    rows = convert_official_checkpoint(*parts)
    assert ("Weights of the language model", f"all {len(official[0].state_dict())} used") in rows
    converted = AutoModel.from_pretrained(parts[-1])
    for name, tensor in official[0].state_dict().items():
        assert torch.equal(converted.language_model.state_dict()[name], tensor)


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.float32])
def test_dtype_is_kept_or_what_was_asked_for_and_that_of_the_vq_gan_stays(official, parts, dtype):
    half = {name: tensor.bfloat16() for name, tensor in official_weights(official[0], with_tables=False).items()}
    write_weights(parts[0], half, "bin")
    convert_official_checkpoint(*parts, dtype=dtype)
    model = AutoModel.from_pretrained(parts[-1])
    assert model.language_model.dtype == (dtype or torch.bfloat16)
    assert model.vq_tokenizer.dtype == torch.float32
    expected = half["embed_out.weight"].to(dtype or torch.bfloat16)
    assert torch.equal(model.get_output_embeddings().weight, expected)


def test_large_weights_are_written_in_several_files(official, parts, monkeypatch):
    monkeypatch.setattr("transformers_cxr.conversion.official.MAX_SHARD_BYTES", 2**20)
    convert_official_checkpoint(*parts)
    files = sorted(parts[-1].glob("*.safetensors"))
    assert len(files) > 3 and files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    _, info = AutoModel.from_pretrained(parts[-1], output_loading_info=True)
    assert not any(info.values()), info
    index = json.loads((parts[-1] / "model.safetensors.index.json").read_text())
    total = 0
    for file in files:
        with safe_open(file, "pt") as content:
            total += sum(content.get_tensor(name).nbytes for name in content.keys())
    assert index["metadata"]["total_size"] == total


class Hostile:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def remove_shard(parts, official):
    write_weights(parts[0], official_weights(official[0]), "sharded bin")
    (parts[0] / "pytorch_model-00002-of-00003.bin").unlink()


def promise_more_than_there_is(parts, official):
    write_weights(parts[0], official_weights(official[0]), "sharded bin")
    path = parts[0] / "pytorch_model-00002-of-00003.bin"
    tensors = torch.load(path, weights_only=True)
    tensors.pop("gpt_neox.final_layer_norm.weight", None)
    tensors.pop(next(iter(tensors)))
    torch.save(tensors, path)


def remove_weights(parts, official):
    (parts[0] / "pytorch_model.bin").unlink()


def truncate_bin(parts, official):
    path = parts[0] / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-5000])


def truncate_safetensors(parts, official):
    write_weights(parts[0], official_weights(official[0], with_tables=False), "safetensors")
    path = parts[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5000])


def truncate_vq_gan(parts, official):
    broken = parts[0] / "last.ckpt"
    broken.write_bytes(parts[2].read_bytes()[:-5000])
    parts[2] = broken


def empty_bin(parts, official):
    (parts[0] / "pytorch_model.bin").write_bytes(b"")


def deeper_config(parts, official):
    path = parts[0] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 3}))


def wider_config(parts, official):
    path = parts[0] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 128}))


def shallower_config(parts, official):
    path = parts[0] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 1}))


def another_architecture(parts, official):
    path = parts[0] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "llama"}))


def broken_config(parts, official):
    (parts[0] / "config.json").write_text("{")


def no_config(parts, official):
    (parts[0] / "config.json").unlink()


def no_tokenizer(parts, official):
    (parts[0] / "tokenizer.json").unlink()


def truncated_tokenizer(parts, official):
    path = parts[0] / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:-5000])


def longer_tokenizer(parts, official):
    write_tokenizer(parts[0], TEXT_TOKENS + 1)


def plain_tokenizer(parts, official):
    path = parts[0] / "tokenizer.json"
    path.write_text(path.read_text().replace("### Response:", "### Answer:"))
    settings = parts[0] / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace("### Response:", "### Answer:"))
    (parts[0] / "special_tokens_map.json").unlink()


def no_vq_gan(parts, official):
    parts[2] = parts[0] / "missing.ckpt"


def other_vq_gan(parts, official):
    path = parts[0] / "model.yaml"
    path.write_text(parts[1].read_text().replace("ch: 32", "ch: 64"))
    parts[1] = path


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (remove_shard, FileNotFoundError, "lacks pytorch_model-00002-of-00003.bin, 1 of the 3 files"),
        (promise_more_than_there_is, ValueError, "00002-of-00003.bin' lacks gpt_neox.*the index of the weights says"),
        (remove_weights, FileNotFoundError, "No weights in .*zero_to_fp32.py"),
        (truncate_bin, ValueError, "pytorch_model.bin': it is truncated"),
        (truncate_safetensors, ValueError, "model.safetensors': it is truncated"),
        (truncate_vq_gan, ValueError, "last.ckpt': it is truncated"),
        (empty_bin, ValueError, "pytorch_model.bin': it is truncated"),
        (deeper_config, ValueError, r"`config.json` does not match.*are missing: gpt_neox.layers.2.* and \d+ more"),
        (shallower_config, ValueError, "`config.json` does not match.*are left over: gpt_neox.layers.1."),
        (
            wider_config,
            ValueError,
            r"`config.json` does not match.*another shape: .*\(64, 32\) instead of \(128, 32\)",
        ),
        (another_architecture, ValueError, "of type 'llama'.*from_language_model"),
        (broken_config, ValueError, "config.json' is not a JSON file"),
        (no_config, FileNotFoundError, "No `config.json`"),
        (no_tokenizer, FileNotFoundError, "No `tokenizer.json`"),
        (truncated_tokenizer, ValueError, "tokenizer.json' is not a JSON file"),
        (longer_tokenizer, ValueError, "50282 tokens.*makes 51306.*has 51305 embeddings. Expected .* of 50281 tokens"),
        (plain_tokenizer, ValueError, "lacks the tokens .*### Response:.*not that of LLM-CXR"),
        (no_vq_gan, FileNotFoundError, "missing.ckpt"),
        (other_vq_gan, ValueError, "does not match the weights"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_converted_is_named_and_nothing_is_written(official, parts, damage, error, message):
    damage(parts, official)
    with pytest.raises(error, match=message):
        convert_official_checkpoint(*parts)
    assert [path.name for path in parts[-1].parent.iterdir()] == ["broken"]


@pytest.mark.parametrize("format", ["zip", "before torch 1.6", "bare pickle"])
@pytest.mark.parametrize("where", ["language model", "VQ-GAN"])
def test_pickles_that_run_code_are_refused_and_not_run(official, parts, where, format):
    trap = parts[0] / "executed"
    path = parts[0] / ("pytorch_model.bin" if where == "language model" else "hostile.ckpt")
    content = {"state_dict": official_weights(official[0]), "hostile": Hostile(trap)}
    if format == "bare pickle":
        path.write_bytes(pickle.dumps({"hostile": Hostile(trap)}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=format == "zip")
    if where == "VQ-GAN":
        parts[2] = path
    with pytest.raises(ValueError, match=path.name):
        convert_official_checkpoint(*parts)
    assert not trap.exists() and not parts[-1].exists()
    # The trap works.
    if format == "bare pickle":
        pickle.loads(path.read_bytes())
        assert trap.exists()


def test_existing_output_is_left_alone(parts):
    parts[-1].mkdir()
    (parts[-1] / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="output' exists"):
        convert_official_checkpoint(*parts)
    assert [path.name for path in parts[-1].iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("part", "message"), [("lm_head", "logits of the converted model differ"), ("vq_tokenizer", "VQ-GAN differs")]
)
def test_a_conversion_that_went_wrong_is_noticed_and_leaves_nothing(parts, monkeypatch, part, message):
    saved = save_file

    def save_wrongly(tensors, *args, **kwargs):
        name = {"lm_head": "language_model.embed_out.weight", "vq_tokenizer": "vq_tokenizer.vq_model.quant_conv.bias"}[
            part
        ]
        if name in tensors:
            tensors = {**tensors, name: tensors[name] + 1e-3}
        saved(tensors, *args, **kwargs)

    monkeypatch.setattr("transformers_cxr.conversion.official.save_file", save_wrongly)
    with pytest.raises(ValueError, match=message):
        convert_official_checkpoint(*parts)
    assert [path.name for path in parts[-1].parent.iterdir()] == ["broken"]


def test_exported_backbone_and_tokenizer_are_those_of_the_release(official, converted, tmp_path):
    plain, raw, _, _ = official
    model, processor, _ = converted
    export_language_model(model, processor, tmp_path / "plain")
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
    assert tokenizer(official_prompt(IMAGE_INSTRUCTION, "<image>")).input_ids == official_ids(
        raw, official_prompt(IMAGE_INSTRUCTION, "<image>")
    )
