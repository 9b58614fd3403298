"""Qwen3-TTS on the command line."""

import click

from voxport_exporters.options import FOLDER, VARIANT, SystemOptions

OPTIONS = SystemOptions(
    summary="Qwen3-TTS 12 Hz: speech from text (Base, CustomVoice, VoiceDesign)",
    checkpoint="CHECKPOINT is a model's folder in the release's layout, or a folder that holds several.",
    options=(
        VARIANT,
        click.Option(["--codec"], type=FOLDER, help="The 12 Hz tokenizer's folder. [CHECKPOINT/speech_tokenizer]"),
    ),
    recipes={
        "mixed": "4-bit talker, 8-bit code predictor; in blocks of 128",
        "int4": "4-bit talker and code predictor in blocks of 256; the heads keep 8 bits",
        "hqq4": "the same in blocks of 64, zero points and scales optimised by hqq",
        "int8": "8-bit talker and code predictor in blocks of 128",
        "fp32": "nothing is quantized",
    },
    codec_recipes={
        "fp32": "nothing is quantized",
        "int8": "8-bit weights and activations of the decoder",
    },
    examples=("qwen3tts checkpoints/0.6b-base", "qwen3tts checkpoints --variant 0.6b-customvoice"),
    default_recipe="mixed",
)
