"""Lightning's Fabric without the rest of Lightning, whose import takes longer than torch's.

``lightning/__init__`` imports its Trainer, and Fabric learns the version of torchmetrics by importing it: behind both
stand torchvision, SciPy, matplotlib and transformers. So ``lightning`` is left empty until something other than its
submodules is asked of it, and torchmetrics only says its version meanwhile.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.fabric import Fabric

LIGHTNING, METRICS = "lightning", "torchmetrics"


@cache
def fabric_class() -> type[Fabric]:
    """``lightning.fabric.Fabric``. Raises ImportError: Lightning is not installed."""
    told = METRICS not in sys.modules
    if LIGHTNING not in sys.modules and (hollow := _hollow(LIGHTNING)):
        sys.modules[LIGHTNING] = hollow
        if told:
            sys.modules[METRICS] = _version_of(METRICS)
    try:
        found: type[Fabric] = importlib.import_module("lightning.fabric").Fabric
    finally:
        if told:
            sys.modules.pop(METRICS, None)
    return found


def _version_of(name: str) -> ModuleType:
    """A module that has nothing but the version of an installed package; 0 where there is none."""
    module: Any = ModuleType(name)
    try:
        module.__version__ = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        module.__version__ = "0"
    return module  # type: ignore[no-any-return]


def _hollow(name: str) -> ModuleType | None:
    """A package whose submodules can be imported, and whose own code runs when more is asked of it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return None
    module: Any = importlib.util.module_from_spec(spec)
    run = spec.loader.exec_module

    def fill(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        if (submodule := sys.modules.get(f"{name}.{attribute}")) is not None:  # which is being imported
            return submodule
        vars(module).pop("__getattr__", None)
        run(module)
        return getattr(module, attribute)

    module.__getattr__ = fill
    return module  # type: ignore[no-any-return]
