"""Files -> validated samples. Only `loader` imports torch."""

from pocketvit.commands import make_callable

make_callable(__name__)
