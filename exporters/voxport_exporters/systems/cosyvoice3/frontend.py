"""The front end's two nets, which the release holds as ONNX files (docs/systems/cosyvoice3.md 2.2).

speech_tokenizer   log-mel of a recording at 16 kHz -> speech tokens
campplus           its fbank -> the vector of the speaker's voice
"""

from functools import partial
from pathlib import Path

import numpy as np

from voxport.graphs.stage import Stage, TensorSpec
from voxport.recipe import Rule
from voxport.systems.cosyvoice3.frontend import FBANK_BANDS, SPEAKER, TOKENIZER, WHISPER_BANDS
from voxport_exporters.checkpoints import folder
from voxport_exporters.graphs.graphfile import GraphFile
from voxport_exporters.systems.cosyvoice3.config import Config

TOKENIZER_FILE, SPEAKER_FILE = "speech_tokenizer_v3.onnx", "campplus.onnx"
FRAMES = 300  # of 10 ms: a prompt of 3 seconds
Array = np.ndarray

# As released unless asked: what a recipe may add for a smaller tokenizer (968 MB; 485 and 262 MB). Ids are decided by
# thresholds, so some change: of 75, of random weights, 1 with fp16 and 5 with int8.
FRONTEND_RULES: dict[str, list[Rule]] = {
    "fp32": [],
    "fp16": [Rule("fp16", stage=stage) for stage in (TOKENIZER, SPEAKER)],
    "int8": [Rule("int8r", stage=TOKENIZER), Rule("fp16", stage=SPEAKER)],
}


def graphs(root: Path, config: Config) -> tuple[GraphFile, ...]:
    """Both graphs. FileNotFoundError names the one that is missing; that they are what they should be is seen when
    they are packed."""
    feats = TensorSpec("feats", "float32", (1, WHISPER_BANDS, "time"))
    tokenizer = Stage(
        TOKENIZER,
        (feats, TensorSpec("feats_length", "int32", (1,))),
        (TensorSpec("indices", "int64", (1, "tokens")),),
    )
    bands, voice = (1, "time", FBANK_BANDS), (1, config.flow.spk_embed_dim)
    speaker = Stage(SPEAKER, (TensorSpec("input", "float32", bands),), (TensorSpec("output", "float32", voice),))
    tokens = FRAMES * config.token_frame_rate // 100
    return (
        GraphFile(
            speaker, folder.weights(root, SPEAKER_FILE), FRAMES // 2, partial(_noise, "input", (1, FRAMES, FBANK_BANDS))
        ),
        GraphFile(tokenizer, folder.weights(root, TOKENIZER_FILE), tokens, _recording),
    )


def _recording() -> dict[str, Array]:
    """Three made-up seconds for the tokenizer."""
    return _noise("feats", (1, WHISPER_BANDS, FRAMES)) | {"feats_length": np.array([FRAMES], np.int32)}


def _noise(name: str, shape: tuple[int, ...]) -> dict[str, Array]:
    """Values that wander slowly from frame to frame and band to band, of about the size that log-mels have."""
    steps = np.random.default_rng(0).standard_normal(shape)
    smooth = np.cumsum(np.cumsum(steps, axis=1), axis=2)
    return {name: ((smooth - smooth.mean()) / smooth.std()).astype(np.float32)}
