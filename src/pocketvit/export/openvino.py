"""OpenVINO IR (.xml + .bin), made from the ONNX graph so that both engines run the same operators."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pocketvit.errors import MissingDependencyError
from pocketvit.export import onnx as onnx_format
from pocketvit.export.built import Built
from pocketvit.export.wrap import PixelModel
from pocketvit.files import scratch, writing


def write(pixel_model: PixelModel, size: tuple[int, int], folder: Path, stem: str = "model") -> Built:
    """Write ``<stem>.xml`` and ``<stem>.bin`` with float32 weights; input and outputs as in the ONNX file.

    The same files serve ``openvino:bf16``: there the engine is asked to compute in bf16.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
    """
    convert = engine().convert_model
    with scratch() as temporary:
        source = onnx_format.write(pixel_model, size, temporary, stem)
        return replace(save(convert(str(source.path)), folder, stem, "fp32"), varies=source.varies)


def save(graph: Any, folder: Path, stem: str, precision: str, *, half: bool = False) -> Built:
    """Write an OpenVINO model; ``half`` stores its float weights as float16."""
    path = folder / f"{stem}.xml"
    with writing(path):
        engine().save_model(graph, str(path), compress_to_fp16=half)
    return Built("openvino", precision, path, (path.with_suffix(".bin"),))


def engine() -> Any:
    """The ``openvino`` module.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise MissingDependencyError.of("OpenVINO", "openvino") from error
    return openvino
