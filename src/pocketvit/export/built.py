"""What every exporter and every compression step returns: files that make one variant of an artifact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Built:
    """Files of one variant, not yet in an artifact."""

    runtime: str
    """Engine that opens ``path``: ``onnxruntime``, ``openvino`` or ``torchscript``."""
    precision: str
    """Precision the engine is asked for: ``fp32``, ``fp16``, ``bf16`` or ``int8``."""
    path: Path
    companions: tuple[Path, ...] = ()
    """Files the engine reads beside it (OpenVINO's .bin)."""

    @property
    def key(self) -> str:
        """``runtime:precision``, as variants are named."""
        return f"{self.runtime}:{self.precision}"

    @property
    def bytes(self) -> int:
        """Bytes on disk of all files."""
        return sum(p.stat().st_size for p in (self.path, *self.companions))


Exporter = Callable[..., Built]
"""``write(pixel_model, size, folder, stem) -> Built``."""
