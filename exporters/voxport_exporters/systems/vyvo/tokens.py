"""Token tables of VyvoTTS: built in, and read from upstream's configs/inference/*.yaml (docs/systems/vyvo.md 1.1).

The ids follow from the length of the base tokenizer: fine-tuning appended speech tokens behind it. The names are
upstream's.
"""

from dataclasses import dataclass
from pathlib import Path

CUSTOM = {  # how far behind the base tokenizer each id stands
    "START_OF_SPEECH": 1,
    "END_OF_SPEECH": 2,
    "START_OF_HUMAN": 3,
    "END_OF_HUMAN": 4,
    "START_OF_AI": 5,
    "END_OF_AI": 6,
    "PAD_TOKEN": 7,
    "AUDIO_TOKENS_START": 10,
}
TEXT = ("TOKENIZER_LENGTH", "START_OF_TEXT", "END_OF_TEXT")
BASES = {"lfm2": (64400, 1, 7), "qwen3": (151669, 151643, 151645), "llama3": (128256, 128000, 128009)}
TABLES = {
    name: dict(zip(TEXT, base, strict=True)) | {key: base[0] + offset for key, offset in CUSTOM.items()}
    for name, base in BASES.items()
}
FAMILIES = {"lfm2": "lfm2", "qwen3": "qwen3", "llama": "llama3"}  # model_type -> table
CODEC = ("CODEC_TYPE", "CODEC_MODEL", "NUM_CODEBOOKS")  # what else a yaml of upstream's may hold

DIGITS = 10  # of an id

Table = dict[str, int]


@dataclass(frozen=True)
class CodeIds:
    """The ids of a codec's codes: place p of a frame has the `size` ids from `start` + p * `size` on."""

    start: int
    places: int  # codes per frame
    size: int  # codes per place

    @property
    def stop(self) -> int:
        """The id after the last one."""
        return self.start + self.places * self.size

    def of(self, place: int) -> tuple[int, int]:
        """[start, stop) of the ids at one place."""
        return self.start + place * self.size, self.start + (place + 1) * self.size


def read(path: Path) -> Table:
    """Upstream's yaml: `NAME: value` lines. Raises ValueError in one line for anything that is not such a table."""
    values = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        line = line.split("#")[0].strip()
        if not line or line == "---":
            continue
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not colon or name in values:
            raise ValueError(f"{path}: line {number} is not a new `NAME: value`; wanted a token table of upstream's")
        values[name] = value.strip("'\"")
    kind = values.get("CODEC_TYPE", "snac")
    if kind.lower() != "snac":
        raise ValueError(f"{path}: CODEC_TYPE {kind}: this language model speaks another codec; only snac is supported")
    names = [*TEXT, *CUSTOM]
    missing = [name for name in names if name not in values]
    unknown = [name for name in values if name not in names and name not in CODEC]
    if missing or unknown:
        what = f"lacks {', '.join(missing)}" if missing else f"holds unknown {', '.join(unknown)}"
        raise ValueError(f"{path}: {what}; wanted a token table of upstream's (configs/inference/*.yaml)")
    bad = [name for name in names if not values[name].isdecimal() or len(values[name]) > DIGITS]
    if bad:
        raise ValueError(f"{path}: {bad[0]} {values[bad[0]][:40]!r} is not an id")
    return {name: int(values[name]) for name in names}


def is_table(path: Path) -> bool:
    """Whether a yaml in a checkpoint's folder looks like a token table at all."""
    return "AUDIO_TOKENS_START" in _text(path)


def find(folders: list[Path], named: str | None, family: str) -> tuple[Table, Path | None]:
    """(table, the yaml it comes from): the named one (built in, or a file), else a yaml in the folders, else built in.

    Raises ValueError that says what to do when there is none, or more than one.
    """
    if named is not None:
        return (TABLES[named], None) if named in TABLES else (read(Path(named)), Path(named))
    found = sorted({p for folder in folders for p in folder.glob("*.y*ml") if is_table(p)})
    if len(found) > 1:
        names = ", ".join(p.name for p in found)
        raise ValueError(f"{folders[0]}: several token tables ({names}); choose one with --tokens")
    if found:
        return read(found[0]), found[0]
    if family not in FAMILIES:
        raise ValueError(
            f"{folders[0]}: no token table for {family}; give one of {', '.join(TABLES)} or a yaml: --tokens"
        )
    return TABLES[FAMILIES[family]], None


def check(table: Table, vocab: int, codes: CodeIds, where: str) -> None:
    """Raises ValueError unless every id lies in the vocabulary and those of the codec's codes are free."""
    first, last = codes.start, codes.stop - 1
    advice = f"the token table is not that of this checkpoint; give its own with --tokens ({', '.join(TABLES)}, a yaml)"
    what = f"{codes.places} codes of {codes.size} per frame"
    if last >= vocab:
        problem = f"audio ids {first}..{last} ({what}) do not fit the vocabulary of {vocab}"
        raise ValueError(f"{where}: {problem}: {advice}; or give the codec's own folder with --codec")
    if vocab - codes.stop >= codes.size:
        problem = f"the codec makes {what}, and the vocabulary of {vocab} has room for more behind {first}..{last}"
        raise ValueError(f"{where}: {problem}: they do not belong together; give the codec's own folder with --codec")
    ids = {name: table[name] for name in (*TEXT[1:], *CUSTOM) if name != "AUDIO_TOKENS_START"}
    for name, value in ids.items():
        if value >= vocab or first <= value <= last or list(ids.values()).count(value) > 1:
            raise ValueError(f"{where}: {name} {value} is taken or outside of the vocabulary of {vocab}: {advice}")


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise FileNotFoundError(
            f"{path}: {error.strerror}; --tokens takes {', '.join(TABLES)} or a yaml of upstream's"
        ) from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file; wanted a token table of upstream's") from None
