"""Fun-CosyVoice3: how its goldens are fed (docs/systems/cosyvoice3.md; golden.json's notes).

One module for each part of the model; what a golden's tensor is called says which part it belongs to.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport.systems.cosyvoice3.section import Section
from voxport.systems.cosyvoice3.voice import synthetic_voice
from voxport_parity.parts import Part, Parts
from voxport_parity.systems.cosyvoice3 import flow, frontend, lm, pipeline, vocoder
from voxport_parity.trace import Golden, Trace


def _part(name: str) -> Part:
    if flow.owns(name):
        return flow
    if vocoder.owns(name):
        return vocoder
    return {"frontend": frontend, "llm": lm, "sampler": lm}.get(name.partition(".")[0], pipeline)


PARTS = Parts(_part)
bound, rounded, stage, input_reason = PARTS.bound, PARTS.rounded, PARTS.stage, PARTS.input_reason


def options(golden: Golden) -> dict[str, Any]:
    """See `Feeds`: the times at which upstream's net was looked at become rows of the table of times."""
    times = golden.tensors.get("dit_short.t", np.empty(0))
    return {"times": tuple(sorted({float(time) for time in times}))}


def without_golden(bundle: Bundle) -> Golden:
    """Ids, tokens, a voice and a mel, for a checkpoint nobody has goldens for."""
    section = bundle.section(Section)
    (vector,) = bundle.session("flow_speaker").stage.inputs
    voice = synthetic_voice(section, int(vector.sized({})[0]), seconds=0.6)
    tensors = lm.inputs(bundle) | vocoder.stand_in(section.mel.bands)
    tensors |= {
        "frontend.prompt_token": voice.tokens[None],
        "frontend.prompt_feat": voice.mel[None],
        "frontend.spk_embedding": voice.embedding[None],
        pipeline.TOKENS: tensors[pipeline.GENERATED],
    }
    return Golden(tensors, {"settings": {}}, None)


def live(_files: Sequence[Path], _golden: Golden, _trace: Trace) -> Iterator[tuple[str, Array, Array]]:
    """Nothing: upstream's own code is not a package that could be run beside the net."""
    return iter(())


def trace(bundle: Bundle, golden: Golden) -> Trace:
    """See `Feeds`."""
    outputs = Trace()
    for part_of in (frontend.trace, lm.trace, flow.trace, vocoder.trace, pipeline.trace):
        outputs |= part_of(bundle, golden)
    return outputs


def streamed(bundle: Bundle, golden: Golden) -> Trace:
    """See `Feeds`: tokens and mel in random pieces."""
    return flow.streamed(bundle, golden) | vocoder.streamed(bundle, golden)
