"""TorchScript through PyTorch, imported only when a file is opened.

A TorchScript file keeps neither output names nor input shapes; both come from the manifest. Without one, the input is
``pixels`` of any shape and the outputs are ``output0``, ``output1``, ... PyTorch has one thread count for the whole
process, so each run sets it: sessions with different counts that run at once take the one that was set last.
"""

from __future__ import annotations

import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import UsageError, VerificationError
from pocketvit.runtimes.session import Port, Runtime, SessionInfo, cannot_open, cannot_run, check_inputs, zero_middles
from pocketvit.spec.manifest import Manifest
from pocketvit.spec.preprocess import PIXELS
from pocketvit.spec.split import FEATURES
from pocketvit.spec.target import CPU, Target

_PRECISIONS = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16", "torch.float64": "fp64"}


class TorchScriptSession:
    """A TorchScript file; a frozen graph may run from many threads."""

    def __init__(self, module: Any, info: SessionInfo, inputs: Mapping[str, Port], outputs: Mapping[str, Port]) -> None:
        self.info, self.inputs, self.outputs = info, inputs, outputs
        self._module, self._device = module, info.device.lower()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """See :class:`pocketvit.runtimes.Session`."""
        import torch

        check_inputs(self.inputs, inputs)
        if torch.get_num_threads() != self.info.threads:
            torch.set_num_threads(self.info.threads)
        arrays = [np.require(inputs[name], requirements=["C", "W"]) for name in self.inputs]
        with torch.inference_mode():
            try:
                answer = self._module(*(torch.from_numpy(array).to(self._device) for array in arrays))
            except Exception as error:  # a program can raise anything
                raise cannot_run("TorchScript", error) from error
        values = answer if isinstance(answer, tuple | list) else (answer,)
        names = self.outputs or [f"output{i}" for i in range(len(values))]
        if len(names) != len(values):
            what = f"the TorchScript file gives {len(values)} outputs, the manifest names {len(names)}."
            raise VerificationError(what, "Export the artifact again.")
        return {name: value.float().cpu().numpy() for name, value in zip(names, values, strict=True)}


def devices() -> tuple[str, ...]:
    """See :class:`pocketvit.runtimes.Runtime`."""
    import torch

    return (CPU, "cuda") if torch.cuda.is_available() else (CPU,)


def open_file(path: Path, target: Target, manifest: Manifest | None = None) -> TorchScriptSession:
    """Open a TorchScript file with ``target.threads`` threads.

    Raises:
        UsageError: the file's weights are not of the target's precision.
        VerificationError: the file is missing or damaged.
    """
    import torch

    load: Any = torch.jit.load  # untyped in torch
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces that TorchScript is in maintenance
            module = load(str(path), map_location=target.device).eval()
    except Exception as error:  # a program can raise anything
        raise cannot_open(path, "TorchScript", error) from error
    have = precision_of(module)
    if have not in (None, target.precision):
        raise UsageError(f"{path}: holds {have} weights, not {target.precision}.", f"Take torchscript:{have}.")
    if target.device != CPU:
        torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32; one setting for the whole process
    stated = (manifest.inputs, manifest.outputs) if manifest else ((), ())
    inputs, outputs = ({x.name: Port(tuple(x.shape), x.dtype) for x in side} for side in stated)
    info = SessionInfo.of(target, torch.__version__.split("+")[0])
    return TorchScriptSession(module, info, inputs or _input_of(module), outputs)


def _input_of(module: Any) -> dict[str, Port]:
    """The one input as the trace has it, of any shape: pixels, or of a tail features."""
    name = next((x.debugName() for x in list(module.graph.inputs())[1:]), "").partition(".")[0]
    return {FEATURES: Port(None, "float32")} if name == FEATURES else {PIXELS: Port(None, "uint8")}


def precision_of(module: Any) -> str | None:
    """Precision in which most weights of a module are stored; ``None`` where it has none.

    A float32 file asked for in bf16 would silently run in float32. Frozen files hold weights as constants of the graph.
    """
    graph = module.inlined_graph  # nodes live as long as their graph
    nodes = [node for node in graph.findAllNodes("prim::Constant") if "value" in node.attributeNames()]
    constants = [node.t("value") for node in nodes if node.kindOf("value") == "t"]
    sizes: Counter[str] = Counter()
    for tensor in (*module.parameters(), *constants):
        if tensor.is_floating_point() and tensor.dim() > 1:
            sizes[str(tensor.dtype)] += tensor.numel()
    return _PRECISIONS.get(name := sizes.most_common(1)[0][0], name) if sizes else None


def damage(files: Sequence[Path]) -> None:
    """See :class:`pocketvit.runtimes.Runtime`.

    The archive has a checksum for each entry, so it is written anew; numbered entries are tensors.
    """
    source = files[0].with_suffix(".source")
    files[0].rename(source)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(files[0], "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            content = bytearray(old.read(entry))
            if entry.filename.rpartition("/")[2].isdigit():
                zero_middles(content, [(0, len(content))])
            new.writestr(entry.filename, bytes(content))
    source.unlink()


RUNTIME = Runtime(
    name="torchscript",
    package="torch",
    extra="train",
    format="torchscript",
    suffix=".pt",
    writer="pocketvit.export.torchscript:write",
    open=open_file,
    devices=devices,
    precisions=lambda device: ("fp32", "bf16", "fp16"),
    damage=damage,
    named_outputs=False,
    is_code=True,
)
