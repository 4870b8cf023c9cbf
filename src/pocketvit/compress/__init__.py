"""(model file, step) -> (new model file, step report)."""

from pocketvit.commands import make_callable

make_callable(__name__)
