"""Head, loss and targets of each task; metrics and answers are NumPy and live in ``spec``. A new task is one module and one row."""

from typing import Any

from pocketvit.tasks.classify import ClassifyTask
from pocketvit.tasks.restore import RestoreTask

TORCH_TASKS: dict[str, Any] = {"restore": RestoreTask(), "classify": ClassifyTask()}
