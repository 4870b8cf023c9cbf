"""Head, loss and targets of each task; metrics and answers are NumPy and live in ``spec``. A new task is one module and one row."""

from pocketvit.tasks.classify import ClassifyTask
from pocketvit.tasks.restore import RestoreTask

TASKS: dict[str, RestoreTask | ClassifyTask] = {"restore": RestoreTask(), "classify": ClassifyTask()}
