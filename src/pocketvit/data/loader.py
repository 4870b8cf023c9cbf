"""Batches as torch tensors: the order and content of an epoch depend on (recipe, epoch) and on nothing else."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pocketvit.data import crops
from pocketvit.data.collections import Collection
from pocketvit.data.decode import default_limit
from pocketvit.errors import DataError
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import DataConfig, TrainConfig
from pocketvit.spec.tasks import task_of

Batch = tuple[torch.Tensor, torch.Tensor]
Plan = tuple[int, list[int]]
"""An epoch and the indices of one of its batches."""


def batches_per_epoch(collection: Collection, data: DataConfig, train: TrainConfig) -> int:
    """Full batches of an epoch; the last partial one counts only if there is no other."""
    return max(1, crops.epoch_length(collection, data) // train.batch_size)


class Loader:
    """Batches of any epoch. Its processes, and the images that they have decoded, live until it is closed.

    With 0 ``data.workers`` samples are loaded in this process.
    """

    def __init__(self, collection: Collection, data: DataConfig, preprocess: Preprocess, train: TrainConfig) -> None:
        self._samples = _Samples(collection, data, preprocess, train)
        self._plans: list[Plan] = []
        self._processes: DataLoader[Batch] | None = None

    def close(self) -> None:
        """End the processes, with what they have decoded."""
        self._processes = None  # the last reference

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """Batches ``start_batch`` and later of an epoch; skipped ones are not loaded.

        Yields (inputs, targets): uint8 (B, H, W, 3), and the task's truths (B, ...) in their own dtype.
        Raises DataError: an image cannot be decoded, in whichever process it was read.
        """
        collection, data, train = self._samples.collection, self._samples.data, self._samples.train
        order = crops.epoch_order(collection, data, train, epoch)
        count, size = batches_per_epoch(collection, data, train), train.batch_size
        # The list is the sampler of the processes' loader, which is made once.
        self._plans[:] = [(epoch, order[i * size : (i + 1) * size].tolist()) for i in range(start_batch, count)]
        if data.workers == 0 or not self._plans:
            yield from (self._samples.load(plan) for plan in self._plans)
            return
        self._processes = self._processes or DataLoader(
            self._samples,
            batch_sampler=self._plans,  # type: ignore[arg-type]
            num_workers=data.workers,
            collate_fn=_unchanged,
            worker_init_fn=_start_process,
            persistent_workers=True,
        )
        for batch in _watched(self._processes):
            if isinstance(batch, _Failure):
                raise DataError(batch.what, batch.todo)
            yield batch


def _watched(processes: DataLoader[Batch]) -> Iterator[Any]:
    """What the processes send; DataError where one of them was killed."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if main and hasattr(signal, "SIGCHLD") else None
    try:
        batches = iter(processes)
        if before is not None:  # torch's handler raises in the middle of whatever runs, e.g. an optimiser's step
            signal.signal(signal.SIGCHLD, before)
        yield from batches
    except (RuntimeError, OSError, EOFError) as error:
        # A batch on its way out of a killed process ends in a broken connection; errors of the samples say "Caught".
        if str(error).startswith("Caught") or (isinstance(error, RuntimeError) and "worker" not in str(error)):
            raise
        what = "a process that loads images was killed, most likely because memory ran out."
        todo = "Free some memory or lower data.workers; the same command with the same name goes on where it stopped."
        raise DataError(what, todo) from error


@dataclass(frozen=True)
class _Failure:
    """A DataError on its way out of a worker process, where torch would make a RuntimeError of it."""

    what: str
    todo: str


@dataclass(frozen=True)
class _Samples(Dataset[Batch]):
    collection: Collection
    data: DataConfig
    preprocess: Preprocess
    train: TrainConfig

    def load(self, plan: Plan) -> Batch:
        epoch, indices = plan
        samples = [
            crops.training_sample(self.collection, self.data, self.preprocess, self.train, epoch, index)
            for index in indices
        ]
        inputs, targets = zip(*samples, strict=True)
        stack = task_of(self.collection.task).stack
        return torch.from_numpy(np.stack(inputs)), torch.from_numpy(stack(targets))

    def __getitems__(self, plan: Plan) -> Batch | _Failure:
        try:
            return self.load(plan)
        except DataError as error:
            return _Failure(error.what, error.todo)


def _unchanged(batch: Any) -> Any:
    return batch


def _start_process(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the main process ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    info = torch.utils.data.get_worker_info()
    crops.CACHE.limit_bytes = default_limit(info.num_workers if info is not None else 1)
