"""Artifact -> answers for people: files, folders, pictures, and a server."""

from pocketvit.commands import make_callable

make_callable(__name__)
