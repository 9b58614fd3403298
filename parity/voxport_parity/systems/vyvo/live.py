"""VyvoTTS: upstream's own classes on the checkpoint itself, transformers' language model and snac's codec.

They are fed what the nets are fed, by a golden or without one, so that a checkpoint nobody has goldens for is proved
too. Scores are compared, not the ids in their order: two that are nearly equal may change places.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from voxport.graphs.session import Array
from voxport_parity.systems.vyvo import codec as vyvo_codec
from voxport_parity.systems.vyvo.calls import MANY
from voxport_parity.systems.vyvo.runs import BEST, generations
from voxport_parity.trace import Golden, Trace


def upstream(files: Sequence[Path], golden: Golden, trace: Trace) -> Iterator[tuple[str, Array]]:
    """What upstream's classes compute, by the goldens' names.

    `files`: the Job's, the language model's config.json first, the codec's config and weights last. `trace`: that of
    the nets, which holds the prompts and the codes that are decoded. Raises ModuleNotFoundError when transformers or
    snac is not installed; ValueError when a class does not take the checkpoint whole.
    """
    *_, config, weights = files
    codec = _codec(config, weights)
    with torch.no_grad():
        outputs = (*_language_model(files[0].parent, golden, trace), *_speech(codec, golden.tensors | trace))
        for name, value in outputs:
            yield name, value.numpy()


# ------------------------------------------------------------------------------------------------ language model


def _language_model(folder: Path, golden: Golden, trace: Trace) -> Iterator[tuple[str, Tensor]]:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    how: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager", "local_files_only": True}
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **how)
    model, report = loaded
    if lacking := sorted(report["missing_keys"]):  # they would be random
        raise ValueError(f"{folder}: transformers finds no weights for {lacking[0]}")
    first = model(_ids(trace["prompt_ids"]), output_hidden_states=True, use_cache=True)
    yield "prefill.logits_last", first.logits[:, -1]
    yield from _layers("prefill", first.hidden_states)
    step = model(_ids(trace["step1.input_id"]), past_key_values=first.past_key_values, output_hidden_states=True)
    yield from _layers("step1", step.hidden_states)
    for run, generated in generations(golden).items():
        if len(generated) == 1 and f"{run}.raw_top8_logits" in trace:
            tokens = _ids(generated)
            ids = torch.cat((_ids(trace[f"{run}.prompt"]), tokens[:, :-1]), dim=1)
            logits = model(ids, logits_to_keep=tokens.shape[1]).logits
            yield f"{run}.raw_top8_logits", logits.topk(BEST).values
            yield f"{run}.chosen_raw_logit", logits.gather(2, tokens[..., None])[..., 0]
    if "batch_ids" in trace:
        hidden, logits = _batch(model, _ids(trace["batch_ids"]), _ids(trace["batch_mask"]))
        yield "batch.hidden_last", hidden
        yield "batch.top_logits", logits.topk(MANY).values


def _layers(call: str, hidden: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
    return ((f"{call}.hidden{i}", value) for i, value in enumerate(hidden))


def _batch(model: Any, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The last hidden states [rows, width] and logits [rows, vocabulary] of a batch that is padded on the left.

    Upstream lets pads leak into a row through a short convolution with a bias (LFM2's conv_bias; no release has it), so
    the rows of such a model go through it one by one, without pads.
    """
    if any(name.endswith("conv.conv.bias") for name, _ in model.named_parameters()):
        calls = [model(row[real.bool()][None], output_hidden_states=True) for row, real in zip(ids, mask, strict=True)]
    else:
        places = (mask.cumsum(1) - 1).clamp(min=0)
        calls = [model(ids, attention_mask=mask, position_ids=places, output_hidden_states=True)]
    hidden = torch.cat([call.hidden_states[-1][:, -1] for call in calls])
    return hidden, torch.cat([call.logits[:, -1] for call in calls])


def _ids(array: Array) -> Tensor:
    return torch.from_numpy(array).long()


# --------------------------------------------------------------------------------------------------------- codec


class _Drawn(TorchFunctionMode):
    """Within: the noise blocks, which call torch.randn, get these draws in turn."""

    def __init__(self, draws: Sequence[Array]) -> None:
        super().__init__()
        self._left = [torch.from_numpy(draw).double() for draw in draws]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._left.pop(0).reshape(args[0]) if func is torch.randn else func(*args, **(kwargs or {}))


def _codec(config: Path, weights: Path) -> Any:
    """In float64: the last layers see activations of hundreds, of which float32 keeps no more than the bounds allow."""
    from snac import SNAC  # type: ignore[import-untyped]

    model = SNAC.from_config(config)
    safe = weights.suffix == ".safetensors"
    model.load_state_dict(load_file(weights) if safe else torch.load(weights, map_location="cpu", weights_only=True))
    return model.eval().double()


def _speech(codec: Any, tensors: Trace) -> Iterator[tuple[str, Tensor]]:
    """Codes to audio, layer by layer, and audio to codes."""
    blocks = sum(type(layer).__name__ == "NoiseBlock" for layer in codec.modules())

    def decoded(group: str) -> Tensor:
        codes = [torch.from_numpy(x)[None] for x in vyvo_codec.levels(tensors, group, codec.n_codebooks)]
        with _Drawn(vyvo_codec.noise(tensors, group, blocks)):
            audio: Tensor = codec.decode(codes)
        return audio

    for name in tensors:
        group = name.removesuffix(".wav")
        if name.endswith(".wav") and group != vyvo_codec.GROUP and f"{group}.codes0" in tensors:
            yield name, decoded(group)
    taps = {f"decode.layer{i}": layer for i, layer in enumerate(codec.decoder.model)}
    taps |= {f"encode.block{i}": layer for i, layer in enumerate(codec.encoder.block)} | {"encode.z": codec.encoder}
    layers: dict[str, Tensor] = {}
    for name, layer in taps.items():
        layer.register_forward_hook(lambda _layer, _inputs, out, name=name: layers.update({name: out}))
    codec.decoder.register_forward_pre_hook(lambda _layer, inputs: layers.update({"decode.z_q": inputs[0]}))
    if f"{vyvo_codec.GROUP}.codes0" in tensors:
        yield "decode.wav", decoded(vyvo_codec.GROUP)
    if "ref.wav24k" in tensors:
        for i, codes in enumerate(codec.encode(torch.from_numpy(tensors["ref.wav24k"]).double()[None, None])):
            yield f"encode.codes{i}", codes
    yield from layers.items()
