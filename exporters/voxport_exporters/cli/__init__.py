"""The exporters' verbs of the `voxport` command. Only click is imported until a verb is called."""

from voxport_exporters.cli.export import export
from voxport_exporters.cli.hub import fetch, lock

__all__ = ["export", "fetch", "lock"]
