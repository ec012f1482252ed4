"""`examples/make_texts.py` with a tiny random model."""

import pytest

from transformers_cxr.data import read_texts

CHAT_TEMPLATE = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"


@pytest.fixture
def make_texts(load_script):
    with load_script("examples/make_texts.py") as module:
        yield module


@pytest.fixture
def generate(make_texts, llama, text_tokenizer, tmp_path):
    """`generate(file name)`: texts of a model that is so uncertain that only some answers end in time."""
    llama.get_output_embeddings().weight.data.mul_(0.1)
    llama.save_pretrained(tmp_path / "model")
    text_tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").write_text(CHAT_TEMPLATE)

    def generate(name, **changes):
        settings = {"num_prompts": 16, "batch_size": 16, "max_new_tokens": 150} | changes
        output = str(tmp_path / name)
        make_texts.main(make_texts.Arguments(model=str(tmp_path / "model"), output=output, **settings))
        return read_texts(output)["messages"][:]

    return generate


def test_complete_answers_become_texts_that_depend_on_the_seed(make_texts, generate, capsys):
    rows = generate("texts.parquet")
    assert 0 < len(rows) < 16
    assert f"{len(rows)} of 16 answers are complete" in capsys.readouterr().out
    prompts = {each.format(topic=topic) for each in make_texts.INSTRUCTIONS for topic in make_texts.TOPICS}
    for user, assistant in rows:
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert user["content"][0]["text"] in prompts and assistant["content"][0]["text"].strip()
    assert len({user["content"][0]["text"] for user, _ in rows}) == len(rows)
    assert generate("again.parquet") == rows
    assert generate("other.parquet", seed=1) != rows


def test_an_existing_output_is_an_error_before_the_model_is_loaded(make_texts, tmp_path):
    (tmp_path / "texts.parquet").write_bytes(b"")
    with pytest.raises(FileExistsError, match="texts.parquet' exists. Remove it or choose another output"):
        make_texts.main(make_texts.Arguments(model="missing", output=str(tmp_path / "texts.parquet")))
