"""`python -m voxport.cli` is the `voxport` command."""

from voxport.cli import main

if __name__ == "__main__":
    main(prog_name="voxport")
