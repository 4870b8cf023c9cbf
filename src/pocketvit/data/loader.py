"""Batches as torch tensors: the order and content of an epoch depend on (recipe, epoch) and on nothing else."""

from __future__ import annotations

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

Batch = tuple[torch.Tensor, torch.Tensor]


def batches_per_epoch(collection: Collection, data: DataConfig, train: TrainConfig) -> int:
    """Full batches of an epoch; the last partial one counts only if there is no other."""
    return max(1, crops.epoch_length(collection, data) // train.batch_size)


def make_loader(
    collection: Collection,
    data: DataConfig,
    preprocess: Preprocess,
    train: TrainConfig,
    epoch: int,
    start_batch: int = 0,
) -> EpochLoader:
    """Batches ``start_batch`` and later of an epoch.

    Returns:
        An iterable with a length that yields (inputs, targets): inputs uint8 (B, H, W, 3); targets uint8 (B, H, W, 3) for
        restore and int64 (B, levels), coarsest first, for classify. Skipped batches are not loaded.

    Raises (while iterating):
        DataError: an image cannot be decoded, in whichever process it was read.
    """
    order = crops.epoch_order(collection, data, train, epoch)
    count = batches_per_epoch(collection, data, train)
    batches = [order[i * train.batch_size : (i + 1) * train.batch_size].tolist() for i in range(start_batch, count)]
    return EpochLoader(_Samples(collection, data, preprocess, train, epoch), batches, data.workers)


class EpochLoader:
    """The batches of one epoch; iterating again gives the same ones."""

    def __init__(self, samples: _Samples, batches: list[list[int]], workers: int) -> None:
        self.batches = batches
        self._samples = samples
        self._workers = workers

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        if not self.batches:
            return
        if self._workers == 0:
            yield from (self._samples.load(indices) for indices in self.batches)
            return
        loader = DataLoader(
            self._samples,
            batch_sampler=self.batches,
            num_workers=self._workers,
            collate_fn=_unchanged,
            worker_init_fn=_limit_cache,
        )
        for batch in loader:
            if isinstance(batch, _Failure):
                raise DataError(batch.what, batch.todo)
            yield batch


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
    epoch: int

    def load(self, indices: list[int]) -> Batch:
        samples = [
            crops.training_sample(self.collection, self.data, self.preprocess, self.train, self.epoch, index)
            for index in indices
        ]
        inputs, targets = (np.stack(parts) for parts in zip(*samples, strict=True))
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    def __getitems__(self, indices: list[int]) -> Batch | _Failure:
        try:
            return self.load(indices)
        except DataError as error:
            return _Failure(error.what, error.todo)


def _unchanged(batch: Any) -> Any:
    return batch


def _limit_cache(worker: int) -> None:
    info = torch.utils.data.get_worker_info()
    crops.CACHE.limit_bytes = default_limit(info.num_workers if info is not None else 1)
