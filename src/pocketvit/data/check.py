"""Decoding the images of a run before anything is timed or trained: a damaged one is found in the first minute."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from pocketvit.data.collections import Collection, Item, Splits
from pocketvit.data.decode import read_item
from pocketvit.errors import DataError
from pocketvit.progress import track

TRAIN_IMAGES = 2000
"""At most so many training images, spread over all of them: training itself soon meets the others."""


def check_images(splits: Splits, *, quiet: bool = False) -> None:
    """Decode every validation and test image, and up to ``TRAIN_IMAGES`` of training.

    Raises DataError: some cannot be decoded; the message names the first one, their number, and what to do.
    """
    step = -(-len(splits.train.items) // TRAIN_IMAGES)
    parts = ((splits.val, 1), (splits.train, step), *(((splits.test, 1),) if splits.test else ()))
    work = [(part, item) for part, step in parts for item in part.items[::step]]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool, track("check images", len(work), quiet=quiet) as tell:
        damaged = []
        try:
            for error in pool.map(lambda one: _fault(*one), work):
                damaged += [error] if error else []
                tell()
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    if damaged:
        first, count = damaged[0], len(damaged)
        more = f" {count} images cannot be used." if count > 1 else ""
        raise DataError(f"{first.what}{more}", first.todo)


def _fault(part: Collection, item: Item) -> DataError | None:
    try:
        read_item(part, item)
    except DataError as error:
        return error
    return None
