"""Opens a T5Gemma-TTS checkpoint in any of the forms in which upstream has it (docs/systems/t5gemma.md 1).

checkpoint = open_checkpoint(root)                       # a release folder of the hub
checkpoint = open_checkpoint(root, weights=run / "bundle.pth")
for part in parts(checkpoint.weights, checkpoint.config): ...

All forms give the same keys: those of a release, without the modules that speech does not use.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxport_exporters.checkpoints import folder, jsonfile
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.systems.t5gemma import folders
from voxport_exporters.systems.t5gemma.config import Config, config_of

UNUSED = {  # what a file may hold beside the model
    "encoder_module.*": "the encoder again, under the name of an attribute of upstream's class",
    "decoder_module.*": "the decoder again",
    "backbone.lm_head.*": "makes text, not speech; upstream prunes it",
    "backbone.model.decoder.embed_tokens.*": "reads text, not speech; upstream prunes it",
}


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint. `files` are those that the model itself was read from: config, weights, adapter."""

    root: Path
    model: Path  # the folder of config.json
    fields: dict[str, Any]  # what config.json of a release says, or would say of a training run
    config: Config  # the same, checked
    weights: Weights
    files: tuple[Path, ...]

    def tokenizer(self, path: Path | None = None) -> Path:
        """The folder of tokenizer.json; `path`: what --tokenizer says."""
        return folders.beside(folders.TOKENIZER, self.root, self.model, self.fields, path)

    def codec(self, path: Path | None = None) -> Path:
        """The folder of XCodec2, either variant; `path`: what --codec says."""
        return folders.beside(folders.CODEC, self.root, self.model, self.fields, path)

    def semantic(self, path: Path | None = None) -> Path:
        """The folder of w2v-BERT's config; `path`: what --semantic says."""
        return folders.beside(folders.SEMANTIC, self.root, self.model, self.fields, path)


def open_checkpoint(root: Path, weights: Path | None = None, lora: Path | None = None) -> Checkpoint:
    """The checkpoint in `root`: the model's folder, or a folder that holds it beside the others.

    `weights`: a checkpoint of upstream's trainer; `lora`: an adapter, merged.
    Raises FileNotFoundError or ValueError that say in one line what is missing or wrong.
    """
    if weights or lora:
        raise ValueError(f"{weights or lora}: checkpoints of a training run are not read yet")
    model = folders.model(root)
    config = model / "config.json"
    fields = jsonfile.read(config)
    _refuse_quantized(config, fields)
    source = folder.weights(model)
    tensors = Weights.open(source)
    for pattern, why in UNUSED.items():
        tensors.drop(pattern, why)
    generation = model / "generation_config.json"
    files = (config, *([generation] if generation.is_file() else []), *folder.with_shards(source))
    return Checkpoint(root, model, fields, config_of(fields, str(config)), tensors, files)


def _refuse_quantized(path: Path, fields: dict[str, Any]) -> None:
    if "quantization_config" in fields:
        raise ValueError(
            f"{path}: its weights are quantized for bitsandbytes; export the bf16 release, with --recipe encoder-int4 "
            "for the same choice of what is quantized"
        )
