"""A YAML document that knows which line each key stands on.

Knows nothing of what the document is about: the pydantic model it is given says that.

Laws: every problem of a file is told at once, in the order of its lines, as `file, line N: key: what`;
every key is text and stands once; a plain word stays text unless YAML 1.2 calls it a number, true, false
or null (so `on`, `no`, `1:20` and `2024-01-01` are text); types are strict (`"22"` is no integer).
`x-...` keys at the top are left alone: anchors live there. Anchors and merge keys (`<<`) work.
`loads(dumps(m), type(m), name) == m`.
A model's `mode="before"` validator that returns a mapping must hand tuples to fields that are tuples.
"""

from __future__ import annotations

import json
import math
import re
import types
from dataclasses import dataclass, field, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from slmops.errors import DocumentError
from slmops.fault import plainly, wanted

M = TypeVar("M", bound=BaseModel)
Where = tuple[str | int, ...]

MOST_VALUES = 100_000
"""Values a document may expand to."""
MOST_PROBLEMS = 20
_TAG = "tag:yaml.org,2002:"
_PLAIN_KEY = re.compile(r"[\w-]+|<<")


def load(path: Path, model: type[M], *, remedy: str | None = None) -> M:
    """Read a YAML file as `model`; raise DocumentError naming file, line and key of all that is wrong.

    `remedy` is the way on from what its schema does not allow.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DocumentError(
            f"{path}: {(error.strerror or str(error)).lower()}", remedy="Name a file that can be read."
        ) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DocumentError(
            f"{path}, line {line}: expected UTF-8 text, got byte 0x{data[error.start]:02x}"
        ) from error
    return loads(text, model, str(path), remedy=remedy)


def loads(text: str, model: type[M], name: str, *, remedy: str | None = None) -> M:
    """Read YAML text as `model`; `name` is what problems call the document, `remedy` as for `load`."""
    tree = _Tree(name)
    root = _compose(text, name)
    if root is None:
        expected = ", ".join(_keys(model))
        raise DocumentError(f"{name}: the document is empty; expected keys {expected}", remedy=remedy)
    if not isinstance(root, yaml.MappingNode):
        raise DocumentError(f"{name}, line {_line(root)}: expected a mapping (key: value), got {_got(root)}")
    try:
        value = tree.plain(root, ())
    except RecursionError as error:
        raise DocumentError(f"{name}: nested too deeply") from error
    try:
        read = model.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        tree.judge(error.errors(include_url=False), model)
    else:
        if not tree.problems:
            return read
    raise DocumentError(tree.told(), remedy=remedy)


def dumps(said: BaseModel) -> str:
    """Write a model as a YAML document, leaving out what is None."""
    plain = said.model_dump(mode="json", by_alias=True, exclude_none=True)
    return yaml.dump(
        plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
    )


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the plain scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML copies it for each class


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which also quotes text that YAML 1.2 would call a number or that breaks lines."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = None if data.isprintable() else '"'
        return self.represent_scalar(_TAG + "str", data, style)


_Dumper.add_representer(str, _Dumper.represent_str)

for _kind, _form, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _kind, re.compile(f"(?:{_form})$"), _first)


def _compose(text: str, name: str) -> yaml.Node | None:
    """Parse to nodes; raise DocumentError for what is not YAML."""
    try:
        return yaml.compose(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        said = [*text.splitlines(), ""][min(line - 1, len(text.splitlines()))]
        raise DocumentError(f"{name}, line {line}: {_syntax(error, said)}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise DocumentError(
            f"{name}, line {line}: character {text[error.position]!r} is not allowed"
        ) from error
    except RecursionError as error:
        raise DocumentError(f"{name}: nested too deeply") from error


def _syntax(error: yaml.MarkedYAMLError, line: str) -> str:
    """Say what is wrong with a line that is not YAML."""
    if "\t" in line[: len(line) - len(line.lstrip())] or "'\\t'" in str(error.problem):
        return f"a tab before {line.strip()[:40]!r}; YAML is indented with spaces"
    context = f" {error.context}" if error.context else ""
    return f"not YAML{context}: {error.problem}" + (f", at {line.strip()[:40]!r}" if line.strip() else "")


@dataclass
class _Tree:
    """The document while it is read: where every key stands, and what is wrong so far."""

    name: str
    places: dict[Where, tuple[int, yaml.Node]] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)
    open: set[int] = field(default_factory=set)
    steps: int = 0

    def blame(self, line: int, where: Where, what: str) -> None:
        """Note one problem."""
        key = _path(where)
        self.problems.append((line, f"{self.name}, line {line}: {key + ': ' if key else ''}{what}"))

    def told(self) -> str:
        """Return all problems, the first lines first."""
        said = list(dict.fromkeys(text for _, text in sorted(self.problems, key=lambda problem: problem[0])))
        more = [f"... and {len(said) - MOST_PROBLEMS} more"] if len(said) > MOST_PROBLEMS else []
        return "\n".join(said[:MOST_PROBLEMS] + more)

    def plain(self, node: yaml.Node, where: Where, line: int | None = None) -> Any:
        """Turn a node to dicts, lists and scalars, noting where each stands."""
        self.places[where] = (line or _line(node), node)
        self.step()
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, where)
        if id(node) in self.open:
            self.blame(_line(node), where, "holds itself by an alias")
            return None
        self.open.add(id(node))
        value: Any
        if isinstance(node, yaml.MappingNode):
            value = {
                key.value: self.plain(below, (*where, key.value), _line(key))
                for key, below in self.entries(node, where).values()
                if where or not key.value.startswith("x-")
            }
        else:
            value = [self.plain(below, (*where, index)) for index, below in enumerate(node.value)]
        self.open.remove(id(node))
        return value

    def entries(self, node: yaml.MappingNode, where: Where) -> dict[str, tuple[yaml.ScalarNode, yaml.Node]]:
        """Return a mapping's pairs by key: its own first, then what it merges and does not say itself."""
        self.step()
        own: dict[str, tuple[yaml.ScalarNode, yaml.Node]] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.blame(_line(key), where, f"expected a key of one word, got {_got(key)}")
            elif key.value in own:
                first = _line(own[key.value][0])
                self.blame(_line(key), (*where, key.value), f"duplicate key; line {first} has it already")
            else:
                own[key.value] = (key, value)
        if "<<" not in own or own["<<"][0].style is not None:
            return own
        key, merged = own.pop("<<")
        for source in merged.value if isinstance(merged, yaml.SequenceNode) else [merged]:
            if not isinstance(source, yaml.MappingNode):
                self.blame(_line(key), (*where, "<<"), f"expected a mapping to merge, got {_got(source)}")
            elif id(source) in self.open:
                self.blame(_line(key), (*where, "<<"), "expected a mapping to merge, got what it stands in")
            else:
                self.open.add(id(source))
                own = {**self.entries(source, where), **own}
                self.open.remove(id(source))
        return own

    def step(self) -> None:
        """Count one value more; aliases of aliases would make them without end."""
        self.steps += 1
        if self.steps > MOST_VALUES:
            raise DocumentError(f"{self.name}: its aliases expand to more than {MOST_VALUES} values")

    def scalar(self, node: yaml.ScalarNode, where: Where) -> Any:
        """Return the value of a scalar; text, integer, number, true, false or nothing."""
        text = node.value
        try:
            match node.tag.removeprefix(_TAG):
                case "str":
                    return text.encode("utf-16", "surrogatepass").decode("utf-16")
                case "null":
                    return None
                case "bool":
                    return {"true": True, "false": False}[text.lower()]
                case "int":
                    return int(text, 0 if text[:2] in {"0o", "0x"} else 10)
                case "float" if math.isfinite(number := float(text)):
                    return number
                case _:
                    self.blame(_line(node), where, f"cannot read {text[:40]!r} as {node.tag!r}")
        except (ValueError, KeyError):
            self.blame(_line(node), where, f"expected {node.tag.removeprefix(_TAG)}, got {text[:40]!r}")
        return None

    def judge(self, errors: list[ErrorDetails], model: type[BaseModel]) -> None:
        """Note what the model says, each at the line of its key; what is said of one key stands together."""
        missed: dict[Where, list[str]] = {}
        for error in filter(lambda error: not _follows(error, errors), errors):
            at = error.get("ctx", {}).get("at", ())
            where = self.known((*error["loc"], *at))
            match error["type"]:
                case "missing":
                    self.blame(self.places[where][0], (*where, error["loc"][-1]), "missing key")
                case "extra_forbidden" | "unexpected_keyword_argument":
                    meant = _unknown(str(where[-1]), _keys_at(model, where[:-1]))
                    self.blame(self.places[where][0], where, meant)
                case "fault" | "value_error" | "assertion_error":
                    self.blame(self.places[where][0], where, plainly(error))
                case _:
                    missed.setdefault(where, []).append(wanted(error))
        for where, words in missed.items():
            line, node = self.places[where]
            hint = "; put it in quotes" if words == ["text"] and _is_number(node) else ""
            self.blame(line, where, f"expected {' or '.join(dict.fromkeys(words))}, got {_got(node)}{hint}")

    def known(self, loc: Where) -> Where:
        """Drop from a pydantic location what is no key of the document: such as names of union members."""
        where: Where = ()
        for part in loc:
            if (*where, part) in self.places:
                where = (*where, part)
        return where


def _follows(error: ErrorDetails, errors: list[ErrorDetails]) -> bool:
    """Tell whether a list is only called too short because what it holds was refused."""
    at = error["loc"]
    return error["type"] == "too_short" and any(
        other["loc"][: len(at)] == at and len(other["loc"]) > len(at) for other in errors
    )


def _unknown(key: str, known: list[str]) -> str:
    """Say that a key is not known, and which one may have been meant."""
    near = get_close_matches(key, known, n=1, cutoff=0.6)
    return f"unknown key; {f'did you mean {near[0]!r}?' if near else 'expected one of ' + ', '.join(known)}"


def _keys(model: type[BaseModel]) -> list[str]:
    """Return the keys a model knows."""
    return [about.alias or name for name, about in model.model_fields.items()]


def _keys_at(kind: Any, where: Where) -> list[str]:
    """Return the keys that are known at a place of a document of type `kind`."""
    if get_origin(kind) in {Annotated, Union, types.UnionType}:
        members = get_args(kind)[:1] if get_origin(kind) is Annotated else get_args(kind)
        return [key for member in members for key in _keys_at(member, where)]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if not where:
            return _keys(kind)
        below = [about for name, about in kind.model_fields.items() if (about.alias or name) == where[0]]
        return _keys_at(below[0].annotation, where[1:]) if below else []
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return _keys_at(hints.get(str(where[0])), where[1:]) if where else list(hints)
    if not where or not get_args(kind):
        return []
    return _keys_at(get_args(kind)[-1 if isinstance(where[0], str) else 0], where[1:])


def _path(where: Where) -> str:
    """Write a place as people do: `hosts.kitchen.ports[2]`."""
    said = ""
    for part in where:
        if isinstance(part, int):
            said += f"[{part}]"
        else:
            said += ("." if said else "") + (part if _PLAIN_KEY.fullmatch(part) else json.dumps(part))
    return said


def _line(node: yaml.Node) -> int:
    """Return the line a node begins on, from 1."""
    return int(node.start_mark.line) + 1


def _is_number(node: yaml.Node) -> bool:
    """Tell whether a scalar was written as a number or a truth value."""
    return node.tag.removeprefix(_TAG) in {"int", "float", "bool"}


def _got(node: yaml.Node) -> str:
    """Show what stands in the document, as it was written."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list" if node.value else "an empty list"
    if node.tag == _TAG + "null":
        return "nothing"
    return str(node.value) if _is_number(node) else repr(node.value[:60])
