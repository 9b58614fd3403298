"""VyvoTTS on the command line."""

import click

from voxport_exporters.options import FOLDER, SystemOptions

OPTIONS = SystemOptions(
    summary="VyvoTTS: speech from text (LFM2, Qwen3 or Llama, and SNAC)",
    checkpoint="CHECKPOINT is the language model's folder, or a folder that holds it as lm/ beside the codec's.",
    options=(
        click.Option(["--variant"], help="Refuse a model of another family than this: lfm2, qwen2, qwen3 or llama."),
        click.Option(["--codec"], type=FOLDER, help="The codec's folder. [found in CHECKPOINT]"),
        click.Option(
            ["--tokens"], help="lfm2, qwen3, llama3 or a yaml of upstream's. [a yaml in CHECKPOINT, or by model]"
        ),
        click.Option(["--tokenizer"], type=FOLDER, help="The folder of tokenizer.json. [CHECKPOINT]"),
        click.Option(["--lora"], type=FOLDER, help="A LoRA adapter's folder (PEFT), merged into the weights."),
    ),
    recipes={
        "fp32": "nothing is quantized",
        "int8": "8-bit weights in blocks of 128, 8-bit attention caches and token table",
        "int4": "4-bit weights in blocks of 128, 8-bit attention caches and token table",
        "int4-32": "the same in blocks of 32: nearer to fp32, larger",
        "int4-256": "the same in blocks of 256: further from fp32, faster",
        "hqq4": "4-bit weights in blocks of 64, zero points and scales optimised by hqq",
    },
    codec_recipes={
        "fp32": "nothing is quantized",
        "int8": "8-bit weights and activations of the decoder",
    },
    examples=(
        "vyvo checkpoints/vyvo",
        "vyvo checkpoints/lm --codec checkpoints/snac_24khz --tokens lfm2",
        "vyvo checkpoints/vyvo --lora my/adapter",
    ),
)
