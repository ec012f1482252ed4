"""`examples/ablations.py` on tiny models."""

import json

import pytest
from transformers import TrainingArguments

from transformers_cxr.data import load_records
from transformers_cxr.training import InstructionTrainer

from .conftest import TINY_LLAMA, reset_accelerator


@pytest.fixture
def ablations(load_script):
    with load_script("examples/ablations.py") as module:
        yield module


@pytest.fixture
def run(ablations, records, model_dir, tmp_path):
    def run(max_steps=2, weight_decay=0.0, **changes):
        reset_accelerator()
        settings = {"variants": ["full"], "eval_size": 2, "num_reports": 4, "text_vocab_size": 400} | changes
        arguments = ablations.Arguments(str(records), str(model_dir), TINY_LLAMA, **settings)
        training = TrainingArguments(
            output_dir=str(tmp_path / "run"), max_steps=max_steps, per_device_train_batch_size=2, report_to="none",
            save_strategy="no", use_cpu=True, disable_tqdm=True, weight_decay=weight_decay,
        )  # fmt: skip
        ablations.main(arguments, training)
        return (tmp_path / "run/ablations.md").read_text()

    return run


def test_variants_are_trained_in_their_stages_and_compared(ablations, run, monkeypatch, tmp_path):
    trained, train = [], InstructionTrainer.train

    def noted(self, **kwargs):
        embeddings = self.model.get_input_embeddings().weight[-32:]
        trained.append((self.args.max_steps, embeddings.std().item()))
        return train(self, **kwargs)

    monkeypatch.setattr(InstructionTrainer, "train", noted)
    table = run(variants=["two stages", "new embeddings mean"])
    assert [steps for steps, _ in trained] == [1, 1, 2]
    assert trained[2][1] < trained[0][1] / 2
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert [row[0] for row in rows] == ["variant", "---", "two stages", "new embeddings mean"]
    results = json.loads((tmp_path / "run/two_stages-0/results.json").read_text())
    assert rows[2][2:] == [f"{results[name]:.3f}" for name in ablations.COLUMNS.values()]
    assert all(results[name] > 0 for name in ("eval_loss_report", "eval_loss_image", "eval_loss_vqa"))
    assert 0 <= results["finding_balanced_accuracy"] <= 1 and 0 <= results["auroc"] <= 1


def test_finished_runs_are_kept_and_another_seed_is_added(run, monkeypatch):
    run()
    with monkeypatch.context() as patch:
        patch.setattr(InstructionTrainer, "train", lambda *arguments, **kwargs: pytest.fail("trained again"))
        run()
        with pytest.raises(ValueError, match="full-0' holds the results of a run with other settings"):
            run(weight_decay=0.1)
    *_, row = run(seeds=[0, 1]).splitlines()
    assert row.startswith("| full | 2 |") and row.count(",") == 5


def test_normal_and_other_x_rays_are_equally_many(ablations, records):
    selected = ablations.balanced_records(load_records(records), 100)
    assert [record.is_normal for record in selected] == [True] * 4 + [False] * 4
    assert {record.split for record in selected} == {"validation"}
    assert len(ablations.balanced_records(load_records(records), 2)) == 2


def test_an_unknown_variant_is_an_error(run):
    with pytest.raises(ValueError, match="Unknown variants .*'half'.*; there are .*'full'"):
        run(variants=["full", "half"])
