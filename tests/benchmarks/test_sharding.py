"""Weights sharded over two processes on a CPU; DeepSpeed, which compiles first, is left to the benchmark."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/sharding.py"


def test_tied_model_sharded_over_two_processes_has_the_losses_of_one(tiny_model, tmp_path):
    tiny_model[0].save_pretrained(tmp_path)
    assert tiny_model[0].config.get_text_config().tie_word_embeddings
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", SCRIPT]
    run = subprocess.run([*launch, "--model", tmp_path], check=True, capture_output=True, text=True, timeout=300)
    assert "match nothing" not in run.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in run.stdout.splitlines()]
    assert [row[0] for row in rows[2:]] == ["one process", "fully_shard", "from_pretrained"]
    expected, *sharded = [[float(cell) for cell in row[1:]] for row in rows[2:]]
    assert expected[2] < expected[0] and expected[3] == 1
    for *losses, share in sharded:
        assert losses == pytest.approx(expected[:3], rel=1e-5) and share < 0.6
