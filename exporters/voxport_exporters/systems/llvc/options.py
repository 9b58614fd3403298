"""LLVC on the command line."""

import click

from voxport_exporters.options import FOLDER, VARIANT, SystemOptions

OPTIONS = SystemOptions(
    summary="LLVC: voice conversion as it is spoken",
    checkpoint="CHECKPOINT is a folder in the release's layout: models/checkpoints/NAME/G_<step>.pth and "
    "experiments/NAME/config.json.",
    options=(
        VARIANT,
        click.Option(["--config"], type=FOLDER, help="A config.json elsewhere, with --weights."),
        click.Option(["--weights"], type=FOLDER, help="A G_*.pth elsewhere, with --config."),
    ),
    recipes={
        "fp32": "nothing is quantized",
        "int8": "8-bit weights and activations; the first and the last convolution stay fp32",
    },
    examples=(
        "llvc checkpoints/llvc",
        "llvc . --config my/config.json --weights my/G_1000.pth",
    ),
)
