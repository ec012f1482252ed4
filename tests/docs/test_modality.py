"""docs/modality.md, run as it stands, on pydicom's CT and MR slices, with tiny models and for few steps."""

import json
import shutil

from PIL import Image
from pydicom.data import get_testdata_file

TINY = "{image_size: 32, in_channels: 1, block_out_channels: [4, 8, 8], layers_per_block: 1, attention_levels: [], "
TINY += "latent_channels: 8, norm_num_groups: 4, codebook_size: 32, codebook_dim: 4}"


def test_page_leads_from_slices_to_a_model_that_reads_and_draws_them(page, qwen, one_step, tmp_path):
    for name in ("CT_small", "MR_small"):
        (tmp_path / "dicom").mkdir(exist_ok=True)
        shutil.copy(get_testdata_file(f"{name}.dcm"), tmp_path / "dicom")
    texts = {"ct/CT_small.png": "Liver and both kidneys.", "mr/MR_small.png": "A brain."}
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    smaller = {
        "examples/train_vq_gan.py": [
            "--model",
            TINY,
            "--steps",
            2,
            "--batch_size",
            2,
            "--initialize_codebook_step",
            0,
        ],
        "examples/finetune_llm_cxr.py": one_step,
    }
    page = page("docs/modality.md")
    for language, block in page.blocks:
        if language == "python":
            page.run_python(block)
        for words in page.commands(block) if language == "bash" else ():
            page.run_command(words, smaller.get(words[1], ()))
    assert sorted(path.name for path in (tmp_path / "pairs").glob("*.png")) and page.namespace["image"].size == (
        32,
        32,
    )
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 4
    with Image.open(tmp_path / "slices/ct/CT_small.png") as image:
        # In a window of soft tissue air is black.
        assert image.size == (128, 128) and image.getpixel((0, 0)) == 0
