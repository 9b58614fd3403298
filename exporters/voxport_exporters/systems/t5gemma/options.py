"""T5Gemma-TTS on the command line."""

import click

from voxport_exporters.options import FOLDER, SystemOptions

OPTIONS = SystemOptions(
    summary="T5Gemma-TTS: speech in any voice or a cloned one (and XCodec2)",
    checkpoint="CHECKPOINT is the model's folder, or one that holds it beside those of text_tokenizer, xcodec2 and "
    "w2v-bert-2.0.",
    options=(
        click.Option(
            ["--codec"], type=FOLDER, help="XCodec2's folder: the 16 kHz original or the 44.1 kHz variant. [found]"
        ),
        click.Option(["--tokenizer"], type=FOLDER, help="The folder of tokenizer.json. [found]"),
        click.Option(["--semantic"], type=FOLDER, help="The folder of w2v-BERT 2.0's config.json. [found]"),
        click.Option(["--weights"], type=FOLDER, help="A trainer's checkpoint (.pth), instead of the model's folder."),
        click.Option(["--lora"], type=FOLDER, help="A LoRA run: a trainer's .pth, or PEFT's folder; it is merged."),
        click.Option(
            ["--softcap"],
            is_flag=True,
            help="Cap attention scores as the config says. Upstream's model never does, trained or run.",
        ),
    ),
    recipes={
        "mixed": "decoder in 4 bits in blocks of 32, its head and last layers in 8; encoder, caches, tables in 8 bits",
        "int4": "decoder in 4 bits in blocks of 128: a third smaller, faster, further from fp32; the same beside it",
        "int8": "decoder in 8 bits in blocks of 128, the same beside it",
        "hqq4": "decoder in 4 bits in blocks of 64, zero points and scales optimised by hqq; the rest as mixed",
        "encoder-int4": "a 4-bit encoder and nothing else, as upstream offers",
        "fp32": "nothing is quantized",
    },
    codec_recipes={
        "fp32": "nothing is quantized",
        "int8": "8-bit weights and activations of the decoder's matrix products",
    },
    formats={"hf": "a plain bf16 Hugging Face folder, as upstream's two export scripts write it"},
    examples=(
        "t5gemma checkpoints/t5gemma",
        "t5gemma checkpoints/t5gemma --codec checkpoints/Anime-XCodec2-44.1kHz-v2",
        "t5gemma checkpoints/t5gemma --weights runs/bundle_step64000.pth --to hf merged",
    ),
    default_recipe="mixed",
)
