"""The table of formats. A new format is one module with a ``write`` function and one row here."""

from __future__ import annotations

from pocketvit.export import onnx, openvino, torchscript
from pocketvit.export.built import Built, Exporter

EXPORTERS: dict[str, Exporter] = {"onnx": onnx.write, "openvino": openvino.write, "torchscript": torchscript.write}
"""``write(pixel_model, size, folder, stem) -> Built`` by format name."""

RUNTIME_FORMAT = {"onnxruntime": "onnx", "openvino": "openvino", "torchscript": "torchscript"}
"""Which format each runtime opens."""

__all__ = ["EXPORTERS", "RUNTIME_FORMAT", "Built", "Exporter"]
