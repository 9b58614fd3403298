"""Fun-CosyVoice3: the golden's texts as ids, and its recording as everything that a voice is made of."""

from pathlib import Path

import numpy as np

from voxport import bounds
from voxport.audio import files, whisper
from voxport.audio.resample import resample
from voxport.bounds import Bound
from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport.speech.text import Tokenizer
from voxport.systems.cosyvoice3.frontend import SPEAKER, TOKENIZER, Listener, SpeakerEncoder, SpeechTokenizer
from voxport.systems.cosyvoice3.section import Section
from voxport.systems.cosyvoice3.voice import Voice
from voxport_parity.trace import Golden, Trace

TEXTS = {"text_ids": "tts_text", "prompt_text_ids": "prompt_text"}  # tensor -> note, special tokens and all
FLOATS = {
    "wav16k": bounds.RESAMPLED,
    "whisper_mel": bounds.WHISPER_MEL,
    "fbank": bounds.LOG_MEL,
    "speech_feat_full": bounds.LOG_MEL,
    "prompt_feat": bounds.LOG_MEL,
    "spk_embedding": bounds.XVECTOR,
}
STAGES = {
    "speech_token_full": TOKENIZER,
    "prompt_token": TOKENIZER,
    "spk_embedding": SPEAKER,
    **dict.fromkeys(TEXTS, "text"),
}


def bound(name: str) -> Bound:
    """How far a tensor `frontend.*` may be off."""
    return FLOATS.get(name.partition(".")[2], bounds.EQUAL)


def stage(name: str) -> str:
    """Which stage a tensor `frontend.*` belongs to."""
    return STAGES.get(name.partition(".")[2], "frontend")


def rounded(name: str) -> Bound | None:
    """How far a tensor of a quantized graph may be off: a tokenizer that rounds says other tokens now and then."""
    return bound(name) if stage(name) in ("frontend", "text") else None


def input_reason(_name: str) -> str | None:
    """See `Feeds`."""
    return None


def trace(bundle: Bundle, golden: Golden) -> Trace:
    """Everything that can be made of the golden's texts and its recording, in the golden's layout."""
    tokenizer = Tokenizer(bundle.path / "tokenizer.json")
    texts = {name: golden.notes.get(note) for name, note in TEXTS.items()}
    outputs = {
        name: np.array([tokenizer.encode(text)], np.int64) for name, text in texts.items() if isinstance(text, str)
    }
    path = recording(golden)
    if path is not None:
        outputs |= _spectra(bundle, *files.read(path), aligned=golden.notes.get("mode") != "vc")
    return {f"frontend.{name}": array for name, array in outputs.items()}


def recording(golden: Golden) -> Path | None:
    """The file of the recording whose voice the golden speaks with; None without one."""
    words = str(golden.notes.get("prompt_wav", "")).split()
    if golden.folder is None or not words or not (golden.folder / words[0]).is_file():
        return None
    return golden.folder / words[0]


def _spectra(bundle: Bundle, samples: Array, rate: int, aligned: bool) -> Trace:
    """`aligned`: tokens and mel are cut to one length, as in every mode but vc."""
    section = bundle.section(Section)
    tokenizer, encoder = SpeechTokenizer(bundle.session(TOKENIZER)), SpeakerEncoder(bundle.session(SPEAKER))
    sound = resample(samples, rate, whisper.RATE)
    whisper_mel, fbank = tokenizer.features(sound), encoder.features(sound)
    mel = Listener(bundle, 1, section).mel(samples, rate)
    voice = Voice("", tokenizer.tokens(whisper_mel), mel, encoder.embedding(fbank))
    tokens, frames = voice.aligned(section.flow.ratio) if aligned else (voice.tokens, mel)
    return {
        "wav16k": sound[None],
        "whisper_mel": whisper_mel,
        "fbank": fbank,
        "speech_feat_full": mel[None],
        "speech_token_full": voice.tokens[None],
        "prompt_token": tokens[None],
        "prompt_feat": frames[None],
        "spk_embedding": voice.embedding[None],
    }
