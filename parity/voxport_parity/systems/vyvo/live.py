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
from voxport_parity.trace import Golden, Trace

BEST, MANY = 8, 16  # scores that the goldens keep, of a step and of a row of the batch


def upstream(files: Sequence[Path], golden: Golden, made: Trace) -> Iterator[tuple[str, Array]]:
    """What upstream's classes compute, by the goldens' names.

    `files`: the Job's, the language model's config.json first, the codec's config and weights last. `made`: the prompts
    among what the nets made. ModuleNotFoundError when transformers or snac is not installed; ValueError when a class
    does not take the checkpoint whole.
    """
    *_, config, weights = files
    codec = _codec(config, weights)
    with torch.no_grad():
        for name, value in (*_language_model(files[0].parent, golden.tensors, made), *_spoken(codec, golden.tensors)):
            yield name, value.numpy()


# ------------------------------------------------------------------------------------------------ language model


def _language_model(folder: Path, tensors: Trace, made: Trace) -> Iterator[tuple[str, Tensor]]:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    how: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager", "local_files_only": True}
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **how)
    model, found = loaded
    if lacking := sorted(found["missing_keys"]):  # they would be random
        raise ValueError(f"{folder}: transformers finds no weights for {lacking[0]}")
    prompt = _ids(made["prompt_ids"])
    seen = model(prompt, output_hidden_states=True, use_cache=True)
    yield "prefill.logits_last", seen.logits[:, -1]
    yield from _layers("prefill", seen.hidden_states)
    step = model(_ids(made["step1.input_id"]), past_key_values=seen.past_key_values, output_hidden_states=True)
    yield from _layers("step1", step.hidden_states)
    for run, name in (("greedy", "prompt_ids"), ("sampled", "prompt_ids_voice"), ("clone", "clone.input_ids")):
        if name in made and f"{run}.tokens" in tensors:
            tokens = _ids(tensors[f"{run}.tokens"])
            fed = torch.cat((_ids(made[name]), tokens[:, :-1]), dim=1)
            logits = model(fed, logits_to_keep=tokens.shape[1]).logits
            yield f"{run}.raw_top8_logits", logits.topk(BEST).values
            yield f"{run}.chosen_raw_logit", logits.gather(2, tokens[..., None])[..., 0]
    mask = _ids(made["batch_mask"])
    places = (mask.cumsum(1) - 1).clamp(min=0)
    rows = model(_ids(made["batch_ids"]), attention_mask=mask, position_ids=places, output_hidden_states=True)
    yield "batch.hidden_last", rows.hidden_states[-1][:, -1]
    yield "batch.top_logits", rows.logits[:, -1].topk(MANY).values


def _layers(call: str, hidden: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
    return ((f"{call}.hidden{i}", value) for i, value in enumerate(hidden))


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


def _spoken(codec: Any, tensors: Trace) -> Iterator[tuple[str, Tensor]]:
    """Codes to audio, layer by layer, and audio to codes."""
    blocks = sum(type(layer).__name__ == "NoiseBlock" for layer in codec.modules())

    def decoded(codes: str, draws: str) -> Tensor:
        given = [torch.from_numpy(x)[None] for x in vyvo_codec.levels(tensors, codes, codec.n_codebooks)]
        with _Drawn(vyvo_codec.noise(tensors, draws, blocks)):
            audio: Tensor = codec.decode(given)
        return audio

    if "clone.row0.codes0" in tensors:
        yield "clone.row0.wav", decoded("clone.row0", "clone.row0")
    taps = {f"decode.layer{i}": layer for i, layer in enumerate(codec.decoder.model)}
    taps |= {f"encode.block{i}": layer for i, layer in enumerate(codec.encoder.block)} | {"encode.z": codec.encoder}
    seen: dict[str, Tensor] = {}
    for name, layer in taps.items():
        layer.register_forward_hook(lambda _layer, _fed, out, name=name: seen.update({name: out}))
    codec.decoder.register_forward_pre_hook(lambda _layer, fed: seen.update({"decode.z_q": fed[0]}))
    yield "decode.wav", decoded("greedy", "decode")
    for i, codes in enumerate(codec.encode(torch.from_numpy(tensors["ref.wav24k"]).double()[None, None])):
        yield f"encode.codes{i}", codes
    yield from seen.items()
