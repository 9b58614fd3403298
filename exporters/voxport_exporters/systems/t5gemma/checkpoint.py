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
from voxport_exporters.checkpoints.lora import FILES as ADAPTER_FILES
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.systems.t5gemma import folders
from voxport_exporters.systems.t5gemma.adapter import merged_folder, merged_lora, merged_run
from voxport_exporters.systems.t5gemma.config import MODEL_TYPE, Config, config_of
from voxport_exporters.systems.t5gemma.trainer import BUNDLE, Run, open_run

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

    `weights`: a bundle.pth of upstream's trainer, in place of the folder's weights; the folder then need hold no more
    than the config of a release, or of the text model that the run began with.
    `lora`: an adapter to merge, a bundle.pth of a LoRA run or a folder that PEFT saved.
    Raises FileNotFoundError or ValueError that say in one line what is missing or wrong.
    """
    run = open_run(_bundle(weights)) if weights else None
    adapter = open_run(_bundle(lora)) if lora and not (lora / ADAPTER_FILES[0]).is_file() else None
    runs = [each for each in (run, adapter) if each]
    model = folders.model(root, *(each.args.get("t5gemma_model_name") for each in runs))
    config = model / "config.json"
    fields = _fields(config, runs)
    source = None if run else _source(model, adapter)
    files = [config, *(folder.with_shards(source) if source else [])]
    files += [each.path for each in runs]
    tensors = merged_run(run) if run else Weights.open(source) if source else None
    if adapter:
        tensors = merged_lora(adapter, tensors)
    elif lora and tensors:
        tensors = merged_folder(tensors, lora, fields.get("t5gemma_model_name"))
        files += [lora / name for name in ADAPTER_FILES]
    assert tensors is not None
    for pattern, why in UNUSED.items():
        tensors.drop(pattern, why)
    where = f"{runs[-1].path}: args" if runs else str(config)
    return Checkpoint(root, model, fields, config_of(fields, where), tensors, tuple(files))


def _bundle(path: Path) -> Path:
    """The checkpoint of a run, which may be given as the folder of the run."""
    if path.is_dir() and not (path / BUNDLE).is_file():
        raise FileNotFoundError(f"{path}: no {BUNDLE} of upstream's trainer, and no {ADAPTER_FILES[0]} of PEFT")
    return path / BUNDLE if path.is_dir() else path


def _fields(path: Path, runs: list[Run]) -> dict[str, Any]:
    """config.json as a release has it. Of `runs` the later one counts; they say more than the text model's config."""
    fields = jsonfile.read(path)
    if "quantization_config" in fields:
        raise ValueError(
            f"{path}: its weights are quantized for bitsandbytes; export the bf16 release, with --recipe encoder-int4 "
            "for the same choice of what is quantized"
        )
    if fields.get("model_type") == folders.BACKBONE_TYPE:
        if not runs:
            raise ValueError(f"{path}: the text model that a run begins with; name the run's bundle.pth with --weights")
        fields = {"model_type": MODEL_TYPE, "t5_config_dict": fields}
    for run in runs:
        fields = run.fields(fields)
    return fields


def _source(model: Path, adapter: Run | None) -> Path | None:
    """The folder's weights. A LoRA run's file brings its own, where the folder is that of a config alone."""
    try:
        return folder.weights(model)
    except FileNotFoundError:
        if adapter is None:
            raise
        return None
