"""A short made-up request of Fun-CosyVoice3's flow: export hears what quantization did to its mel."""

from pathlib import Path

import numpy as np

from voxport.bundle import Bundle
from voxport.graphs.ort import OrtSession
from voxport.graphs.session import Array, Session
from voxport.systems.cosyvoice3.flow import Flow
from voxport.systems.cosyvoice3.flowstream import Reference
from voxport.systems.cosyvoice3.section import FlowSection
from voxport_exporters.graphs.part import Trial
from voxport_exporters.systems.cosyvoice3.config import Config

MEAN, DEVIATION = -4.8, 2.6  # of the mels of real speech (docs/systems/cosyvoice3.md 2.2)


class _Folder(Bundle):
    """The graphs of a bundle that is being written, and one of its sessions in another version."""

    def __init__(self, folder: Path, session: Session) -> None:
        self.path, self._own = folder, session

    def session(self, stage: str, threads: int = 1) -> Session:
        return self._own if stage == self._own.stage.name else OrtSession(self.path / f"{stage}.onnx", threads)


def trial(config: Config, section: FlowSection) -> Trial:
    """One second of speech after a reference of one second, in as few Euler steps as the bundle has tables for."""
    flow, seconds, random = config.flow, config.token_frame_rate, np.random.default_rng(0)
    reference = Reference(
        random.integers(flow.vocab_size, size=seconds),
        random.normal(MEAN, DEVIATION, (seconds * section.ratio, flow.dit.mel_dim)).astype(np.float32),
        random.standard_normal(flow.spk_embed_dim, np.float32),
    )
    tokens = random.integers(flow.vocab_size, size=seconds)

    def mel(session: Session, folder: Path) -> Array:
        net = Flow(_Folder(folder, session), 1, section, config.token_frame_rate)
        steps = min(section.steps)
        if session.stage.name == "flow":
            return net.mel(reference, tokens, steps)
        stream = net.stream(reference, steps)
        return np.concatenate((stream.feed(tokens), stream.flush()))

    return mel
