import gzip

import pytest

from transformers_cxr.data.readers.rows import read_rows


def test_compressed_table_with_a_byte_order_mark_is_read(tmp_path):
    with gzip.open(tmp_path / "t.csv.gz", "wt", encoding="utf-8-sig") as file:
        file.write("file,text\n1.png,Clear.,,\n")
    assert list(read_rows(tmp_path / "t.csv.gz")) == [{"file": "1.png", "text": "Clear."}]


def test_missing_cells_are_empty(tmp_path):
    (tmp_path / "t.csv").write_text("file,text,sex\n1.png\n")
    assert list(read_rows(tmp_path / "t.csv")) == [{"file": "1.png", "text": "", "sex": ""}]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("latin.csv", "file,text\n1.png,Ödem\n".encode("latin-1"), "not UTF-8 text"),
        ("quote.csv", b'file,text\n1.png,"' + b"Clear. " * 20_000, "field larger than field limit"),
        ("short.csv.gz", gzip.compress(b"file,text\n")[:-4], "ended before"),
        ("broken.parquet", b"PAR1 and no more", "cannot be read as Parquet"),
        ("comma.csv", b"file,text\n2.png,Small, no edema.\n", "has more cells .* contains ',' must be in"),
        ("broken.jsonl", b'{"file": "1.png"}\n{"file": \n', "line 2 is not JSON"),
        ("missing.csv", b"text\nClear.\n", r"lacks the columns \['file'\]; it has \['text'\]"),
        ("table.xlsx", b"", "Expected a file .csv"),
    ],
)
def test_unreadable_file_is_named(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=reason) as error:
        list(read_rows(tmp_path / name, {"file"}))
    assert str(tmp_path / name) in str(error.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file '.*nowhere.csv'"):
        list(read_rows(tmp_path / "nowhere.csv"))
