import pytest

from transformers_cxr.cli.json_lines import open_json_lines


def record(image, **settings):
    return {"image": image, "settings": settings, "report": "x", "generated": True}


def expected(image, **settings):
    return {"image": image, "settings": settings}


def test_records_are_found_again(tmp_path):
    path = tmp_path / "deep/records.jsonl"
    with open_json_lines(path, "image") as records:
        assert records.find(expected("ä.png", seed=1)) is None
        records.append([record("ä.png", seed=1), record("b.png", seed=1)])
        assert path.read_bytes().count(b"\n") == 2
    with open_json_lines(path, "image") as records:
        assert records.find(expected("ä.png", seed=1)) == record("ä.png", seed=1)
        with pytest.raises(ValueError, match="'b.png' with other settings: seed was 1 and is 2"):
            records.find(expected("b.png", seed=2))
        with pytest.raises(ValueError, match="seed was 1 and is None"):
            records.find(expected("b.png"))


def test_unfinished_last_line_is_removed(tmp_path):
    path = tmp_path / "records.jsonl"
    with open_json_lines(path, "image") as records:
        records.append([record("a.png")])
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"image": "c.png", "generated": true}')
    with open_json_lines(path, "image") as records:
        assert list(records.results) == [("a.png",)]
    assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"my notes", b"my notes\n", b'{"x": 1}\n', b"\xff\n"])
def test_file_with_other_content_is_left_unchanged(tmp_path, content):
    path = tmp_path / "records.jsonl"
    path.write_bytes(content)
    with pytest.raises(FileExistsError, match="was not written by this command"), open_json_lines(path, "image"):
        pass
    assert path.read_bytes() == content
