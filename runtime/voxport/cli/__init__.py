"""The `voxport` command: `main` with the runtime's verbs attached."""

from voxport.cli import bundle, convert, say
from voxport.cli.main import main

__all__ = ["main"]

for verb in (
    convert.convert,
    say.say,
    say.enroll,
    say.tokenize,
    say.detokenize,
    bundle.info,
    bundle.verify,
    bundle.bench,
):
    main.add_command(verb)
