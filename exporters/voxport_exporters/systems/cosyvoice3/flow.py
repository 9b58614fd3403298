"""The stages of Fun-CosyVoice3's flow, declared: flow.pt -> five graphs (docs/systems/cosyvoice3.md 4).

    flow_encode      ids int64 [tokens], ahead int64 [lookahead], tail -> mu [tokens, input_size], next tail
    flow_speaker     embedding [spk_embed_dim] -> spks [bands]
    flow_modulation  time [1] -> modulation [rows, dim] and the time that it is of
    flow             x [frames, bands], mu [frames, input_size], cond [frames, bands], modulation, spks
                     -> velocity [2, frames, bands]: with its conditions, and without any
    flow_stream      the same for one block of frames, after those whose keys and values it is given

A frame of mu is that of its token, repeated. flow and flow_stream hold the same weights, which lie in the bundle once.
"""

from collections.abc import Iterator

from voxport.graphs.stage import CAPACITY, Stage, TensorSpec
from voxport.recipe import Rule
from voxport.systems.cosyvoice3.schedule import STEPS, every_time
from voxport.systems.cosyvoice3.section import FlowSection
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.graphs.part import Part
from voxport_exporters.systems.cosyvoice3.config import Config, DitConfig, FlowConfig
from voxport_exporters.systems.cosyvoice3.dit import KERNEL, FullDit, StreamDit
from voxport_exporters.systems.cosyvoice3.lookahead import Lookahead, Speaker, encode_stage, speaker_stage
from voxport_exporters.systems.cosyvoice3.modulation import Modulation, modulation_stage, rows_of, table
from voxport_exporters.systems.cosyvoice3.trial import trial

FLOW = "flow.pt"
EXAMPLE = 2  # blocks of frames in the traced example, which is run in full to count its operations

# int8r: one scale for each row of activations. With one for all rows, the loudest frame leaves the others no precision.
_INT8 = [Rule("int8r", stage=stage, weights="blocks.*") for stage in ("flow", "flow_stream")]
# A second of speech leaves 180 MB of keys and values behind in float32 (10 steps), and half of that in fp16.
_CACHES = [Rule("fp16cache", stage="flow_stream", weights=f"*{kind}.*") for kind in ("keys", "values")]
_SMALL = [*_INT8, *_CACHES]
FLOW_RULES: dict[str, list[Rule]] = {"fp32": [], "mixed": _SMALL, "int8": _SMALL, "hqq4": _SMALL}


def parts(
    weights: Weights, config: Config, steps: tuple[int, ...] = STEPS, times: tuple[float, ...] = ()
) -> Iterator[Part]:
    """The flow's graphs; every key of `weights` is accounted for by the last one.

    `steps`: the counts of Euler steps that the table of modulations is for; `times`: further times in it.
    Raises ValueError in one line when weights and config disagree.
    """
    flow = config.flow
    dit, w = flow.dit, weights.at("decoder.estimator")
    yield Part(encode_stage(flow), Lookahead(weights, flow), {"tokens": config.token_frame_rate})
    yield Part(speaker_stage(flow), Speaker(weights, flow), {})
    grid, stage = every_time(steps, flow.cfm.t_scheduler, times), modulation_stage(dit)
    modulation = Modulation(w, dit)
    yield Part(stage, modulation, {}, build=lambda _: table(modulation, stage, grid))
    request = trial(config, section(flow, steps))
    block = dit.static_chunk_size
    yield Part(flow_stage(dit), FullDit(w, dit), {"frames": EXAMPLE * block}, trial=request)
    sizes = {"frames": block, "prompt": 3 * block, CAPACITY: 4 * block}
    yield Part(flow_stream_stage(dit), StreamDit(w, dit), sizes, trial=request)
    weights.finish()


def section(config: FlowConfig, steps: tuple[int, ...] = STEPS) -> FlowSection:
    """What the manifest says of the flow; `steps` as `parts` takes them."""
    return FlowSection(
        ratio=config.token_mel_ratio,
        lookahead=config.pre_lookahead_len,
        block=config.dit.static_chunk_size,
        guidance=config.cfm.inference_cfg_rate,
        schedule=config.cfm.t_scheduler,
        steps=steps,
    )


def flow_stage(config: DitConfig) -> Stage:
    """All frames of an utterance."""
    return Stage("flow", inputs=(*_inputs(config), *_speaker(config)), outputs=(_velocity(config),))


def flow_stream_stage(config: DitConfig) -> Stage:
    """One block of frames.

    `start`: the place of its first frame; `slots`: where in the caches its keys and values go; `filled`: how many slots
    hold any then, counted from the first. `prompt.*`: keys and values that stay as they are.
    """
    names = [f"{kind}.{i}" for i in range(config.depth) for kind in ("keys", "values")]
    tails = (f"tail.{i}" for i in (1, 2))

    def cache(name: str, slots: str) -> TensorSpec:
        return TensorSpec(name, "float32", (2, config.heads, slots, config.dim_head))

    return Stage(
        "flow_stream",
        inputs=(
            *_inputs(config),
            TensorSpec("start", "int64", (1,)),
            TensorSpec("slots", "int64", ("frames",)),
            TensorSpec("filled", "int64", (1,)),
            *_speaker(config),
            *(cache(f"prompt.{name}", "prompt") for name in names),
        ),
        outputs=(_velocity(config),),
        state=(
            *(TensorSpec(name, "float32", (2, config.dim, KERNEL - 1)) for name in tails),
            *(cache(name, CAPACITY) for name in names),
        ),
    )


def _inputs(config: DitConfig) -> tuple[TensorSpec, ...]:
    sizes = {"x": config.mel_dim, "mu": config.mu, "cond": config.mel_dim}
    frames = (TensorSpec(name, "float32", ("frames", size)) for name, size in sizes.items())
    return *frames, TensorSpec("modulation", "float32", (rows_of(config), config.dim))


def _speaker(config: DitConfig) -> tuple[TensorSpec, ...]:
    """None where the DiT does not listen to the speaker vector."""
    return (TensorSpec("spks", "float32", (config.speaker,)),) if config.speaker else ()


def _velocity(config: DitConfig) -> TensorSpec:
    return TensorSpec("velocity", "float32", (2, "frames", config.mel_dim))
