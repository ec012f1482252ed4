"""Steps of a model sharded by FSDP2 or DeepSpeed ZeRO-3, for `test_sharding.py`: `sharded_steps.py METHOD FOLDER`."""

import sys

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers.integrations import HfDeepSpeedConfig

from transformers_cxr import LlmCxrForCausalLM


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


def losses_of_steps(model, batch, backward, step, num_steps=3):
    losses = []
    for _ in range(num_steps):
        loss = model(**batch).loss
        backward(loss)
        step()
        losses.append(loss.item())
    return losses


def train(model, batch):
    """Return the loss of each step on one batch."""
    optimizer = adamw(model)

    def step():
        optimizer.step()
        optimizer.zero_grad()

    return losses_of_steps(model, batch, torch.Tensor.backward, step)


def train_fsdp2(model_dir, batches):
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = LlmCxrForCausalLM.from_pretrained(model_dir)
    for layer in model.get_decoder().layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    embeddings = model.get_input_embeddings().weight
    assert embeddings is model.get_output_embeddings().weight
    assert len(embeddings.to_local()) <= len(embeddings) // 2 + 1
    return train(model, batches[dist.get_rank()])


def train_zero3(model_dir, batches):
    import deepspeed

    deepspeed.init_distributed("gloo")
    batch = batches[dist.get_rank()]
    config = {
        "train_micro_batch_size_per_gpu": len(batch["input_ids"]),
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "zero_force_ds_cpu_optimizer": False,  # it would be compiled first
        "gradient_clipping": 0.0,  # the default is 1.0
    }
    sharding = HfDeepSpeedConfig(config)  # `from_pretrained` shards while this lives
    model = LlmCxrForCausalLM.from_pretrained(model_dir)
    embeddings = model.get_input_embeddings().weight
    assert sharding.is_zero3() and embeddings is model.get_output_embeddings().weight
    assert embeddings.ds_tensor.numel() <= embeddings.ds_numel // 2 + 1
    engine, *_ = deepspeed.initialize(model=model, optimizer=adamw(model), config=config)
    return losses_of_steps(engine, batch, engine.backward, engine.step)


def main(method, folder):
    train_sharded = {"fsdp2": train_fsdp2, "zero3": train_zero3}[method]
    losses = torch.tensor(train_sharded(f"{folder}/model", torch.load(f"{folder}/batches.pt")))
    dist.all_reduce(losses)
    if dist.get_rank() == 0:
        torch.save(losses / dist.get_world_size(), f"{folder}/losses.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
