"""T5Gemma-TTS: the golden's recording through XCodec2's encoder, layer by layer (docs/systems/t5gemma.md 6.3)."""

from pathlib import Path

import numpy as np

from voxport import bounds, draws
from voxport.audio import files
from voxport.bounds import Bound
from voxport.bundle import Bundle
from voxport.codecs.xcodec2_encoder import ACOUSTIC, QUANTIZE, SEMANTIC, STAGES, Encoder, features
from voxport.graphs.session import Array
from voxport.systems.t5gemma.section import Section
from voxport_parity.reference import taps_of
from voxport_parity.trace import Golden, Trace

PREFIX = "codec.enc."
SOUND, FEATURES, CODES = (f"{PREFIX}{name}" for name in ("wav_padded", "input_features", "codes"))
RECORDING = "reference.wav"  # in the golden's folder, where its settings name no other
FRAMES = 12  # of a recording that is made up

BOUNDS = {
    "wav_padded": bounds.RESAMPLED,
    "input_features": bounds.SEAMLESS_FEATURES,
    "bounded": bounds.XCODEC2_STEPS,
    "codes": bounds.EQUAL,
}
GRAPHS = {"semantic": SEMANTIC, "acoustic": ACOUSTIC, "fc_prior": QUANTIZE, "project_in": QUANTIZE}
GRAPHS |= {"bounded": QUANTIZE, "codes": QUANTIZE}


def owns(name: str) -> bool:
    """Whether a golden tensor is of the codec's encoder."""
    return name.startswith(PREFIX)


def bound(name: str) -> Bound:
    """See `Feeds`."""
    return BOUNDS.get(name.removeprefix(PREFIX), bounds.XCODEC2_LAYER)


def rounded(name: str) -> Bound | None:
    """See `Feeds`. A rounding that tips over makes other codes: the products are held instead."""
    return bound(name) if stage(name) == "codec" else None


def stage(name: str) -> str:
    """See `Feeds`."""
    first = name.removeprefix(PREFIX).partition(".")[0]
    return next((graph for start, graph in GRAPHS.items() if first.startswith(start)), "codec")


def input_reason(name: str) -> str | None:
    """See `Feeds`: nothing here is an input."""
    assert owns(name)
    return None


def inputs(bundle: Bundle) -> Trace:
    """A recording, for a checkpoint nobody has goldens for."""
    count = FRAMES * bundle.section(Section).codec.hop
    return {SOUND: (draws.normals(0, "parity.recording", 0, count) * np.float32(0.1))[None, None]}


def trace(bundle: Bundle, golden: Golden) -> Trace:
    """See `Feeds`."""
    if not {*STAGES} <= bundle.manifest.stages.keys():
        return Trace()
    encoder = Encoder(bundle, 1, bundle.section(Section).codec)
    outputs, audio = Trace(), None
    if (file := recording(golden)) is not None:
        audio = encoder.frames(*files.read(file))
        outputs[SOUND] = audio.reshape(1, 1, -1)
    if SOUND in golden.tensors:  # what comes after is compared for upstream's own samples
        audio = golden.tensors[SOUND].reshape(-1, bundle.section(Section).codec.hop)
        outputs.setdefault(SOUND, golden.tensors[SOUND])
    return outputs if audio is None else outputs | _encoded(bundle, encoder, audio)


def recording(golden: Golden) -> Path | None:
    """The file of the recording that upstream made codes of."""
    settings = golden.notes.get("settings", {})
    name = settings.get("ref_audio") if isinstance(settings, dict) else None
    file = None if golden.folder is None else golden.folder / str(name or RECORDING)
    return file if file is not None and file.is_file() else None


def _encoded(bundle: Bundle, encoder: Encoder, audio: Array) -> Trace:
    semantic, acoustic = encoder.semantic(audio), encoder.acoustic(audio)
    width = int(bundle.once(SEMANTIC).stage.inputs[0].shape[1])
    outputs: Trace = {
        FEATURES: features(audio, width)[None],
        f"{PREFIX}semantic_encoder_out": semantic.T[None],
        f"{PREFIX}acoustic_out": acoustic[None],
        CODES: encoder.quantize(semantic, acoustic)[None, :, None],
    }
    for name in STAGES:
        outputs |= taps_of(bundle.once(name))
    return {name: array for name, array in outputs.items() if owns(name)}
