"""Folders that transformers writes (config.json, model.safetensors): on this disk, or fetched for ``hf:ORG/NAME``.

Nothing here needs transformers; huggingface_hub is asked only for ``hf:``. Nothing but these two files is fetched or
read: no programs and no pickles.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pocketvit.errors import DataError, MissingDependencyError, UsageError
from pocketvit.spec.typed import short

HF, CONFIG, WEIGHTS = "hf:", "config.json", "model.safetensors"
NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def from_hf(weights: str) -> bool:
    """Whether ``model.weights`` names such a checkpoint: ``hf:ORG/NAME``, or a folder with a config.json."""
    return weights.startswith(HF) or os.path.isfile(os.path.join(weights, CONFIG))


def find_folder(weights: str) -> Path:
    """The folder on this disk; ``hf:ORG/NAME`` (``@REVISION``) is fetched where the hub answers and it is not here.

    Raises UsageError: no such name can be. MissingDependencyError: huggingface_hub is not installed. DataError: neither
    here nor to be had.
    """
    if not weights.startswith(HF):
        return Path(weights)
    name = weights.removeprefix(HF)
    if not NAME.fullmatch(name) or ".." in name:
        raise UsageError(f"model.weights {short(weights)} is no name on the hub.", "Write hf:ORG/NAME.")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingDependencyError.of("huggingface_hub", "hub") from error
    repository, _, revision = name.partition("@")
    try:
        with one_try():
            return Path(snapshot_download(repository, revision=revision or None, allow_patterns=[CONFIG, WEIGHTS]))
    except Exception as error:  # the errors of hub and network libraries have no common base
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
        what = f"model.weights {weights}: not on this disk, and it did not come ({reason})."
        todo = f"Fetch {CONFIG} and {WEIGHTS} on another machine and set model.weights: FOLDER."
        raise DataError(what, todo) from error


def read_config(folder: Path) -> dict[str, Any]:
    """The description. Raises DataError: it or the weights are missing, or it is damaged."""
    if not (folder / WEIGHTS).is_file():
        what = f"{folder}: holds no {WEIGHTS}."
        raise DataError(what, "Write one with save_pretrained; pickles and files in parts are not read.")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is no mapping")
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / CONFIG}: cannot be read ({error}).", "Copy the folder again.") from error
    return config


@contextmanager
def one_try() -> Iterator[None]:
    """Ask the hub once whether it is there; where it is not, look on this disk alone instead of trying for a minute."""
    import huggingface_hub
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    try:
        if not before:
            huggingface_hub.get_session().head(constants.ENDPOINT, timeout=10)
    except Exception:  # as above
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
