"""voxport runs exported speech models with numpy and onnxruntime.

voice = voxport.load("bundle")      # the class of the bundle's system, here a Converter
stream = voice.stream()
out = stream.feed(samples)          # float32 in [-1, 1] at voice.sample_rate
out = stream.flush()
"""

import os

from voxport.bundle import Bundle, Check
from voxport.systems import Converter, Speaker, open_model

__version__ = "0.1.0"
__all__ = ["Converter", "Speaker", "load"]


def load(path: str | os.PathLike[str], *, threads: int | None = None, check: Check = True) -> Speaker | Converter:
    """Opens a bundle as the Speaker or Converter of its system.

    `threads`: cores one step may use (default: what the system runs best with); `check`: see `Bundle`.
    """
    return open_model(Bundle(path, check=check), threads)
