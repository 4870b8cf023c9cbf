"""TorchScript through PyTorch, imported only when a file is opened.

A TorchScript file keeps neither output names nor input shapes; both come from the manifest. Without one, the input is
``pixels`` of any shape and the outputs are ``output0``, ``output1``, ...
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import MissingDependencyError, UsageError, VerificationError
from pocketvit.runtimes import Port, SessionInfo, check_inputs, first_line
from pocketvit.spec.manifest import Manifest
from pocketvit.spec.target import Target

_DTYPE_NAMES = {"fp32": "torch.float32", "bf16": "torch.bfloat16", "fp16": "torch.float16"}


class TorchScriptSession:
    """A TorchScript file on the processor."""

    def __init__(self, module: Any, info: SessionInfo, inputs: Mapping[str, Port], outputs: Mapping[str, Port]) -> None:
        self.info, self.inputs, self.outputs = info, inputs, outputs
        self._module = module

    def run(self, inputs: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
        """See :class:`pocketvit.runtimes.Session`."""
        import torch

        check_inputs(self.inputs, inputs)
        if torch.get_num_threads() != self.info.threads:  # one setting for the whole process, so it is set again here
            torch.set_num_threads(self.info.threads)
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = self._module(
                *(torch.from_numpy(np.require(inputs[name], requirements=["C", "W"])) for name in self.inputs)
            )
        values = answer if isinstance(answer, tuple | list) else (answer,)
        names = self.outputs or [f"output{i}" for i in range(len(values))]
        if len(names) != len(values):
            raise VerificationError(
                f"the TorchScript file gives {len(values)} outputs, the manifest names {len(names)}.",
                "Export the artifact again.",
            )
        return {name: value.float().numpy() for name, value in zip(names, values, strict=True)}


def open_file(path: Path, target: Target, manifest: Manifest | None = None) -> TorchScriptSession:
    """Open a TorchScript file with ``target.threads`` threads.

    Raises:
        MissingDependencyError: torch is not installed.
        UsageError: the file's weights are not of the target's precision.
        VerificationError: the file is missing or damaged.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError.of("torch", "train") from error
    load: Any = torch.jit.load  # untyped in torch
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces that TorchScript is in maintenance
            module = load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise VerificationError(
            f"{path}: TorchScript cannot open it ({first_line(error)}).", "Export the artifact again, or copy it again."
        ) from error
    _check_precision(path, module, target)
    inputs = (
        {x.name: Port(tuple(x.shape), x.dtype) for x in manifest.inputs}
        if manifest
        else {"pixels": Port(None, "uint8")}
    )
    outputs = {x.name: Port(tuple(x.shape), x.dtype) for x in manifest.outputs} if manifest else {}
    info = SessionInfo(
        "torchscript", torch.__version__.split("+")[0], target.precision, target.threads, "CPU", {"CPU": 1.0}
    )
    return TorchScriptSession(module, info, inputs, outputs)


def _check_precision(path: Path, module: Any, target: Target) -> None:
    """A float32 file asked for in bf16 would silently run in float32. Frozen files hold their weights as constants of the graph."""
    graph = module.inlined_graph  # nodes live as long as their graph
    constants = [
        node.t("value")
        for node in graph.findAllNodes("prim::Constant")
        if "value" in node.attributeNames() and node.kindOf("value") == "t"
    ]
    have = {str(x.dtype) for x in (*module.parameters(), *constants) if x.is_floating_point() and x.dim() > 1}
    if have and _DTYPE_NAMES.get(target.precision) not in have:
        names = ", ".join(sorted(name.removeprefix("torch.") for name in have))
        raise UsageError(
            f"{path}: holds {names} weights, not {target.precision}.", "Take the precision the file was exported with."
        )
