"""What every exporter and every compression step returns: files that make one variant of an artifact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pocketvit.spec.target import CPU, variant_key


@dataclass(frozen=True)
class Built:
    """Files of one variant, not yet in an artifact."""

    runtime: str
    """Engine that opens ``path``: a name of ``pocketvit.runtimes.RUNTIMES``."""
    precision: str
    """Precision the engine is asked for: a name of ``pocketvit.spec.target.PRECISIONS``."""
    path: Path
    companions: tuple[Path, ...] = ()
    """Files the engine reads beside it (OpenVINO's .bin)."""
    device: str = CPU
    varies: bool = False
    """How long it takes depends on the image: parts of it run for some images only."""

    @property
    def key(self) -> str:
        """Name of the variant."""
        return variant_key(self.runtime, self.precision, self.device)

    @property
    def bytes(self) -> int:
        """Bytes on disk of all files."""
        return sum(p.stat().st_size for p in (self.path, *self.companions))
