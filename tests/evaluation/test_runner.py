import pytest

from transformers_cxr.evaluation.runner import EvaluationArguments, run_evaluation


@pytest.fixture
def arguments(tiny_model, tmp_path):
    model, processor = tiny_model
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("The lungs are clear.\n\nIs there pneumonia? No.\n")
    return EvaluationArguments(
        str(tmp_path / "new/out"), model=str(tmp_path / "model"), texts=str(tmp_path / "texts.txt"), num_resamples=5
    )


def test_language_alone_needs_no_images_and_is_measured_again_in_its_folder(arguments):
    first = run_evaluation(arguments)
    assert {result.task for result in first} == {"language"}
    assert run_evaluation(arguments) == first


def test_a_search_for_copies_needs_the_training_images_and_a_feature_space(arguments):
    arguments.training_split = "train"
    with pytest.raises(ValueError, match="`training_split` needs `data_dir`, where its images are, and `features`"):
        run_evaluation(arguments)
