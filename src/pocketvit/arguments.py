"""A command's arguments, derived from its function's signature and docstring; jsonargparse converts and checks them.

Required parameters are positional; so are parameters with a default that stand before a ``*``. All others are options;
one whose default is a dataclass becomes an option for each field, ``--limits.queue 8``.
Sections of the recipe become one option for each field, ``--budget.latency_ms 33``; the function gets those that were
given and no others, ready for ``load_recipe(source, {"budget": ...})``. By hand is only what jsonargparse has not:
lists as ``a b`` and ``1,2``, dashes for underscores, ``--target onnxruntime:int8:2``, and the nearest option's name.
"""

from __future__ import annotations

import argparse
import collections.abc
import dataclasses
import difflib
import functools
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import docstring_parser
from jsonargparse import ActionYesNo, ArgumentParser, DefaultHelpFormatter

from pocketvit.errors import UsageError
from pocketvit.spec.devices import DEVICES
from pocketvit.spec.target import Target
from pocketvit.spec.typed import expected

EVERYWHERE = ("json", "quiet", "verbose", "help")
"""Options of every command, which ``pocketvit.cli`` takes out first; a function may have a parameter of that name."""
_LISTS = (list, tuple, collections.abc.Sequence)


def members(annotation: Any) -> list[Any]:
    """What a value may be: the parts of a union that can be written in a shell, or the one type; paths are text."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    parts = typing.get_args(annotation) if union else (annotation,)
    return list(dict.fromkeys(str if part is Path else part for part in parts if not dataclasses.is_dataclass(part)))


def element(annotation: Any) -> Any:
    """The type of the entries of a list, ``None`` for what is no list."""
    lists = [part for part in members(annotation) if typing.get_origin(part) in _LISTS]
    return typing.get_args(lists[0])[0] if lists else None


def union(*kinds: Any) -> Any:
    """The types joined; the choices of several Literals become those of one."""
    parts = list(dict.fromkeys(part for kind in kinds for part in members(kind)))
    if all(typing.get_origin(part) is Literal for part in parts):
        return Literal[tuple(dict.fromkeys(choice for part in parts for choice in typing.get_args(part)))]
    return typing.Union[tuple(parts)]  # noqa: UP007 - made from values


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Types of the parameters; that of the answer is not resolved, so that its module need not be imported."""
    annotations = {name: hint for name, hint in function.__annotations__.items() if name != "return"}
    bare = types.SimpleNamespace(__annotations__=annotations)
    return typing.get_type_hints(bare, vars(sys.modules[function.__module__]))


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Notes type and default of each option, and leaves the paragraphs of descriptions alone."""


class _Parser(ArgumentParser):
    kinds: typing.ClassVar[dict[str, tuple[Any, Any]]] = {}
    """Type and default of each option."""

    def error(self, message: str, ex: Exception | None = None) -> typing.NoReturn:
        named = re.search(r"""Parser key "([^"]+)":""", message)
        if named and named[1] in self.kinds:  # in our words; the parser's speak of its classes
            kind, default = self.kinds[named[1]]
            words, example = expected(kind)
            given = re.search(r"(?:Got value|Given value|Got):\s*(.*)", message)
            what = f"--{named[1]} must be {words}" + (f", not {given[1].rstrip('.')[:60]}." if given else ".")
            todo = f"For example --{named[1]} {_written(default or example)}; `{self.prog} --help` lists the arguments."
            raise UsageError(what, todo)
        words = re.sub(r"""Parser key "([^"]+)":""", r"--\1:", " ".join(message.split()))
        words = re.sub(r"Does not validate .* Subtypes: \[(.*?)\] Errors:.*Given value:", r"Expected \1. Got:", words)
        words = re.sub(r"<class '(\w+)'>|typing\.", r"\1", words).replace("NoneType", "null")
        words = re.sub(r"(?:a )?Literal\[(.*?)\]", r"one of \1", words)
        raise UsageError(words[:400].rstrip(".") + ".", f"`{self.prog} --help` lists the arguments.")


class Arguments:
    """The parser of one command."""

    def __init__(
        self, command: str, function: Callable[..., Any], sections: Iterable[str] = (), epilog: str = ""
    ) -> None:
        """Derive the parser of ``function`` and of sections of the recipe; ``epilog`` is printed below its help."""
        doc = docstring_parser.parse(inspect.getdoc(function) or "")
        about = "\n\n".join(filter(None, (doc.short_description, doc.long_description))).replace("``", "")
        self._parser = _Parser(
            prog=f"pocketvit {command}", description=about, epilog=epilog, formatter_class=_Formatter, add_help=False
        )
        self._types: dict[str, Any] = {}
        self._parser.kinds = {}  # type: ignore[misc]
        """Of all options, and of whole sections."""
        self._flags: set[str] = set()
        self._positional: list[str] = []
        self._parameters: dict[str, str] = {}
        """Option -> parameter of the function."""
        self._grouped: dict[str, Any] = {}
        """Parameter -> its dataclass, for those that are one."""
        self._usage = f"pocketvit {command} "
        self._add_parameters(function, {p.arg_name: p.description or "" for p in doc.params})
        for section in sections:
            self._add_section(section)
        self._parser.usage = f"{self._usage}[options]"

    def help(self) -> str:
        """The text of ``--help``."""
        return str(self._parser.format_help())

    def options(self) -> list[str]:
        """All option names, ``--budget.latency_ms``."""
        return [f"--{name}" for name, kind in self._types.items() if not dataclasses.is_dataclass(kind)]

    def parse(self, args: Iterable[str]) -> dict[str, Any]:
        """Keyword arguments for the function: what was given and nothing else.

        Raises:
            UsageError: an unknown option (with the nearest one), a missing argument, a value of the wrong type.
        """
        given = self._parser.parse_args(self._written_out(list(args)), defaults=False).as_dict()
        named = {
            name: value for name, value in given.items() if name not in self._positional or value not in (None, [])
        }
        made = {name: kind(**named[name]) for name, kind in self._grouped.items() if name in named}
        return {self._parameters.get(name, name): value for name, value in (named | made).items()}

    def _add_parameters(self, function: Callable[..., Any], texts: dict[str, str]) -> None:
        parameters, hints = inspect.signature(function).parameters.values(), hints_of(function)
        star = any(p.kind is p.KEYWORD_ONLY for p in parameters)
        for p in parameters:
            kind, text, required = hints.get(p.name, str), texts.get(p.name, ""), p.default is p.empty
            if p.kind is p.VAR_KEYWORD or p.name in EVERYWHERE:
                continue
            if dataclasses.is_dataclass(p.default):
                self._grouped[p.name] = type(p.default)
                self._add_fields(self._parser.add_argument_group(p.name, _line(text)), p.name, [kind], p.default)
                continue
            if not required and (p.kind is p.KEYWORD_ONLY or not star):
                name = p.name.rstrip("_")  # from_: Python keeps the word for itself
                self._parameters[name] = p.name
                self._add_option(self._parser, name, kind, p.default, text, flag=kind is bool)
                continue
            self._positional.append(p.name)
            many = element(kind)
            nargs = ("+" if required else "*") if many else None if required else "?"
            self._parser.add_argument(p.name, type=many or union(kind), help=_line(text) or None, nargs=nargs)
            written = f"{p.name} ..." if many else p.name
            self._usage += f"{written} " if required else f"[{written}] "

    def _add_option(self, group: Any, name: str, kind: Any, default: Any, text: str, flag: bool = False) -> None:
        self._types[name] = kind
        self._parser.kinds[name] = (kind, default)
        self._flags |= {name, f"no_{name}"} if flag else set()
        form: dict[str, Any] = {"action": ActionYesNo(no_prefix="no_")} if flag else {"type": union(kind)}
        group.add_argument(f"--{name}", default=default, help=_line(text) or None, **form)

    def _add_section(self, section: str) -> None:
        """One part of the recipe; where each task has its own, the fields of all of them."""
        from pocketvit.spec.recipe import Recipe

        kind, default = typing.get_type_hints(Recipe)[section], getattr(Recipe(), section)
        if not dataclasses.is_dataclass(kind):
            self._add_option(self._parser, section, kind, default, _texts(Recipe)[section])
            return
        if kind is Target:  # also written as a whole
            self._types[section] = kind
        group = self._parser.add_argument_group(section, _line((inspect.getdoc(kind) or "").partition("\n\n")[0]))
        classes = kind.__subclasses__() or [kind]
        self._add_fields(group, section, classes, default)

    def _add_fields(self, group: Any, section: str, classes: list[Any], default: Any) -> None:
        """The fields of a section, and of the sections within it."""
        for name, field in {f.name: f for owner in classes for f in dataclasses.fields(owner)}.items():
            owners = [owner for owner in classes if name in owner.__dataclass_fields__]
            text = "; ".join(dict.fromkeys(filter(None, (_texts(owner).get(name) for owner in owners))))
            kinds = [typing.get_type_hints(owner)[name] for owner in owners]
            value = getattr(default, name, field.default)
            if dataclasses.is_dataclass(kinds[0]):
                self._add_fields(group, f"{section}.{name}", kinds, value)
            else:
                self._add_option(group, f"{section}.{name}", union(*kinds), value, text)

    def _written_out(self, args: list[str]) -> list[str]:
        """The arguments as jsonargparse reads them: ``--name=value`` with lists in brackets, then the positional."""
        options: list[str] = []
        positional: list[str] = []
        seen: set[str] = set()
        while args and args[0] != "--":
            word, args = args[0], args[1:]
            if not word.startswith("--"):
                positional.append(word)
                continue
            written, equals, value = word[2:].partition("=")
            name = self._name(written)
            flag = name in self._flags and not equals
            following = next((i for i, other in enumerate(args) if other.startswith("--")), len(args))
            count = 0 if flag or equals else following if element(self._types.get(name)) else min(following, 1)
            values, args = ([value] if equals else args[:count]), args[count:]
            if not flag and not values:
                raise UsageError(f"--{name} needs a value.", f"`{self._parser.prog} --help` lists the arguments.")
            if name in seen:
                raise UsageError(f"--{name} is given twice.", "Give it once; a list takes all its values behind one.")
            seen.add(name)
            options += [f"--{name}"] if flag else self._option(name, values)
        positional += args[1:]
        return [*options, "--", *positional] if positional else options

    def _option(self, name: str, values: list[str]) -> list[str]:
        """One option with its value, or one for each part of a target."""
        kind, text = self._types.get(name), values[0]
        if kind is Target:
            return [f"--{name}.{part}={value}" for part, value in _target(text).items()]
        entry = element(kind)
        if entry and not text.lstrip().startswith("[") and values != ["null"]:
            numbers = {int, float} & set(members(entry))
            text = f"[{','.join(values)}]" if numbers else json.dumps(values)
        return [f"--{name}={text}"]

    def _name(self, written: str) -> str:
        """The option that is meant; if there is none, raises the ``UsageError`` that names the nearest."""
        name = written if written in self._types else written.replace("-", "_")
        if name in self._positional:
            raise UsageError(f"{name} is given without --{written}.", f"`{self._parser.prog} --help` shows the order.")
        known = [*self._types, *self._flags]
        parent, _, last = name.rpartition(".")
        if name in known or typing.get_origin(self._types.get(parent)) is dict:
            return name
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        same = [option for option in known if option.rpartition(".")[2] == last]
        # A word without a section may be right and only its section missing.
        found = [*near, *same] if parent else [*same, *near]
        todo = f"Did you mean --{found[0]}?" if found else f"`{self._parser.prog} --help` lists the arguments."
        raise UsageError(f"unknown option --{written}.", todo)


@functools.cache
def _texts(owner: type) -> dict[str, str]:
    """The docstrings under the fields of a dataclass."""
    return {p.arg_name: p.description or "" for p in docstring_parser.parse_from_object(owner).params}


def _written(example: Any) -> str:
    """A value as one writes it in a shell."""
    return " ".join(map(str, example)) if isinstance(example, (list, tuple)) else json.dumps(example).strip('"')


def _line(text: str) -> str:
    return " ".join(text.split()).replace("``", "")


def _target(text: str) -> dict[str, Any]:
    """The parts of ``runtime[:precision[:threads]][@device]`` that were written."""
    parts = dataclasses.asdict(Target.parse(text))
    if text in DEVICES:
        return {"device": text}
    engine, _, device = text.partition("@")
    written = ("runtime", "precision", "threads")[: engine.count(":") + 1]
    return {part: parts[part] for part in (*written, *(("device",) if device else ()))}
