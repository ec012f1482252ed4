"""
Losses and memory of sharded weights, beside those of one process.

    torchrun --nproc_per_node 2 benchmarks/sharding.py
    pip install deepspeed && torchrun --nproc_per_node 2 benchmarks/sharding.py --methods zero3

Every process trains on its part of a batch of random codes: with torch's `fully_shard` around each layer (FSDP2), with
the sharding of `from_pretrained`, or with DeepSpeed ZeRO-3. The losses are means over the processes. "share" is the
largest part of the weights that a process holds between steps. On CPUs DeepSpeed compiles an extension at its first
run.
"""

import argparse
import os
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from transformers.distributed import DistributedConfig
from transformers.integrations import HfDeepSpeedConfig

from transformers_cxr import LlmCxrForCausalLM
from transformers_cxr.checkpoints import find_checkpoint


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


def losses_of_steps(model: Callable, batch: dict, backward: Callable, step: Callable) -> list[float]:
    losses = []
    for _ in range(3):
        loss = model(**batch).loss
        backward(loss)
        step()
        losses.append(loss.item())
    return losses


def train(model: nn.Module, batch: dict) -> tuple[list[float], float]:
    """Return the loss of each step, and the share of the weights in this process."""
    optimizer = adamw(model)

    def step():
        optimizer.step()
        optimizer.zero_grad()

    losses = losses_of_steps(model, batch, torch.Tensor.backward, step)
    held = sum(getattr(each, "_local_tensor", each).numel() for each in model.parameters())
    return losses, held / model.num_parameters()


def train_fully_shard(model_dir: str, batch: dict) -> tuple[list[float], float]:
    model = LlmCxrForCausalLM.from_pretrained(model_dir)
    for layer in model.get_decoder().layers:
        fully_shard(layer)
    fully_shard(model)
    return train(model, batch)


def train_from_pretrained(model_dir: str, batch: dict) -> tuple[list[float], float]:
    sharding = DistributedConfig(fsdp_size=dist.get_world_size())
    return train(LlmCxrForCausalLM.from_pretrained(model_dir, distributed_config=sharding), batch)


def train_zero3(model_dir: str, batch: dict) -> tuple[list[float], float]:
    import deepspeed

    deepspeed.init_distributed()
    config = {
        "train_micro_batch_size_per_gpu": len(batch["input_ids"]),
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "zero_force_ds_cpu_optimizer": False,  # it would be compiled first
        "gradient_clipping": 0.0,  # the default is 1.0
    }
    sharding = HfDeepSpeedConfig(config)  # `from_pretrained` shards while this lives
    model = LlmCxrForCausalLM.from_pretrained(model_dir)
    assert sharding.is_zero3()
    engine, *_ = deepspeed.initialize(model=model, optimizer=adamw(model), config=config)
    losses = losses_of_steps(engine, batch, engine.backward, engine.step)
    parameters = list(model.parameters())
    return losses, sum(each.ds_tensor.numel() for each in parameters) / sum(each.ds_numel for each in parameters)


METHODS = {"fully_shard": train_fully_shard, "from_pretrained": train_from_pretrained, "zero3": train_zero3}


def main(args: argparse.Namespace) -> None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    model_dir, config = find_checkpoint(args.model)
    codes = torch.randint(config.vq_config.codebook_size, (2 * size, 40), generator=torch.Generator().manual_seed(0))
    batch = dict.fromkeys(["input_ids", "labels"], codes + config.image_token_offset)

    def print_row(method: str, losses: list[float], share: float) -> None:
        if rank == 0:
            print(f"| {method} | {' | '.join(f'{loss:.6f}' for loss in losses)} | {share:.2f} |", flush=True)

    if rank == 0:
        print("| method | step 1 | step 2 | step 3 | share |\n|---|---|---|---|---|")
    print_row("one process", *train(LlmCxrForCausalLM.from_pretrained(model_dir), batch))
    for method in args.methods:
        losses, share = METHODS[method](
            model_dir, {name: each[2 * rank : 2 * rank + 2] for name, each in batch.items()}
        )
        mean, largest = torch.tensor(losses), torch.tensor(share)
        dist.all_reduce(mean)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        print_row(method, (mean / size).tolist(), largest.item())
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llm-cxr", help="LLM-CXR model: folder or Hub id")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=["fully_shard", "from_pretrained"])
    main(parser.parse_args())
