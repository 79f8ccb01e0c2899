"""Several processes that learn as one (`torchrun`; torch.distributed, by gloo or nccl).

Every rank steps environments of its own, and what the ranks found is averaged wherever something is learned from it:
gradients, Fisher-vector products, KL, statistics of observations, rewards and advantages. R ranks with N environments
each thus equal one process with R x N. In a process that is alone every function here does nothing.

Functions that bring ranks together must be called by all of them, in the same order and from one thread.
"""

from __future__ import annotations

import datetime
import os
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = datetime.timedelta(days=1)  # for the first rank's evaluations; torchrun ends all ranks when one has died


def start() -> None:
    """Join the other ranks where `torchrun` has made this process one of several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)


def stop() -> None:
    """Leave the others."""
    if world() > 1:
        dist.destroy_process_group()


def rank() -> int:
    """This process's number; 0 alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """The number of ranks; 1 alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def seed(base: int) -> int:
    """A seed of this rank's own; `base` on the first."""
    return base if rank() == 0 else int(np.random.SeedSequence((base, rank())).generate_state(1)[0])


def average_(*tensors: Tensor) -> None:
    """Every tensor by its mean over ranks, in place."""
    if world() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor.div_(world())


def mean(*values: float) -> list[float]:
    """The mean of each number over ranks."""
    if world() == 1 or not values:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64)
    average_(tensor)
    return tensor.tolist()


def agreed(flag: bool) -> bool:
    """Whether any rank says so."""
    return flag if world() == 1 else mean(float(flag))[0] > 0


def moments(x: Any) -> tuple[Any, Any]:
    """Mean and standard deviation (of a sample) of the numbers of all ranks together; x: [batch], tensor or array."""
    spread = torch.as_tensor(x)
    if world() == 1:
        return x.mean(), spread.std()
    count, total = mean(len(x), float(spread.double().sum()))
    (squares,) = mean(float((spread.double() - total / count).square().sum()))
    return total / count, (squares * world() / (count * world() - 1)) ** 0.5


def merged(count: int, mean_: np.ndarray, squares: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """The number of rows that all ranks have together, their mean, and the sum of their squared distances from it."""
    if world() == 1:
        return count, mean_, squares
    weighted = torch.from_numpy(np.concatenate([[count], np.ravel(mean_) * count]))
    dist.all_reduce(weighted)
    total = float(weighted[0])
    common = (weighted[1:] / total).numpy().reshape(np.shape(mean_))
    apart = torch.from_numpy(np.array(np.ravel(squares + count * np.square(mean_ - common)), np.float64))
    dist.all_reduce(apart)
    return int(total), common, apart.numpy().reshape(np.shape(mean_))


def gather(value: Any) -> list[Any]:
    """On the first rank what each of the others gave, in order; nothing elsewhere."""
    if world() == 1:
        return []
    values: list[Any] | None = [None] * world() if rank() == 0 else None
    dist.gather_object(value, values)
    return [] if values is None else values[1:]


def shared(value: Any) -> Any:
    """The first rank's value, on all."""
    if world() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]
