"""The decoder is transformers' for any config, as torch net and as the graphs of both targets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.exporters.decoders import CAPACITY, CONFIGS, Decoder, checkpoint, graph_decoder, torch_decoder

from voxport.speech.rows import Rows
from voxport_exporters.targets import TARGETS

QUICK = ("lfm2", "llama-bias")


def hold_to_transformers(model: Decoder, upstream: Any) -> None:
    """Two rows at different positions, each of which transformers runs alone; a prompt and three steps.

    Alone, because in a short convolution with biases transformers lets pads leak into the row.
    """
    ids = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(1))
    starts, prompt, caches = (4, 0), 6, [None, None]
    rows = Rows(model.lm, 2, CAPACITY)
    for begin, end in ((0, prompt), (prompt, 7), (7, 8), (8, 9)):
        if begin == 0:
            outputs = rows.begin(tokens=[row[start:end].numpy() for row, start in zip(ids, starts, strict=True)])
        else:
            outputs = rows.step(tokens=ids[:, begin].numpy())
        logits = model.logits(outputs["hidden"])
        for row, start in enumerate(starts):
            with torch.no_grad():
                out = upstream(ids[row : row + 1, max(begin, start) : end], past_key_values=caches[row], use_cache=True)
            caches[row] = out.past_key_values
            expected = out.logits[0, -1].numpy()
            bound = 2e-5 * max(1.0, float(np.abs(expected).max()))
            np.testing.assert_allclose(logits[row], expected, rtol=0, atol=bound)


@pytest.mark.parametrize("name", CONFIGS)
def test_net_is_transformers_for_any_config(name: str, tmp_path: Path) -> None:
    upstream = checkpoint(CONFIGS[name], tmp_path)
    hold_to_transformers(torch_decoder(tmp_path), upstream)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in CONFIGS]
)
def test_graphs_are_transformers_for_any_config(name: str, target: str, tmp_path: Path) -> None:
    upstream = checkpoint(CONFIGS[name], tmp_path)
    hold_to_transformers(graph_decoder(tmp_path, tmp_path, target), upstream)
