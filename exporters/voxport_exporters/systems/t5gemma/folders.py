"""Finds the folders that a T5Gemma-TTS checkpoint is made of: model, tokenizer, codec, the codec's semantic encoder.

The model's config names the tokenizer and the codec, as hub repositories or as paths. A download of either lies below
CHECKPOINT, beside the model, or where the config says.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path
from typing import Any

from voxport_exporters.checkpoints import folder
from voxport_exporters.systems.t5gemma.config import MODEL_TYPE

BACKBONE_TYPE = "t5gemma"  # model_type of the text model that a training run began with


@dataclass(frozen=True)
class Kind:
    """One of the folders beside the model."""

    noun: str
    option: str  # of the command line, that names it
    name: str | None  # the key of the model's config that names it
    fits: Callable[[Path], bool]


def _has(*marks: str) -> Callable[[Path], bool]:
    """Whether a folder's config.json contains one of the texts `marks`."""

    def fits(path: Path) -> bool:
        config = path / "config.json"
        text = config.read_text(errors="replace") if config.is_file() else ""
        return any(mark in text for mark in marks)

    return fits


TOKENIZER = Kind("tokenizer", "--tokenizer", "text_tokenizer_name", lambda path: (path / "tokenizer.json").is_file())
CODEC = Kind("XCodec2", "--codec", "xcodec2_model_name", _has('"codec_decoder_hidden_size"', '"model_type": "xcodec2"'))
SEMANTIC = Kind("w2v-BERT 2.0", "--semantic", None, _has('"wav2vec2-bert"'))


def model(root: Path, *backbones: object) -> Path:
    """The folder of the model's config.json: `root`, or the one below it; of a training run that of its text model.

    `backbones`: what runs call their text model; a path is looked up when there is nothing in `root`.
    Raises FileNotFoundError or ValueError that say in one line what is missing, or list what there is.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    if (root / "config.json").is_file():
        return root
    for kind in (MODEL_TYPE, BACKBONE_TYPE):
        if found := folder.below(root, f'"{kind}"'):
            return folder.choose(root, [(path.name, path) for path in found], None, "a T5Gemma-TTS folder")
    for name in backbones:
        if isinstance(name, str) and (Path(name) / "config.json").is_file():
            return Path(name)
    raise FileNotFoundError(f"{root}: holds no T5Gemma-TTS model: no config.json of model_type {MODEL_TYPE} below it")


def beside(kind: Kind, root: Path, at: Path, fields: Mapping[str, Any], path: Path | None) -> Path:
    """The folder of `kind` that goes with the model in `at`, whose config.json holds `fields`.

    `path`: what the command line says, if it says anything.
    Raises FileNotFoundError or ValueError that say in one line what is missing, or list what there is.
    """
    if path is not None:
        if not path.is_dir():
            raise FileNotFoundError(f"{path}: no such folder; {kind.option} names that of a {kind.noun}")
        return path  # what it lacks is said by who reads it
    places = list(dict.fromkeys([root, at, at.parent]))
    if (named := next(filter(kind.fits, _by_name(kind, at, places, fields)), None)) is not None:
        return named
    if kind.fits(at):
        return at
    for place in places:
        found = [below for below in sorted(place.glob("*/")) if kind.fits(below)]
        if len(found) > 1:
            names = ", ".join(below.name for below in found)
            raise ValueError(
                f"{place}: wanted one {kind.noun} folder below it, found {names}; name it with {kind.option}"
            )
        if found:
            return found[0]
    raise FileNotFoundError(f"{root}: no {kind.noun} folder below it or beside the model; name it with {kind.option}")


def _by_name(kind: Kind, at: Path, places: list[Path], fields: Mapping[str, Any]) -> Iterator[Path]:
    """Where the folder may lie that the config names: at that path, or downloaded under the repository's name."""
    name = fields.get(kind.name) if kind.name else None
    if isinstance(name, str) and name:
        yield Path(normpath(at / name))
        yield from (place / Path(name).name for place in places)
