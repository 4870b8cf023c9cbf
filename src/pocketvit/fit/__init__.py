"""Budget -> candidates -> Pareto set -> artifact."""

from pocketvit.commands import make_callable

make_callable(__name__)
