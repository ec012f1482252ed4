"""Weights sharded by FSDP2 and by DeepSpeed ZeRO-3 over two processes on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from transformers_cxr import LlmCxrForCausalLM
from transformers_cxr.training import InstructionCollator, InstructionDataset

from .sharded_steps import train


@pytest.mark.parametrize("method", ["fsdp2", "zero3"])
def test_tied_model_sharded_over_two_processes_has_the_losses_of_one(tiny_model, method, conversation, tmp_path):
    tiny_model[0].save_pretrained(tmp_path / "model")
    # The same answer, so that both processes have as many labels.
    records = [conversation("report", "The lungs are clear.", seed=i) for i in range(4)]
    examples, collate = list(InstructionDataset(records, tiny_model[1])), InstructionCollator(0)
    torch.save([collate(examples[:2]), collate(examples[2:])], tmp_path / "batches.pt")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = [str(Path(__file__).with_name("sharded_steps.py")), method, str(tmp_path)]
    subprocess.run([*launch, *script], check=True, timeout=300, env=os.environ | {"DS_ACCELERATOR": "cpu"})
    expected = train(LlmCxrForCausalLM.from_pretrained(tmp_path / "model"), collate(examples))
    assert torch.load(tmp_path / "losses.pt").tolist() == pytest.approx(expected, rel=1e-5)
    assert expected[-1] < expected[0]
