"""Runs the `voxport` command in this process, as the tests of the command do."""

from pathlib import Path

from click.testing import CliRunner, Result

from voxport.cli import main


def run(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], input=stdin, prog_name="voxport")


def refusal(result: Result, exit_code: int = 2) -> str:
    """The one line on stderr with which the command ended; anything else, a traceback for instance, fails here."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == exit_code, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


def done(result: Result) -> str:
    """What the command wrote to stdout, having ended well."""
    assert result.exit_code == 0, result.stderr
    return result.stdout
