"""`examples/evaluate_llm_cxr.py` on a tiny random model."""

import numpy as np
import PIL.Image

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
    assert "model-index" in paths["card"].read_text() and "| psnr |" in paths["readme"].read_text()
    # A normal, a viral and an unlabelled X-ray: each with its reconstruction and two generated images.
    assert PIL.Image.open(paths["picture"]).size == (4 * 32, 3 * 32)
    assert (tmp_path / "out/images.png").read_bytes() == paths["picture"].read_bytes()
