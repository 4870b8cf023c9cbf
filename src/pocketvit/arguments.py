"""A command's arguments, derived from the signature and docstring of its function (jsonargparse checks and converts them).

Required parameters are positional; so are parameters with a default that stand before a ``*``. All others are options.
A parameter that is a dataclass (the sections of a recipe) becomes one option per field, ``--budget.latency_ms 33``, and
reaches the function as a dict of the fields that were given and no others, ready for ``load_recipe(source, {"budget": ...})``.
"""

from __future__ import annotations

import argparse
import collections.abc
import dataclasses
import difflib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import docstring_parser
import yaml
from jsonargparse import ArgumentParser, Namespace

from pocketvit.errors import UsageError
from pocketvit.spec.target import Target

SEQUENCES = (list, tuple, set, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
SCALARS = (bool, int, float, str, Path)


@dataclass(frozen=True)
class Kind:
    """How one argument is written on the command line."""

    form: Literal["scalar", "sequence", "mapping", "flag", "section"]
    type: Any = str
    choices: tuple[Any, ...] = ()
    nullable: bool = False
    """``null`` means None, as in the YAML."""

    @property
    def scalar_type(self) -> Any:
        """What jsonargparse checks one value against."""
        return typing.Optional[self.type] if self.nullable else self.type  # noqa: UP045 - a value, not an annotation


def kind_of(annotation: Any) -> Kind | None:
    """The form of an annotation; ``None`` for what has no command-line form (arrays, callables, models)."""
    if annotation in SCALARS:
        return Kind("flag") if annotation is bool else Kind("scalar", str if annotation is Path else annotation)
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        kind = _kind_of_union([kind_of(a) for a in args if a is not type(None)])
        return dataclasses.replace(kind, nullable=type(None) in args) if kind else None
    if origin is Literal:
        return Kind("scalar", type(args[0]), args)
    if origin in SEQUENCES or annotation in SEQUENCES:
        element = kind_of(args[0]) if args else Kind("scalar")
        return Kind("sequence", element.type, element.choices) if element and element.form == "scalar" else None
    if origin in (dict, collections.abc.Mapping) or annotation is dict:
        return Kind("mapping", dict)
    if dataclasses.is_dataclass(annotation):
        return Kind("section", annotation)
    return None


def _kind_of_union(kinds: list[Kind | None]) -> Kind | None:
    """Of several forms the one that can express the others: a list, else plain text or a number, else a section."""
    for form in ("sequence", "scalar", "section", "mapping", "flag"):
        found = [k for k in kinds if k is not None and k.form == form]
        if found:
            texts = [k for k in found if k.type is str]
            numbers = [k for k in found if k.type is float]
            return next(iter(texts or numbers or found))
    return None


class _Parser(ArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> typing.NoReturn:
        words = re.sub(r"""Parser key "([^"]+)":""", r"--\1:", " ".join(message.split()))
        words = re.sub(r"<class '(\w+)'>", r"\1", words)
        raise UsageError(
            words[:400].rstrip(".") + ".", f"`pocketvit {self.prog.split()[-1]} --help` lists the arguments."
        )


class Arguments:
    """The parser of one command."""

    def __init__(self, command: str, function: Callable[..., Any], epilog: str = "") -> None:
        """Derive the parser of ``function``; ``epilog`` is printed below its help."""
        doc = docstring_parser.parse(inspect.getdoc(function) or "")
        description = "\n\n".join(filter(None, (doc.short_description, doc.long_description))).replace("``", "")
        formatter = argparse.RawDescriptionHelpFormatter
        self._parser = _Parser(
            prog=f"pocketvit {command}",
            description=description,
            epilog=epilog,
            formatter_class=formatter,
            exit_on_error=False,
            add_help=False,
        )
        self._kinds: dict[str, Kind] = {}
        self._positionals: set[str] = set()
        self._negations: set[str] = set()
        self._given = f"pocketvit {command}"
        signature, hints = inspect.signature(function), typing.get_type_hints(function)
        helps = {p.arg_name: " ".join((p.description or "").split()) for p in doc.params}
        keyword_only = any(p.kind is p.KEYWORD_ONLY for p in signature.parameters.values())
        for name, parameter in signature.parameters.items():
            kind = (
                kind_of(hints.get(name, str))
                if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
                else None
            )
            if kind is None:
                continue
            required = parameter.default is parameter.empty
            positional = required or (keyword_only and parameter.kind is not parameter.KEYWORD_ONLY)
            if kind.form == "section":
                self._add_section(name, kind.type, helps.get(name, ""))
            elif positional:
                self._add_positional(name, kind, helps.get(name, ""), required)
            else:
                self._add_option(name, kind, helps.get(name, ""), parameter.default)
        words = [
            self._usage(n, signature.parameters[n].default is inspect.Parameter.empty)
            for n in self._kinds
            if n in self._positionals
        ]
        self._parser.usage = " ".join([f"pocketvit {command}", *words, "[options]"])

    def _usage(self, name: str, required: bool) -> str:
        if self._kinds[name].form == "sequence":
            return f"{name} [{name} ...]" if required else f"[{name} ...]"
        return name if required else f"[{name}]"

    def help(self) -> str:
        """The text of ``--help``."""
        return str(self._parser.format_help())

    def options(self) -> list[str]:
        """All option names, ``--budget.latency_ms``."""
        return [f"--{name}" for name in self._kinds if name not in self._positionals]

    def parse(self, args: Iterable[str]) -> dict[str, Any]:
        """Keyword arguments for the function: what was given and nothing else.

        Raises:
            UsageError: an unknown option (with the nearest one), a missing argument, a value of the wrong type.
        """
        prepared, extra = self._prepare(list(args))
        try:
            parsed = self._parser.parse_args(prepared, defaults=False)
        except argparse.ArgumentError as error:
            self._parser.error(str(error))
        values: dict[str, Any] = {}
        for key, value in [*self._given_values(parsed), *extra]:
            _put(values, key, value)
        return values

    def _given_values(self, parsed: Namespace) -> Iterator[tuple[str, Any]]:
        """What was given, under dotted names, with lists and mappings converted."""
        for key, value in parsed.items():
            kind = self._kinds[key]
            if (kind.form == "flag" and value is None) or (key in self._positionals and value in (None, [])):
                continue
            if kind.form == "flag":
                yield (key.removeprefix("no_"), False) if key in self._negations else (key, True)
            elif kind.form == "sequence":
                yield key, _elements(value, kind, key)
            elif kind.form == "mapping":
                yield key, _yaml(value, key)
            else:
                yield key, value

    def _add_positional(self, name: str, kind: Kind, text: str, required: bool) -> None:
        self._kinds[name] = kind
        self._positionals.add(name)
        many = kind.form == "sequence"
        nargs: dict[str, Any] = {"nargs": "+" if required else "*"} if many else ({} if required else {"nargs": "?"})
        self._parser.add_argument(
            name,
            type=str if many or kind.form == "mapping" else kind.scalar_type,
            help=_escaped(text),
            **_choices(kind),
            **nargs,
        )

    def _add_option(self, name: str, kind: Kind, text: str, default: Any = None, group: Any = None) -> None:
        self._kinds[name] = kind
        group = group or self._parser
        shown = "" if default is None or default is False or default in ((), []) else f" (default: {_shown(default)})"
        option, help_text = f"--{name}", _escaped(text + shown)
        if kind.form == "flag":
            group.add_argument(option, action="store_true", default=None, help=help_text)
            if default is True:
                self._kinds[f"no_{name}"] = Kind("flag")
                self._negations.add(f"no_{name}")
                group.add_argument(f"--no_{name}", action="store_true", default=None, help=f"Turn off {name}.")
        elif kind.form == "sequence":
            group.add_argument(option, type=str, nargs="+", help=help_text, metavar="X")
        elif kind.form == "mapping":
            group.add_argument(option, type=str, help=help_text, metavar="YAML")
        else:
            group.add_argument(
                option,
                type=kind.scalar_type,
                help=help_text,
                **({"metavar": "X"} if not kind.choices else {}),
                **_choices(kind),
            )

    def _add_section(self, name: str, section: type, text: str) -> None:
        group = self._parser.add_argument_group(name, _escaped(text))
        if section is Target:
            self._kinds[name] = Kind("section", Target)
        options: dict[str, tuple[Kind, str, Any]] = {}
        for form in (section, *section.__subclasses__()):  # each task has a section of its own
            hints = typing.get_type_hints(form)
            documented = docstring_parser.parse_from_object(form).params
            texts = {p.arg_name: " ".join((p.description or "").split()) for p in documented}
            for field in dataclasses.fields(form):
                kind = kind_of(hints[field.name])
                if kind is None:
                    continue
                if kind.form == "flag":
                    kind = Kind("scalar", bool)  # a field of a recipe is given a value, as in the YAML
                default = field.default if field.default is not dataclasses.MISSING else None
                if field.name in options:
                    known, text, default = options[field.name]
                    choices = dict.fromkeys((*known.choices, *kind.choices))
                    kind = dataclasses.replace(known, choices=tuple(choices))
                    texts.setdefault(field.name, text)
                    texts[field.name] = text or texts[field.name]
                options[field.name] = (kind, texts.get(field.name, ""), default)
        for key, (kind, text, default) in options.items():
            self._add_option(f"{name}.{key}", kind, text, default, group)

    def _prepare(self, args: list[str]) -> tuple[list[str], list[tuple[str, Any]]]:
        """Check option names, split ``--a=b``, and take out what the parser has no word for: ``--target X:Y:Z`` and ``--model.options.KEY``."""
        prepared: list[str] = []
        extra: list[tuple[str, Any]] = []
        rest = iter(args)
        for arg in rest:
            if arg == "--":
                return [*prepared, arg, *rest], extra
            if not arg.startswith("--"):
                prepared.append(arg)
                continue
            written, equals, value = arg[2:].partition("=")
            name = written if written in self._kinds else written.replace("-", "_")
            parent = name.rpartition(".")[0]
            whole_section = name in self._kinds and self._kinds[name].form == "section"
            if name in self._positionals:
                raise UsageError(
                    f"{name} is given without --{written}.", f"`{self._given} --help` shows the order of the arguments."
                )
            if name not in self._kinds and not (parent in self._kinds and self._kinds[parent].form == "mapping"):
                self._unknown(written)
            if whole_section or name not in self._kinds:
                text = value if equals else next(rest, None)
                if text is None:
                    raise UsageError(f"--{name} needs a value.", f"`{self._given} --help` lists the arguments.")
                extra.append((name, _target(text) if whole_section else _yaml(text, name)))
            else:
                prepared += [f"--{name}", *([value] if equals else [])]
        return prepared, extra

    def _unknown(self, name: str) -> typing.NoReturn:
        options = [k for k in self._kinds if k not in self._positionals]
        near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
        if "." not in name:  # the word may be right and only its section missing
            near = [k for k in options if k.rpartition(".")[2] == name][:1] or near
        if not near:
            near = [k for k in options if k.rpartition(".")[2] == name.rpartition(".")[2]][:1]
        raise UsageError(
            f"unknown option --{name}.",
            f"Did you mean --{near[0]}?" if near else f"`{self._given} --help` lists the arguments.",
        )


def _target(text: str) -> dict[str, Any]:
    """The parts of ``runtime[:precision[:threads]]`` that were written."""
    return dict(list(dataclasses.asdict(Target.parse(text)).items())[: text.count(":") + 1])


def _choices(kind: Kind) -> dict[str, Any]:
    return {"choices": kind.choices} if kind.choices else {}


def _escaped(text: str) -> str | None:
    return text.strip().replace("``", "").replace("%", "%%") or None  # argparse formats help texts with %


def _shown(default: Any) -> str:
    return " ".join(map(str, default)) if isinstance(default, (tuple, list)) else str(default)


def _elements(words: list[str], kind: Kind, name: str) -> list[Any]:
    """``a b``, ``[a, b]`` and, for numbers, ``a,b``."""
    if not isinstance(words, list):
        words = [words]
    found: list[Any] = list(words)
    if len(words) == 1 and isinstance(words[0], str) and words[0].lstrip().startswith("["):
        found = _yaml(words[0], name)
    elif kind.type in (int, float):
        found = [part for word in words for part in str(word).split(",")]
    try:
        found = [kind.type(x) for x in found]
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"--{name}: {' '.join(map(str, words))} is no list of {kind.type.__name__} values.",
            f"Write them one after the other: --{name} A B.",
        ) from error
    wrong = [x for x in found if kind.choices and x not in kind.choices]
    if wrong:
        raise UsageError(
            f"--{name}: {wrong[0]!r} is not possible.", f"Choose from: {', '.join(map(str, kind.choices))}."
        )
    return found


def _yaml(text: str, name: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--{name}: {text!r} is not valid YAML.", "Quote it, e.g. '{pool: gap}'.") from error


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    values[last] = values[last] | value if isinstance(values.get(last), dict) and isinstance(value, dict) else value
