"""cosyvoice3.yaml, read as data: nothing in it is ever run (docs/systems/cosyvoice3.md 1).

Upstream builds its objects straight from this file (hyperpyyaml). Here `!new:a.b.C {..}` and `!name:` are mappings that
remember their tag, `!ref <name>` is what `name` holds at the top, and `!ref <a> * <b>` is worked out for + - * / and
whole numbers. Sections for training and for GAN training are read like all others and ignored.
"""

import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

TAG = "!"  # the key under which a mapping keeps its own tag

_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_TERM = r"(?:<\w+>|\d+(?:\.\d+)?)"
_REFERENCE = re.compile(rf"^\s*({_TERM})(?:\s*([-+*/])\s*({_TERM}))?\s*$")


class _Reference(str):
    """The expression behind `!ref`."""


class _Loader(yaml.SafeLoader):
    """Plain data only; a tag is kept as a word."""


def _tagged(loader: _Loader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {**loader.construct_mapping(node, deep=True), TAG: suffix}
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.ScalarNode)
    value = loader.construct_scalar(node)
    if suffix == "ref":
        return _Reference(value)
    return value or {TAG: suffix}


_Loader.add_multi_constructor("!", _tagged)


def read(path: Path) -> dict[str, Any]:
    """The file's top-level entries, references replaced. Raises FileNotFoundError or ValueError that name the file."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a SafeLoader
    except OSError as error:
        raise FileNotFoundError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())[:160]}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: wanted `name: value` entries at the top")
    try:
        return {str(name): _resolved(value, content, depth=0) for name, value in content.items()}
    except (KeyError, ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from None


def _resolved(value: Any, top: dict[str, Any], depth: int) -> Any:
    if depth > 50:
        raise ValueError("references lead in a circle, or too deep")
    if isinstance(value, _Reference):
        return _evaluated(value, top, depth + 1)
    if isinstance(value, dict):
        return {key: _resolved(item, top, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, top, depth + 1) for item in value]
    return value


def _evaluated(expression: str, top: dict[str, Any], depth: int) -> Any:
    match = _REFERENCE.match(expression)
    if match is None:
        raise ValueError(f"cannot read `!ref {expression}`: wanted <name>, or two of <name> or numbers and + - * /")
    first, sign, second = match.groups()
    left = _term(first, top, depth)
    return left if sign is None else _OPERATIONS[sign](left, _term(second, top, depth))


def _term(term: str, top: dict[str, Any], depth: int) -> Any:
    if not term.startswith("<"):
        return float(term) if "." in term else int(term)
    name = term.strip("<>")
    if name not in top:
        raise ValueError(f"`!ref <{name}>`: there is no {name} at the top")
    return _resolved(top[name], top, depth)
