"""The README's code, run as it stands, on the embedded checkpoint."""


def test_code_blocks_of_the_readme_run_in_order(page, tmp_path):
    page = page("README.md")
    assert len(page.python) >= 3
    for block in page.python:
        page.run_python(block)
    report, images, codes = (page.namespace[name] for name in ("report", "images", "codes"))
    assert "FINDINGS:" in report("examples/images/NORMAL2-IM-0832-0001.jpeg")[0]["generated_text"]
    assert len(images) == 2 and codes.shape == (1, 256)
    assert (tmp_path / "generated.png").is_file()
