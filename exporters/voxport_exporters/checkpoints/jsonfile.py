"""The JSON files of a checkpoint, and how a config becomes a class whose fields have types.

class Config(msgspec.Struct, frozen=True):
    layers: Size = 8

config = parse(read(path)["decoder_config"], Config, f"{path}: decoder_config")
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

T = TypeVar("T")
LARGEST = 2**31 - 1  # of any size; a config with more is damaged, and what is computed from it could be endless

Size = Annotated[int, Meta(ge=1, le=LARGEST)]
Count = Annotated[int, Meta(ge=0, le=LARGEST)]
Layers = Annotated[int, Meta(ge=1, le=4096)]  # layers are listed one by one
Rates = Annotated[tuple[Size, ...], Meta(max_length=4096)]  # one per layer
Positive = Annotated[float, Meta(gt=0, le=1e30)]
NotNegative = Annotated[float, Meta(ge=0, le=1e30)]


def read(path: Path) -> dict[str, Any]:
    """The object in a file. Raises FileNotFoundError or ValueError that name the file, in one line."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise FileNotFoundError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: wanted a JSON object")
    return content


def parse(fields: object, cls: type[T], where: str) -> T:
    """`fields`, as read from a file, as an instance of the struct `cls`.

    Keys that `cls` does not know are ignored unless it forbids them.
    Raises ValueError, which begins with `where` and names the field, when a value is of another type, out of range, or
    refused by the checks of `cls`.
    """
    if not isinstance(fields, Mapping):
        raise ValueError(f"{where} is {short(fields)}, wanted an object")
    try:
        return msgspec.convert(fields, cls)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        name = place.strip(".`")
        if (key := re.fullmatch(r"Object (missing required|contains unknown) field `(.*)`", problem)) is not None:
            problem = f"{'no' if key[1].startswith('missing') else 'unknown key'} {key[2]}"
        elif error.__cause__ is None and name:  # not a check of several fields
            name = f"{name} is {short(_at(fields, name))}"
            problem = problem[0].lower() + problem[1:].replace("`", "")
        raise ValueError(": ".join(part for part in (where, name, problem) if part)) from None


def _at(fields: Mapping[str, Any], name: str) -> object:
    """What stands at the place of a msgspec message, such as `rates[2]`; of a key in an object only the object."""
    value: Any = fields
    for step in name.replace("[", ".[").split("."):
        if step.startswith("["):
            if not isinstance(value, list | tuple):
                return value
            value = value[int(step.strip("[]"))]
        elif isinstance(value, Mapping) and step in value:
            value = value[step]
        else:
            return value
    return value


def short(value: object) -> str:
    """A value as JSON writes it, cut to what fits a line."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:  # of more digits than Python prints
        text = "a number of thousands of digits"
    return text if len(text) <= 40 else f"{text[:36]} ..."
