"""Steps of a model sharded by FSDP2, for `test_sharding.py`: `torchrun sharded_steps.py FOLDER`."""

import sys

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from transformers_cxr import LlmCxrForCausalLM


def train(model, batch, num_steps=3):
    """Return the loss of each step on one batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(num_steps):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def main(folder):
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = LlmCxrForCausalLM.from_pretrained(f"{folder}/model")
    for layer in model.get_decoder().layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    embeddings = model.get_input_embeddings().weight
    assert embeddings is model.get_output_embeddings().weight
    assert len(embeddings.to_local()) <= len(embeddings) // 2 + 1
    losses = torch.tensor(train(model, torch.load(f"{folder}/batches.pt")[dist.get_rank()]))
    dist.all_reduce(losses)
    if dist.get_rank() == 0:
        torch.save(losses / dist.get_world_size(), f"{folder}/losses.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
