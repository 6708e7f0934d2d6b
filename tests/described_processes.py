"""One of two processes that train a sign encoder with a description mapper. It imports little: each imports it anew."""

import torch
from torch import distributed

from modeling_flallm import DescribedEncoder


def gradients_of_a_part(rank: int, folder: str, batch: dict[str, torch.Tensor]) -> None:
    """
    Save the loss of the encoder in a folder, and its gradients, of this process's part of a batch: the first clip, or
    all others.
    """
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    rows = slice(0, 1) if rank == 0 else slice(1, None)
    model = torch.nn.parallel.DistributedDataParallel(DescribedEncoder.from_pretrained(folder).double().train())
    loss = model(**{name: values[rows] for name, values in batch.items()}).losses["description_mapper"]
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.module.named_parameters()}
    torch.save([loss.detach(), gradients], f"{folder}/{rank}.pt")
    distributed.destroy_process_group()
