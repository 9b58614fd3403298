"""A rehearsal: what a bundle computes from fixed inputs. Export records it, `voxport verify` repeats it."""

from dataclasses import dataclass

from voxport.graphs.session import Array


@dataclass(frozen=True)
class Output:
    """One output. `stages`: every graph it passed through, for its bound follows from how those round."""

    array: Array
    stages: tuple[str, ...]


Rehearsal = dict[str, Output]  # by name
