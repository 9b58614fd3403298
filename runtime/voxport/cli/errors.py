"""How the command fails: one line on stderr; exit code 2 for bad input, 1 for a failed check or an error of ours."""

from collections.abc import Iterator
from contextlib import contextmanager

import click
from safetensors import SafetensorError

# What bad input raises. Any other exception is an error in voxport and is reported as one.
BAD_INPUT = (ValueError, OSError, MemoryError, SafetensorError)


class BadInput(click.ClickException):
    """One line on stderr, exit code 2. (A plain ClickException, a check that failed, exits with 1.)"""

    exit_code = 2


def one_line(error: BaseException) -> str:
    """The message of an exception as one line, which starts with the file where the exception knows one."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        text = f"out of memory. {text}"
    return " ".join(text.split()) or type(error).__name__


def bad_usage(error: click.UsageError, verb: str = "") -> BadInput:
    """Click's four lines as one that names the help: that of `voxport VERB` where click does not know whose."""
    command = error.ctx.command_path if error.ctx else f"voxport {verb}".rstrip()
    return BadInput(f"{' '.join(error.format_message().split()).rstrip('.')}; see `{command} --help`")


def as_one_line(error: Exception, verb: str) -> click.ClickException:
    """What the command says of an exception that `voxport VERB` raised."""
    if isinstance(error, click.UsageError):
        return bad_usage(error, verb)
    if isinstance(error, click.ClickException):
        return error
    if isinstance(error, BAD_INPUT) or _is_sentence(error):
        return BadInput(one_line(error))
    if isinstance(error, ModuleNotFoundError) and not _is_ours(error):
        return BadInput(f"voxport {verb} needs {error.name}, which is not installed: pip install voxport")
    return click.ClickException(
        f"voxport {verb}: this is an error in voxport ({type(error).__name__}: {one_line(error)}); "
        f"`voxport --debug {verb} ...` shows where"
    )


@contextmanager
def needs_extra(verb: str, extra: str) -> Iterator[None]:
    """Turns a missing module into the line that says which extra of voxport brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if _is_ours(error):
            raise
        raise BadInput(f"voxport {verb} needs {error.name}: pip install 'voxport[{extra}]'") from error


def _is_ours(error: ModuleNotFoundError) -> bool:
    return (error.name or "").startswith("voxport")


def _is_sentence(error: Exception) -> bool:
    """Whether this is a KeyError whose key is a message."""
    return isinstance(error, KeyError) and len(error.args) == 1 and " " in str(error.args[0])
