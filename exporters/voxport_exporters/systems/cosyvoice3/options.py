"""Fun-CosyVoice3 on the command line."""

import click

from voxport_exporters.options import VARIANT, SystemOptions

OPTIONS = SystemOptions(
    summary="Fun-CosyVoice3: speech in a cloned voice, voice conversion",
    checkpoint="CHECKPOINT is a folder in the release's layout, or one that holds several.",
    options=(
        VARIANT,
        click.Option(
            ["--llm"],
            type=click.Choice(["base", "rl"]),
            default="base",
            show_default=True,
            help="Which language model: llm.pt, or llm.rl.pt, which was tuned by reinforcement learning.",
        ),
    ),
    recipes={
        "mixed": "4-bit language model in blocks of 128, flow in 8 bits with one activation scale per row",
        "int8": "8-bit language model in blocks of 128, the same flow",
        "hqq4": "4-bit language model in blocks of 64, zero points and scales optimised by hqq; the same flow",
        "fp32": "nothing is quantized",
    },
    codec_recipes={
        "fp32": "nothing is quantized",
        "int8": "8-bit weights and activations of the vocoder",
        "frontend-fp16": "the front end's released graphs in fp16: half of 970 MB, as slow",
        "frontend-int8": "the speech tokenizer in 8 bits: 262 MB; some of its tokens are others",
    },
    examples=("cosyvoice3 checkpoints/Fun-CosyVoice3-0.5B", "cosyvoice3 checkpoints/Fun-CosyVoice3-0.5B --llm rl"),
    default_recipe="mixed",
)
