"""`python -m voxport.cli` is the `voxport` command."""

from voxport.cli import main

main()
