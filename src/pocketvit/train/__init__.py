"""One training loop for all tasks (Lightning Fabric)."""

from pocketvit.commands import make_callable

make_callable(__name__)
