import random
from pathlib import Path

import pytest

from transformers_cxr.data.conversations import text_conversation
from transformers_cxr.data.store import load_records

EXAMPLES = Path(__file__).parents[2] / "examples"
CHAT_TEMPLATE = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"


@pytest.fixture
def make_texts(load_script):
    with load_script("examples/make_texts.py") as module:
        yield module


@pytest.fixture
def write(make_texts, llama, text_tokenizer, tmp_path):
    """Writes 32 answers of a model that is so unsure that some end in time and some do not, and gives what was kept."""
    llama.get_output_embeddings().weight.data.mul_(0.1)
    llama.save_pretrained(tmp_path / "model")
    text_tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").write_text(CHAT_TEMPLATE)

    def write(name, **changes):
        settings = {"num_prompts": 32, "batch_size": 32, "max_new_tokens": 150} | changes
        output = str(tmp_path / name)
        make_texts.main(make_texts.Arguments(model=str(tmp_path / "model"), output=output, **settings))
        return list(load_records(output))

    return write


def test_answers_that_end_become_texts_to_train_on(make_texts, write, capsys):
    rows = write("texts.parquet")
    assert 0 < len(rows) < 32
    assert f"{len(rows)} answers of 32" in capsys.readouterr().out
    prompts = {
        instruction.format(topic=topic) for instruction in make_texts.INSTRUCTIONS for topic in make_texts.TOPICS
    }
    for row in rows:
        user, assistant = text_conversation(row, random.Random(0))["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert user["content"][0]["text"] in prompts
        assert assistant["content"][0]["text"].strip()
    assert len({row["messages"][0]["content"][0]["text"] for row in rows}) == len(rows)


def test_an_output_that_exists_is_refused_before_the_model_is_loaded(make_texts, tmp_path):
    (tmp_path / "texts.parquet").write_bytes(b"")
    with pytest.raises(FileExistsError, match="texts.parquet' exists. Remove it or choose another output"):
        make_texts.main(make_texts.Arguments(model="missing", output=str(tmp_path / "texts.parquet")))


def test_a_seed_gives_the_same_answers_and_another_one_others(write):
    first = write("first.parquet", num_prompts=8)
    assert write("again.parquet", num_prompts=8) == first
    assert write("other.parquet", num_prompts=8, seed=1) != first
