"""The group of the `voxport` command: verbs of the runtime, and those the upper floors attach through entry points.

Results go to stdout, progress and logs to stderr.
"""

import signal
import sys
import threading
import traceback
from importlib.metadata import entry_points
from typing import Any

import click

from voxport.cli.errors import as_one_line, bad_usage

ENDING = [signal.SIGTERM] if sys.platform == "win32" else [signal.SIGTERM, signal.SIGHUP]


class Commands(click.Group):
    """The verbs; turns what they raise into one line, so that bad input never shows a traceback."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:
            return super().parse_args(ctx, args)  # `voxport` alone prints the help
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise bad_usage(error) from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *(e.name for e in entry_points(group="voxport.commands"))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        for entry in entry_points(group="voxport.commands", name=cmd_name):
            return entry.load()  # type: ignore[no-any-return]
        return None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):
            raise  # how click ends a command
        except BrokenPipeError:
            raise  # whoever read our output has gone: no error of ours
        except Exception as error:
            if ctx.params["debug"] and not isinstance(error, click.UsageError):
                traceback.print_exception(error)
            raise as_one_line(error, ctx.invoked_subcommand or "") from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="voxport")
@click.option("--debug", is_flag=True, envvar="VOXPORT_DEBUG", help="Show where an error happened. [VOXPORT_DEBUG=1]")
def main(debug: bool) -> None:  # noqa: ARG001 - Commands.invoke reads it from the context
    """Speech models from PyTorch to small ONNX bundles: export, run without torch, prove parity.

    \b
    voxport export llvc CHECKPOINT -o BUNDLE --recipe int8    make a bundle (needs the export extra)
    voxport convert BUNDLE in.wav out.wav                     run it: a voice into another
    voxport say BUNDLE "Hello there." -o out.wav              run it: text to speech
    voxport verify BUNDLE                                     prove it on this machine
    voxport bench BUNDLE                                      how fast, how close to the machine's limit

    Results go to stdout, progress and warnings to stderr. Exit codes: 0 fine, 1 a check failed or voxport itself has an
    error, 2 bad usage or bad input.
    """
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, _exit)


def _exit(number: int, _: object) -> None:
    """Ends the process as Ctrl-C does, so that temporary files are removed."""
    sys.exit(128 + number)
