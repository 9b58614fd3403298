"""A verb with one sub-command per system: `voxport VERB SYSTEM CHECKPOINT ...`."""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

import click

from voxport_exporters.options import FOLDER, SystemOptions
from voxport_exporters.systems import OPTIONS


class SystemGroup(click.Group):
    """The group of such a verb; its usage errors list the systems."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:
            ctx.fail(f"Missing argument 'SYSTEM': one of {', '.join(self.commands)}")
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            ctx.fail(f"{error.option_name}: options come after the system and its checkpoint")

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Systems"):
            formatter.write_dl([(name, command.short_help or "") for name, command in self.commands.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands:
            ctx.fail(f"{args[0]!r} is not one of {', '.join(self.commands)}")
        return super().resolve_command(ctx, args)


def add_systems(
    group: click.Group,
    shared: Callable[[SystemOptions], Iterable[click.Option]],
    text: Callable[[SystemOptions], str],
    run: Callable[..., None],
) -> None:
    """Adds every system to `group`, to call `run(system, checkpoint=..., **options)`.

    `shared`: the verb's own options, which may depend on the system; `text`: the help of a system's sub-command.
    """
    for name, system in OPTIONS.items():
        parameters = [click.Argument(["checkpoint"], type=FOLDER), *shared(system), *system.options]
        group.add_command(
            click.Command(
                name, callback=partial(run, name), params=parameters, help=text(system), short_help=system.summary
            )
        )


def examples(lines: Sequence[str]) -> str:
    """A paragraph of examples for a help text."""
    return "\n".join(["\b", "Examples:" if len(lines) > 1 else "Example:", *(f"  {line}" for line in lines)])


def table(title: str, rows: Collection[tuple[str, str]]) -> str:
    """A paragraph with one line per name for a help text."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(["\b", title, *(f"  {name:{width}}  {words}" for name, words in rows)])
