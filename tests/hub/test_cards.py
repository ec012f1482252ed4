"""Model cards: new ones, and what a card needs before it is published."""

import re
import shutil

import PIL.Image
import pytest
from huggingface_hub import ModelCard

from transformers_cxr import LlmCxrForCausalLM, checkpoint, save_with_remote_code
from transformers_cxr.hub import Training, add_remote_code, check_model_card, model_card
from transformers_cxr.hub.cards import NOTICE, REQUIRED
from transformers_cxr.training import add_lora

COMPLETE = "---\nlicense: mit\nlanguage: en\nlibrary_name: transformers\npipeline_tag: image-text-to-text\n"
COMPLETE += f"datasets: [kermany]\n---\n\n# A model\n\n{NOTICE}\n"


def write(folder, text):
    (folder / "README.md").write_text(text)
    return folder


def test_the_card_of_the_embedded_checkpoint_can_be_published():
    check_model_card(checkpoint("llm-cxr"))


@pytest.mark.parametrize(
    ("base_card", "expected"),
    [
        ("---\nlicense: other\nlicense_name: own\nbase_model: a/base\n---\n", ("other", "own", "a/base")),
        ("---\nlicense: mit\nmodel_name: llm-cxr\n---\n", ("mit", None, "llm-cxr")),
        ("---\nlanguage: de\n---\n", (None, None, None)),
        (None, (None, None, None)),
    ],
)
def test_license_base_and_language_are_those_of_the_base(checkpoint_dir, tmp_path, base_card, expected):
    (tmp_path / "base").mkdir()
    if base_card:
        write(tmp_path / "base", base_card)
    settings = {"learning_rate": 1e-4, "classifier": str(tmp_path / "classifier"), "lora": {}}
    training = Training(str(tmp_path / "base"), ["Site A", "org/data"], settings, {"eval_loss": 1.23456})
    card = ModelCard(str(model_card(checkpoint_dir, training)))
    data = card.data
    assert (data.license, data.license_name, data.base_model) == expected
    assert data.language == ("de" if base_card and "language: de" in base_card else "en")
    assert data.datasets == ["site-a", "org/data"] and {"research-only", "text-to-image"} <= set(data.tags)
    assert f"| Base | {expected[2] or 'base'} |" in card.text and "| `eval_loss` | 1.235 |" in card.text
    assert "| `classifier` | `classifier` |" in card.text and "lora" not in card.text
    assert str(tmp_path) not in card.content


@pytest.mark.parametrize("kind", ["model", "image tokenizer", "adapter"])
@pytest.mark.parametrize("remote_code", [True, False])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # PEFT reads a deprecated name
def test_the_code_in_a_card_runs(tiny_model, tmp_path, monkeypatch, kind, remote_code):
    monkeypatch.chdir(tmp_path)
    PIL.Image.new("L", (40, 40), 99).save("xray.png")
    model, processor = tiny_model
    save_with_remote_code(model, processor, "base")
    write(tmp_path / "base", "---\nmodel_name: base\n---\n")
    parts = {
        "model": lambda: tiny_model,
        "image tokenizer": lambda: (model.vq_tokenizer, processor.image_processor),
        "adapter": lambda: (add_lora(model, processor, r=2), processor),
    }
    for part in parts[kind]():
        part.save_pretrained("own")
    if remote_code:
        add_remote_code("own")
    card, namespace = model_card("own", Training("base", ["a"])), {}
    code = re.search(r"```python\n(.*?)```", card.text, re.DOTALL)[1]
    assert ("trust_remote_code" in code) == remote_code != ("import transformers_cxr" in code)
    exec(code, namespace)
    if kind == "adapter":
        assert type(namespace["model"]) is LlmCxrForCausalLM
    assert kind != "image tokenizer" or namespace["codes"].shape == (1, 16)


def test_a_damaged_card_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"The metadata of the model card '{tmp_path}/README.md' are not valid"):
        check_model_card(write(tmp_path, "---\nlicense: [mit\n---\n"))


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        (COMPLETE.replace("license: mit\n", ""), ["`license`"]),
        (COMPLETE.replace("datasets: [kermany]", "datasets: []"), ["`datasets`"]),
        (COMPLETE.replace(NOTICE, "Generated."), ["Research only"]),
        ("# A model\n", [*(f"`{name}`" for name in REQUIRED), "Research only"]),
        # What PEFT writes.
        ("---\nlibrary_name: peft\npipeline_tag: text-generation\n---\n", ["`license`", "`language`", "`datasets`"]),
    ],
)
def test_all_that_a_card_lacks_is_named(tmp_path, text, missing):
    with pytest.raises(ValueError, match=f"'{tmp_path}/README.md' lacks .*Add what is missing") as error:
        check_model_card(write(tmp_path, text))
    assert all(name in str(error.value) for name in missing)
    assert "`license`" in missing or "`license`" not in str(error.value)
    check_model_card(write(tmp_path, COMPLETE))


def test_a_folder_without_a_card_is_an_error(checkpoint_dir, tmp_path):
    shutil.copytree(checkpoint_dir, tmp_path / "model")
    with pytest.raises(FileNotFoundError, match=r"has no model card \(README.md\)"):
        check_model_card(tmp_path / "model")
