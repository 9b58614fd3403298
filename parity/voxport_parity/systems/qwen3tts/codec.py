"""Qwen3-TTS: the recording through the encoders, and upstream's codes through the decoder, each in one call."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from voxport.audio import files
from voxport.audio.resample import resample_reference
from voxport.bundle import Bundle
from voxport.codecs import codec12hz
from voxport.graphs.session import Array
from voxport.systems.qwen3tts.section import Section
from voxport.systems.qwen3tts.xvector import speaker_mel
from voxport_parity.reference import taps_of
from voxport_parity.trace import Golden, Trace

RECORDING = "ref.wav"  # in the checkpoint's folder, where no run names another
CHUNKED = re.compile(r"dec\.chunked_(\d+)_(\d+)_wav")
PROBE, WHOLE, SOUND = "dec.probe_codes", "dec.full_wav", "ref.wav_24k"


def reference(bundle: Bundle, golden: Golden) -> Trace:
    """The recording: resampled, and what the encoders make of it."""
    recording, target = _recording(golden), bundle.manifest.sample_rate
    outputs = Trace()
    if recording is not None:
        source, rate = files.read(recording)
        outputs |= {"ref.wav_src": source, SOUND: resample_reference(source, rate, target)}
    elif SOUND in golden.tensors:
        source, rate = golden.tensors[SOUND], target
    else:
        return outputs
    samples = resample_reference(source, rate, target)
    encoder = bundle.section(Section).speaker_encoder
    if encoder is not None:
        mel = speaker_mel(resample_reference(source, rate, encoder.rate), encoder.rate)
        session = bundle.session("speaker_encode")
        outputs["spk.mel"] = mel.T[None]
        outputs["spk.embedding"] = session(session.start(), mel=mel)[0]["embedding"]
        outputs |= taps_of(session)
    if "codec_encode" in bundle.manifest.stages:
        outputs |= _encoded(bundle, samples, golden)
    return outputs


def _recording(golden: Golden) -> Path | None:
    """The file of the recording: the one that a run's settings name, or the one beside the golden."""
    if golden.folder is None:
        return None
    runs = (run.get("settings", {}) for run in golden.notes["runs"].values() if isinstance(run, Mapping))
    file = golden.folder / next((run["ref_audio"] for run in runs if "ref_audio" in run), RECORDING)
    return file if file.is_file() else None


def _encoded(bundle: Bundle, samples: Array, golden: Golden) -> Trace:
    analyse, encode = bundle.session("codec_analyse"), bundle.session("codec_encode")
    frame, steps = (int(t[0].shape[1]) for t in (analyse.stage.inputs, analyse.stage.outputs))
    sound = np.pad(samples, (0, -len(samples) % frame)).reshape(-1, frame)
    features = analyse(analyse.start(), audio=sound, samples=np.array([len(samples)]))[0]["features"]
    real = np.array([-(-len(samples) * steps // frame)])
    outputs = {"enc.codes": encode(encode.start(), features=features, steps=real)[0]["codes"]}
    taps = taps_of(analyse) | taps_of(encode)
    return outputs | {n: v[..., : golden.tensors[n].shape[-1]] for n, v in taps.items() if n in golden.tensors}


def decoded(bundle: Bundle, golden: Golden) -> Trace:
    """The decoder alone: the golden's probe, layer by layer; a whole run's codes at once and in upstream's chunks."""
    tensors = golden.tensors
    section, session = bundle.section(Section), bundle.session("codec_decode")
    decoder = codec12hz.Codec(session, section.codes)
    outputs = Trace()
    if PROBE in tensors:
        outputs["dec.probe_wav"] = decoder.decode(tensors[PROBE][0].T)[None, None]
        outputs |= taps_of(session)
    chunked = {name: match for name in tensors if (match := CHUNKED.fullmatch(name))}
    waves = [name for name in (WHOLE, *chunked) if name in tensors]
    codes = next(_main_codes(golden, tensors[waves[0]].size // section.frame), None) if waves else None
    if codes is not None:
        outputs[WHOLE] = decoder.decode(codes)[None, None]
        for name, match in chunked.items():
            outputs[name] = decoder.chunked(codes, int(match[1]), int(match[2]))[None, None]
    return outputs


def _main_codes(golden: Golden, frames: int) -> Iterator[Array]:
    """The codes [frames, books] of runs that are as long as the decoded one, and begin as the probe does."""
    for run in golden.notes["runs"]:
        codes = golden.tensors.get(f"{run}.codes")
        if codes is not None and len(codes) == frames:
            probe = golden.tensors[PROBE][0].T if PROBE in golden.tensors else codes[:0]
            if np.array_equal(codes[: len(probe)], probe):
                yield codes
