"""T5Gemma-TTS: encoder, caches and decoder beside upstream's, fed upstream's own tokens (docs/systems/t5gemma.md 4).

The run is read from its inputs, see utterance.py. Goldens keep layers and caches of some calls of the decoder: call 0
reads the prompt, call c the token that step c - 1 gave.
"""

import re

import numpy as np

from voxport import bounds, draws
from voxport.bounds import Bound
from voxport.bundle import Bundle
from voxport.graphs.session import Array, State
from voxport.systems.t5gemma.positions import Positions, Turns
from voxport.systems.t5gemma.section import Section
from voxport_exporters.systems.t5gemma.checkpoint import open_checkpoint
from voxport_exporters.systems.t5gemma.parts import parts
from voxport_parity.reference import TorchBundle, taps_of
from voxport_parity.systems.t5gemma.utterance import CODES, TEXT, TOKENS, TOTAL, Utterance, utterance
from voxport_parity.trace import Golden, Trace

ENCODER = re.compile(r"t5\.enc\.(\d+\.)?out")
CROSS = re.compile(r"t5\.kv\.cross\.\d+\.[kv]")
EMBEDS = "t5.prefill.inputs_embeds"
CAPPED = "t5.eager_softcap.logits_step0"
DECODER = re.compile(r"t5\.(dec\..*|kv\.call\d+\.self\.\d+\.[kv]|logits|eager_softcap\..*)")
CALL = re.compile(r"call(\d+)")
SECONDS, SPEECH = 0.5, 12  # of an utterance that is made up, and the tokens that are read of it


def owns(name: str) -> bool:
    """Whether a golden tensor is one of these stages'."""
    return name == EMBEDS or any(pattern.fullmatch(name) for pattern in (ENCODER, CROSS, DECODER))


def bound(name: str) -> Bound:
    """See `Feeds`."""
    if name == EMBEDS:
        return bounds.EQUAL
    return bounds.LM_LOGITS if "logits" in name else bounds.LM_HIDDEN


def rounded(name: str) -> Bound | None:
    """See `Feeds`."""
    return bounds.EQUAL if name == EMBEDS else bounds.QUANTIZED_LM


def stage(name: str) -> str:
    """See `Feeds`."""
    if name == EMBEDS:
        return "audio_embed"
    return "encoder" if ENCODER.fullmatch(name) else "cross" if CROSS.fullmatch(name) else "decoder"


def input_reason(name: str) -> str | None:
    """See `Feeds`: nothing here is an input."""
    assert owns(name)
    return None


def inputs(bundle: Bundle) -> Trace:
    """An utterance to read, for a checkpoint nobody has goldens for."""
    section = bundle.section(Section)
    ids = draws.uniforms(0, "parity.text", 0, 24) * bundle.manifest.tokens["x_sep"]
    codes = (draws.uniforms(0, "parity.speech", 0, 2 * SPEECH) * section.codes).astype(np.int64)
    prompt = [*codes[:SPEECH], bundle.manifest.tokens["y_sep"]]
    return {
        TEXT: ids.astype(np.int64)[None],
        CODES: np.array(prompt)[None, :, None],
        TOTAL: np.array([len(prompt) + int(SECONDS * section.frame_rate)]),
        TOKENS: codes[SPEECH:],
    }


def trace(bundle: Bundle, golden: Golden) -> Trace:
    """See `Feeds`."""
    run = utterance(bundle, golden)
    if run is None:
        return Trace()
    outputs, cross = _read(bundle, run)
    return outputs | _speak(bundle, golden, run, cross) | _capped(bundle, golden, run)


def _read(bundle: Bundle, run: Utterance) -> tuple[Trace, Trace]:
    """What is compared of the text, and the decoder's constants."""
    section, encoder, cross = bundle.section(Section), bundle.session("encoder"), bundle.session("cross")
    embeds = _embeds(bundle, "text_embed", np.array(run.text))
    positions = Positions(section).text(len(run.text))
    turns = Turns(section.encoder).at(positions)
    memory = encoder(encoder.start(), into=None, embeds=embeds[None], **turns)[0]["memory"]
    outputs = Trace({"t5.enc.out": memory})
    outputs |= {f"t5.{name}": array for name, array in taps_of(encoder).items() if name.startswith("enc.")}
    rotated = len(cross.stage.inputs) > 1
    feed = {"memory": memory, **(Turns(section.decoder).at(positions) if rotated else {})}
    constants = cross(cross.start(), into=None, **feed)[0]
    for name, array in constants.items():
        kind, _, layer = name.partition(".")
        outputs[f"t5.kv.cross.{layer}.{kind[len('cross_')]}"] = array
    return outputs, constants | {"read": np.array([len(run.text)])}


def _speak(bundle: Bundle, golden: Golden, run: Utterance, cross: Trace) -> Trace:
    """The prompt in one call, then upstream's tokens one by one."""
    calls = {int(call) for name in golden.tensors if owns(name) for call in CALL.findall(name)} or {0, 1}
    section, decoder = bundle.section(Section), bundle.session("decoder")
    positions, turns = Positions(section), Turns(section.decoder)
    state = decoder.start(cross, batch=1, capacity=len(run.audio) + len(run.tokens))
    outputs, past = Trace(), 0
    logits: list[Array] = []
    hidden: list[Array] = []
    for call, tokens in enumerate([run.audio, *run.tokens[:-1, None]]):
        embeds = _embeds(bundle, "audio_embed", tokens)
        places = (
            np.array([positions.token(past, run.expected)]) if call else positions.prompt(len(tokens), run.expected)
        )
        tables = {name: table[None] for name, table in turns.at(places).items()}
        result, state = decoder(state, into=None, embeds=embeds[None], past=np.array([past]), **tables)
        past += len(tokens)
        logits.append(result["logits"][0])
        taps = taps_of(decoder)
        hidden += [taps["hidden"][0]] if taps else []
        if call == 0:
            outputs[EMBEDS] = embeds[None]
        if call in calls:
            outputs |= {f"t5.{n}.call{call}": array for n, array in taps.items() if n.startswith("dec.")}
            outputs |= _caches(state, golden, call, past)
    if hidden:
        outputs["t5.dec.last_hidden"] = np.stack(hidden)[None]
    return outputs | {"t5.logits": np.stack(logits)}


def _caches(state: State, golden: Golden, call: int, past: int) -> Trace:
    """What the caches hold after a call. Of a layer with a window upstream keeps no more than the last columns."""
    outputs = Trace()
    for name, cache in state.items():
        kind, _, layer = name.partition(".")
        key = f"t5.kv.call{call}.self.{layer}.{kind[0]}"
        most = golden.tensors[key].shape[2] if key in golden.tensors else past
        if cache.dtype == np.float32:  # of codes only the graph knows what they stand for
            outputs[key] = cache[:, :, max(0, past - most) : past].copy()
    return outputs


def _capped(bundle: Bundle, golden: Golden, run: Utterance) -> Trace:
    """The first logits of nets that bend scores off, as upstream's eager attention would. No graph of the bundle does,
    so this is for the torch link alone."""
    if CAPPED not in golden.tensors or golden.folder is None or not isinstance(bundle, TorchBundle):
        return Trace()
    checkpoint = open_checkpoint(golden.folder)
    capped = TorchBundle(bundle, parts(checkpoint.weights, checkpoint.config, softcap=True))
    first = Utterance(run.text, run.audio, run.expected, run.tokens[:1])
    _, cross = _read(capped, first)
    return {CAPPED: _speak(capped, golden, first, cross)["t5.logits"][0]}


def _embeds(bundle: Bundle, table: str, ids: Array) -> Array:
    """Rows of a table, float32 [ids, width]."""
    session = bundle.session(table)
    return session(session.start(), into=None, ids=ids)[0]["embeds"]
