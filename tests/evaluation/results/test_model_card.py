import pytest
from huggingface_hub import ModelCard

from transformers_cxr.evaluation.results.intervals import Estimate
from transformers_cxr.evaluation.results.model_card import update_model_card
from transformers_cxr.evaluation.results.tables import Result

NAN = float("nan")
CARD = "---\nlicense: apache-2.0\n---\n\n# Model\n\n<!-- metrics -->\nold\n<!-- end of metrics -->\n\nThe end.\n"


def result(task, group, metric, value, units=10):
    return Result(task, group, metric, Estimate(value, value, value, units, units))


RESULTS = [
    *(result("report", "all", f"f1_{i}", 0.1) for i in range(100)),
    result("report", "all", "f1_micro_14", 0.5, 30),
    result("report", "site A", "f1_micro_14", 0.61239, 20),
    result("report", "site A", "etiology_balanced_accuracy", NAN, 20),
    result("report", "site B", "f1_micro_14", 0.3, 10),
    result("vqa", "all", "exact_match", 0.7),
    # More than of any source, and no source.
    result("vqa", "type: view", "exact_match", 0.2, 50),
    result("image", "all", "final_fid", 3.0),
    result("image", "all", "real_finding_balanced_accuracy", 0.9),
    result("image", "all", "finding_balanced_accuracy", 0.8),
    result("diversity", "all", "ms_ssim", 0.3),
    result("tokenizer", "all", "ms_ssim", 0.95),
    result("robustness", "blur 3", "f1_micro_14", 0.4),
]


def test_the_metadata_are_the_main_numbers_of_the_largest_source_and_the_text_has_all(tmp_path):
    path = tmp_path / "card.md"
    path.write_text(CARD)
    update_model_card(path, RESULTS, "llm-cxr", "cxr", "validation")
    card = ModelCard.load(path)
    found = {(r.metric_name, r.dataset_name, r.dataset_config): r.metric_value for r in card.data.eval_results}
    assert found == {
        ("report: f1 micro 14", "cxr", "site A"): 0.6124,
        ("vqa: exact match", "cxr", None): 0.7,
        ("image: final fid", "cxr", None): 3.0,
        ("image: finding balanced accuracy", "cxr", None): 0.8,
        ("diversity: ms ssim", "cxr", None): 0.3,
        ("tokenizer: ms ssim", "cxr", None): 0.95,
    }
    assert card.data.license == "apache-2.0" and card.data.model_name == "llm-cxr"
    assert "f1_99" in card.text and "| blur 3 | 50" not in card.text and "old" not in card.text
    assert path.read_text().endswith("The end.\n")
    before = path.read_text()
    update_model_card(path, RESULTS, "llm-cxr", "cxr", "validation")
    assert path.read_text() == before and "### cost" not in before
    update_model_card(path, RESULTS, "llm-cxr", "cxr", "validation", "| cost of report | 1 s |")
    assert "### cost\n\n| cost of report | 1 s |\n\n<!-- end of metrics -->" in path.read_text()


def test_a_card_without_a_place_for_the_tables_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "card.md"
    path.write_text("---\nlicense: apache-2.0\n---\n# Model\n")
    with pytest.raises(ValueError, match="has no section between '<!-- metrics -->'"):
        update_model_card(path, RESULTS, "llm-cxr", "cxr", "validation")
    assert path.read_text() == "---\nlicense: apache-2.0\n---\n# Model\n"
