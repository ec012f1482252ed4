import pytest
from huggingface_hub import ModelCard

from transformers_cxr.evaluation import Estimate, Result, update_document, update_model_card
from transformers_cxr.evaluation.results.tables import write_run

CARD = "---\nlicense: apache-2.0\n---\n\n# Model\n\n<!-- metrics -->\nold\n<!-- end of metrics -->\n\nThe end.\n"


def result(task, group, metric, value, units=10):
    return Result(task, group, metric, Estimate(value, value, value, units, units))


RESULTS = [
    result("report", "all", "bleu_1", 0.1),
    result("report", "all", "f1_micro_14", 0.5, 30),
    result("report", "site A", "f1_micro_14", 0.61239, 20),
    result("report", "site A", "etiology_balanced_accuracy", float("nan"), 20),
    result("report", "site B", "f1_micro_14", 0.3, 10),
    result("vqa", "all", "exact_match", 0.7),
    # The largest group, but not a source.
    result("vqa", "type: view", "exact_match", 0.2, 50),
    result("image", "all", "final_fid", 3.0),
    result("image", "all", "real_finding_balanced_accuracy", 0.9),
    result("image", "all", "finding_balanced_accuracy", 0.8),
    result("tokenizer", "all", "ms_ssim", 0.95),
    result("robustness", "blur 3", "f1_micro_14", 0.4),
    result("cost", "report", "peak_mib", 1000),
]


@pytest.fixture
def run(tmp_path):
    arguments = {"records": ["data/cxr"], "texts": "", "split": ["validation"]}
    write_run(tmp_path / "run", {"model": "models/llm-cxr", "arguments": arguments}, RESULTS)
    return tmp_path / "run"


def test_metadata_are_the_headlines_and_the_text_has_the_rest_folded(run, tmp_path):
    path = tmp_path / "card.md"
    path.write_text(CARD)
    update_model_card(path, run)
    card = ModelCard.load(path)
    found = {(r.metric_name, r.dataset_name, r.dataset_config): r.metric_value for r in card.data.eval_results}
    assert found == {
        ("Reports: F1 of findings (micro 14)", "cxr", "site A"): 0.61239,
        ("Answers: Exact match", "cxr", None): 0.7,
        ("Generated X-rays: Normal or pneumonia", "cxr", None): 0.8,
        ("Generated X-rays: Fréchet distance (final)", "cxr", None): 3.0,
        ("Image tokenizer: MS-SSIM", "cxr", None): 0.95,
    }
    assert card.data.license == "apache-2.0" and card.data.model_name == "llm-cxr"
    before, folded = card.text.split("<details>\n<summary>All numbers</summary>\n\n")
    assert "| Reports | F1 of findings (micro 14) | site A | 0.612 | 0.612 to 0.612 | 20 |" in before
    assert "old" not in card.text and "BLEU" not in before
    assert "BLEU (1)" in folded and "### Cost" in folded and "</details>" in folded
    before = path.read_text()
    assert before.endswith("The end.\n")
    update_model_card(path, run)
    assert path.read_text() == before


def test_a_document_gets_the_rows_that_it_names(run, tmp_path):
    path = tmp_path / "README.md"
    marker = "<!-- metrics: vqa/all/exact_match, report/site A/f1_micro_14 -->"
    path.write_text(f"# Title\n{marker}\n<!-- end of metrics -->\n")
    for _ in range(2):
        update_document(path, run)
        assert marker in path.read_text() and path.read_text().count("\n| ") == 4
        assert "| Reports | F1 of findings (micro 14) | site A | 0.612 | 0.612 to 0.612 | 20 |" in path.read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# Model\n", "has no section between '<!-- metrics -->'"),
        ("<!-- metrics: vqa/all/no_such -->\n<!-- end of metrics -->\n", "names 'vqa/all/no_such'"),
    ],
)
def test_a_document_without_a_section_or_with_an_unknown_row_is_left_alone(run, tmp_path, text, message):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        update_document(path, run)
    assert path.read_text() == text
