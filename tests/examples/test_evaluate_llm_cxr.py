"""`examples/evaluate_llm_cxr.py` on a tiny random model."""

import numpy as np
import PIL.Image

from transformers_cxr.data import StudyRecord
from transformers_cxr.evaluation import EvaluationArguments

HEADER = "file_name,split,source,patient_id,view,age_group,sex,finding_labels,etiology"


def test_results_are_written_into_card_and_documents_with_a_picture(load_script, checkpoint_dir, tmp_path):
    rows = [HEADER]
    for number, labels in enumerate(("No Finding,", "Pneumonia,viral", ",")):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,validation,mine,p{number},AP,child,,{labels}")
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    paths = {"card": tmp_path / "card.md", "readme": tmp_path / "readme.md", "picture": tmp_path / "picture.png"}
    paths["card"].write_text("# Model\n<!-- metrics -->\n<!-- end of metrics -->\n")
    paths["readme"].write_text("<!-- metrics: tokenizer/all/psnr -->\n<!-- end of metrics -->\n")
    records = {"records": [str(tmp_path)], "model": str(checkpoint_dir), "output_dir": str(tmp_path / "out")}
    arguments = EvaluationArguments(tasks=["report,tokenizer"], num_resamples=2, max_new_tokens=4, **records)
    with load_script("examples/evaluate_llm_cxr.py") as script:
        documents = script.Documents(str(paths["card"]), [str(paths["readme"])], str(paths["picture"]))
        script.main(arguments, documents)
    assert "model-index" in paths["card"].read_text() and "| PSNR |" in paths["readme"].read_text()
    # Three X-rays, their reconstructions and two rows of generated images, with captions.
    sheet = PIL.Image.open(paths["picture"])
    assert (sheet.mode, sheet.size) == ("L", (8 * 32, 4 * (32 + 20))) and "generated" in sheet.info["Comment"].lower()
    assert np.asarray(sheet)[20:52, : 3 * 32].std() > 0 and not np.asarray(sheet)[20:52, 3 * 32 :].any()
    assert (tmp_path / "out/images.png").read_bytes() == paths["picture"].read_bytes()


def test_the_first_of_each_kind_and_source_is_shown_then_the_second(load_script):
    labels = {"n": {"No Finding": 1}, "b": {"Bacterial Pneumonia": 1}, "u": {}, "o": {"Edema": 1}}
    names = ["A u", "A u", "B b", "B b", "B n", "B o", *["B b"] * 9]
    records = [
        StudyRecord(id=str(i), patient="", image="", source=name[0], labels=labels[name[2]])
        for i, name in enumerate(names)
    ]
    with load_script("examples/evaluate_llm_cxr.py") as script:
        shown = script.shown_records(records)
    assert [record.id for _, record in shown] == ["0", "4", "2", "1", "3", "6", "7", "8"]
    assert [caption for caption, _ in shown[:3]] == ["A, unlabelled", "B, normal", "B, bacterial"]
