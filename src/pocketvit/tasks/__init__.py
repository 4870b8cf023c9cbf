"""The torch side of each task, keyed like ``pocketvit.spec.tasks.TASKS``: a new task is one record in each table."""

from pocketvit.tasks.base import TorchTask
from pocketvit.tasks.classify import CLASSIFY
from pocketvit.tasks.depth import DEPTH
from pocketvit.tasks.detect import DETECT
from pocketvit.tasks.restore import RESTORE
from pocketvit.tasks.segment import SEGMENT

TORCH_TASKS: dict[str, TorchTask] = {
    "restore": RESTORE,
    "classify": CLASSIFY,
    "depth": DEPTH,
    "segment": SEGMENT,
    "detect": DETECT,
}
