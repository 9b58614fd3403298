"""What quantization did to a language model's choices: its logits beside those of float32, teacher forced.

The float32 side is the torch net over deferred weights, one module in memory at a time; the other is the written graph.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from voxport.graphs.ort import OrtSession
from voxport.manifest import Fidelity
from voxport_exporters.checkpoints.later import reading
from voxport_exporters.graphs.part import Part
from voxport_exporters.nets.decoder import LanguageModel, state_of

Array = np.ndarray


def fidelity(parts: Mapping[str, Part], folder: Path, tokens: Array, heads: list[tuple[int, str]]) -> Fidelity:
    """Compares `<stage>.onnx` in `folder` with the nets of `parts`, both fed `tokens` int64 [time].

    `heads`: (index of a token, name of the head that reads the hidden state there).
    """
    net = parts["lm"].net
    assert isinstance(net, LanguageModel)
    config = net.config
    axes = {"batch": 1, "capacity": len(tokens)}
    state = [torch.zeros(t.sized(axes)) for t in state_of(config)]
    ids, none = torch.from_numpy(tokens)[None], torch.zeros(1, dtype=torch.int64)
    with torch.no_grad(), reading(net.decoder):
        rows = net.rows(ids)
        hidden, *_ = net.decoder(rows, none, *state)

    lm = OrtSession(folder / "lm.onnx")
    positions = {index for index, _ in heads}
    cache, hiddens = lm.start(**axes), {}
    for index, token in enumerate(tokens):
        out, cache = lm(cache, tokens=token.reshape(1, 1), past=np.array([index]))
        if index in positions:
            hiddens[index] = out["hidden"]

    exact, quantized = [], []
    for name in sorted({name for _, name in heads}):
        at = [index for index, head in heads if head == name]
        with torch.no_grad(), reading(parts[name].net):
            exact += list(parts[name].net(hidden[0, at])[0].numpy())
        head = OrtSession(folder / f"{name}.onnx")
        feed = np.concatenate([hiddens[index] for index in at])
        quantized += list(head(head.start(), hidden=feed)[0]["logits"])
    return compared(np.stack(exact), np.stack(quantized))


def compared(exact: Array, quantized: Array) -> Fidelity:
    """How far the quantized logits are from the exact ones: both [positions, ids]."""
    p, q = (F.log_softmax(torch.from_numpy(x).double(), dim=-1) for x in (exact, quantized))
    centred, other = (x - x.mean(axis=1, keepdims=True) for x in (exact, quantized))
    noise = max(float(np.mean((other - centred) ** 2)), 1e-30)
    return Fidelity(
        kl=float((p.exp() * (p - q)).sum(-1).mean()),
        top1=float((exact.argmax(1) == quantized.argmax(1)).mean()),
        snr_db=float(10 * np.log10(np.mean(centred**2) / noise)),
        positions=len(exact),
    )
