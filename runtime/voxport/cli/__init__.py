"""The `voxport` command: `main` with the runtime's verbs attached."""

from voxport.cli import say as say
from voxport.cli.main import main

__all__ = ["main"]
