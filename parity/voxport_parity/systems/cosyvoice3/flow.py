"""Fun-CosyVoice3's flow: upstream's mels again, and single evaluations of its net (docs/systems/cosyvoice3.md 4)."""

import re

import numpy as np

from voxport import bounds
from voxport.bounds import Bound
from voxport.bundle import Bundle
from voxport.graphs.session import Array
from voxport.systems.cosyvoice3.flow import STEPS, Flow
from voxport.systems.cosyvoice3.flowstream import Reference
from voxport.systems.cosyvoice3.noise import flow_noise
from voxport.systems.cosyvoice3.schedule import NEAR, schedule
from voxport.systems.cosyvoice3.section import Section
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.graphs.part import Part
from voxport_exporters.systems.cosyvoice3.config import read_config
from voxport_exporters.systems.cosyvoice3.flow import FLOW
from voxport_exporters.systems.cosyvoice3.modulation import Modulation, modulation_stage
from voxport_parity.reference import TorchSession, taps_of
from voxport_parity.trace import Golden, Trace

PROMPT = ("frontend.prompt_token", "frontend.prompt_feat", "frontend.spk_embedding")
TOKENS = "pipeline.tokens_after_silent_filter"
UNIT, FULL, BLOCKS = "dit_short.", "dit_short.full_", "dit_short.stream_"  # one evaluation, its layers
NOISE, COUNTS, FLAGS = "flow.rand_noise", "pipeline.stream_flow_tokens", "pipeline.stream_flags"
CHUNK = re.compile(r"pipeline\.stream_mel(\d+)")
STEP, EVERY = re.compile(r"flow\.(x|est_out)_step(\d+)"), re.compile(r"every (\d+)\w* frame")
STAGES = {
    "flow.prelook": "flow_encode",
    "flow.mu": "flow_encode",
    "flow.spks": "flow_speaker",
    "flow.t_": "schedule",
    NOISE: "noise",
    "pipeline.stream_mel": "flow_stream",
    "dit_short.full_time_embed": "flow_modulation",
    "dit_short.out_stream": "flow_stream",
    BLOCKS: "flow_stream",
}


def owns(name: str) -> bool:
    """Whether a golden tensor is the flow's."""
    return name.startswith(("flow.", UNIT)) or CHUNK.fullmatch(name) is not None


def bound(name: str) -> Bound:
    """See `Feeds`."""
    if name.startswith("flow.t_"):
        return bounds.FLOW_TIME
    if name == NOISE:
        return bounds.FLOW_NOISE
    walked = name == "flow.mel" or name.startswith("flow.x_step") or CHUNK.fullmatch(name) is not None
    return bounds.FLOW_MEL if walked else bounds.FLOW_NET


def stage(name: str) -> str:
    """See `Feeds`."""
    return next((stage for prefix, stage in STAGES.items() if name.startswith(prefix)), "flow")


def rounded(name: str) -> Bound | None:
    """See `Feeds`."""
    return bounds.QUANTIZED


def input_reason(name: str) -> str | None:
    """See `Feeds`."""
    inputs = (f"{UNIT}{x}" for x in ("x", "mu", "cond", "t", "spks"))
    return "goes into one evaluation of the net" if name in inputs else None


def trace(bundle: Bundle, golden: Golden) -> Trace:
    """See `Feeds`."""
    section, tensors = bundle.section(Section), golden.tensors
    flow = Flow(bundle, 1, section.flow, section.token_rate)
    steps = int(golden.notes.get("settings", {}).get("n_timesteps", STEPS))
    grid = schedule(steps, section.flow.schedule)
    outputs = _unit(flow, golden) | {"flow.t_span": grid.span, "flow.t_used": grid.times}
    if NOISE in tensors:
        _, bands, frames = tensors[NOISE].shape
        outputs[NOISE] = flow_noise(bands, frames)[None]
    utterance = _utterance(golden)
    if utterance is not None:
        outputs |= _encoded(flow, *utterance) | _walk(flow, *utterance, steps, golden)
        outputs |= _chunks(flow, *utterance, steps, golden, None)
    return outputs


def streamed(bundle: Bundle, golden: Golden) -> Trace:
    """See `Feeds`: upstream's chunks again, fed in random pieces."""
    section, utterance = bundle.section(Section), _utterance(golden)
    if utterance is None:
        return Trace()
    flow = Flow(bundle, 1, section.flow, section.token_rate)
    steps = int(golden.notes.get("settings", {}).get("n_timesteps", STEPS))
    return _chunks(flow, *utterance, steps, golden, np.random.default_rng(0))


def _utterance(golden: Golden) -> tuple[Reference, Array] | None:
    """The reference and the tokens of the golden's speech; None where it lacks any."""
    tensors = golden.tensors
    if any(name not in tensors for name in (*PROMPT, TOKENS)):
        return None
    tokens, mel, embedding = (tensors[name][0] for name in PROMPT)
    return Reference(tokens.astype(np.int64), mel, embedding), tensors[TOKENS].astype(np.int64)


def _encoded(flow: Flow, reference: Reference, tokens: Array) -> Trace:
    """The token encoder with nothing ahead and with the last tokens ahead, and the speaker vector."""
    net, section = flow.net, flow.section
    ids = np.concatenate((reference.tokens, tokens))
    whole, _ = net.encode(net.tail(), ids, ids[:0])
    cut, _ = net.encode(net.tail(), ids[: -section.lookahead], ids[-section.lookahead :])
    speaker = net.session("flow_speaker")
    spks, _ = speaker(speaker.start(), into=None, embedding=reference.embedding)
    return {
        "flow.prelook_full": whole[None, :: section.ratio],
        "flow.prelook_stream": cut[None, :: section.ratio],
        "flow.mu": whole.T[None],
        "flow.spks": spks["spks"][None],
    }


def _walk(flow: Flow, reference: Reference, tokens: Array, steps: int, golden: Golden) -> Trace:
    """The whole utterance, step by step."""
    walk: list[tuple[Array, Array]] = []
    mel = flow.mel(reference, tokens, steps, watch=lambda x, velocity: walk.append((x, velocity)))
    outputs = {"flow.mel": mel.T[None]}
    for name in golden.tensors:
        if match := STEP.fullmatch(name):
            x, velocity = walk[int(match[2]) - 1]
            every = EVERY.search(golden.meaning(name))
            frames = x[None] if match[1] == "x" else velocity
            outputs[name] = frames.transpose(0, 2, 1)[..., :: int(every[1]) if every else 1]
    return outputs


def _chunks(
    flow: Flow,
    reference: Reference,
    tokens: Array,
    steps: int,
    golden: Golden,
    pieces: np.random.Generator | None,
) -> Trace:
    """The mel that every call of upstream's schedule adds, from one stream. `pieces`: cuts what goes in."""
    if any(name not in golden.tensors for name in (COUNTS, FLAGS)):
        return Trace()
    stream, outputs = flow.stream(reference, steps), Trace()
    mel, fed, before = reference.mel[:0], 0, 0
    for i, (count, (blocks, final)) in enumerate(zip(golden.tensors[COUNTS], golden.tensors[FLAGS], strict=True)):
        if not blocks:
            whole = flow.mel(reference, tokens[:count], steps)
        else:
            while fed < count:
                size = int(count) - fed if pieces is None else int(pieces.integers(1, 9))
                mel = np.concatenate((mel, stream.feed(tokens[fed : min(fed + size, int(count))])))
                fed = min(fed + size, int(count))
            whole = np.concatenate((mel, stream.flush() if final else stream.peek()))
        outputs[f"pipeline.stream_mel{i}"] = whole[before:].T[None]
        before = len(whole)
    return outputs


def _unit(flow: Flow, golden: Golden) -> Trace:
    """One evaluation of the net, all frames at once and in blocks."""
    tensors, names = golden.tensors, ("x", "mu", "cond", "spks", "t")
    if any(UNIT + name not in tensors for name in names):
        return Trace()
    x, mu, cond = (np.ascontiguousarray(tensors[UNIT + name][0].T) for name in names[:3])
    spks, time = tensors[UNIT + "spks"][0], tensors[UNIT + "t"]
    source = _modulation(flow, time[:1], golden)
    outputs, session = Trace(), flow.net.session("flow")
    listens = any(tensor.name == "spks" for tensor in session.stage.inputs)
    speaker = {"spks": spks} if listens else {}
    if source is None:
        return outputs
    modulation, embedding = source
    inputs = {"x": x, "mu": mu, "cond": cond, "modulation": modulation, **speaker}
    velocity = session(session.start(), into=None, **inputs)[0]["velocity"]
    outputs[UNIT + "out_full"] = velocity.transpose(0, 2, 1)
    outputs |= {FULL + name: tap[:1] for name, tap in taps_of(session).items()}
    outputs |= {FULL + name: tap.repeat(len(time), axis=0) for name, tap in embedding.items()}
    return outputs | _blocks(flow, x, mu, cond, modulation, speaker)


def _modulation(flow: Flow, time: Array, golden: Golden) -> tuple[Array, Trace] | None:
    """The modulations of any time, and the taps beside; of one that is in no table, from the checkpoint's weights."""
    session = flow.net.session("flow_modulation")
    outputs, _ = session(session.start(), into=None, time=time)
    if abs(float(outputs["nearest"][0] - time[0])) > NEAR:
        if golden.folder is None:
            return None
        config = read_config(golden.folder).flow.dit
        weights = Weights.open(golden.folder / FLOW).at("decoder.estimator")
        session = TorchSession(Part(modulation_stage(config), Modulation(weights, config), {}))
        outputs, _ = session(session.start(), into=None, time=time)
    return outputs["modulation"], taps_of(session)


def _blocks(flow: Flow, x: Array, mu: Array, cond: Array, modulation: Array, speaker: Trace) -> Trace:
    """The same evaluation, block after block."""
    session, block = flow.net.session("flow_stream"), flow.section.block
    fixed = {t.name: t for t in session.stage.inputs if "prompt" in t.shape}
    nothing = {name: np.zeros(t.sized({"prompt": 0}), t.dtype) for name, t in fixed.items()}
    state, velocities, taps = session.start(nothing | speaker, capacity=len(x)), [], []
    for start in range(0, len(x), block):
        stop = min(start + block, len(x))
        places = {"start": np.array([start]), "slots": np.arange(start, stop), "filled": np.array([stop])}
        part = {"x": x[start:stop], "mu": mu[start:stop], "cond": cond[start:stop], "modulation": modulation}
        outputs, state = session(state, into=None, **part, **places)
        velocities.append(outputs["velocity"])
        taps.append(taps_of(session))
    joined = {
        name: np.concatenate([tap[name][:1] for tap in taps], axis=1) for name in taps[0] if "weights" not in name
    }
    velocity = np.concatenate(velocities, axis=1).transpose(0, 2, 1)
    return {UNIT + "out_stream": velocity, **{BLOCKS + name: tap for name, tap in joined.items()}}
