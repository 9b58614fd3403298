"""The JSON files of a checkpoint."""

import json
from pathlib import Path
from typing import Any


def read(path: Path) -> dict[str, Any]:
    """The object in a file. FileNotFoundError or ValueError name the file, in one line."""
    try:
        held = json.loads(path.read_text())
    except OSError as error:
        raise FileNotFoundError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(held, dict):
        raise ValueError(f"{path}: wanted a JSON object")
    return held
