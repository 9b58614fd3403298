"""LoRA adapters (PEFT's safetensors) merged into the weights as these are read: W + scale B A.

weights = merge(Weights.open(base), adapter_folder, tied=False)
"""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor

from voxport_exporters.checkpoints import jsonfile
from voxport_exporters.checkpoints.jsonfile import parse
from voxport_exporters.checkpoints.weights import Weights

Change = Callable[[Tensor], Tensor]
WRAPPED = "base_model.model."  # PEFT's prefix before the names of the model it wraps
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
REFUSED = (  # kinds whose update is more than scale B A
    "use_dora",
    "use_bdlora",
    "use_qalora",
    "lora_bias",
    "kasa_config",
    "layer_replication",
    "alora_invocation_tokens",
    "trainable_token_indices",
)
INITIALISED = (None, True, False, "gaussian", "eva", "orthogonal")  # the others change the base's weights too
FILES = ("adapter_config.json", "adapter_model.safetensors")  # of a folder
ADVICE = "merge with PEFT and export the result"
PATTERN_SECONDS = 5.0  # a pattern that takes longer to try on all modules never ends


class AdapterConfig(msgspec.Struct, frozen=True):
    """What adapter_config.json says about the size of an update."""

    lora_alpha: float
    alpha_pattern: dict[str, float] | None = None  # regular expression for the end of a module's name -> its alpha
    use_rslora: bool | None = False
    modules_to_save: list[str] | None = None
    ensure_weight_tying: bool | None = False


def merge(base: Weights, folder: Path, tied: bool, rounded: bool = False, place: str = "") -> Weights:
    """`base` with the adapter in `folder` merged. Raises ValueError in one line when it is of another kind or model.

    `tied`: the base's head is its embedding. PEFT saves a module of its own for each that was trained in full, and an
    untrained one keeps the old matrix: the result then holds a head and an embedding that differ.
    `rounded`: to the dtypes of the files, as by PEFT's merge_and_unload(). `place`: what stands before the names of the
    model that PEFT wrapped, where that is a part of the base.
    """
    file, weights = (folder / name for name in FILES)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; an adapter is a folder that PEFT saved")
    fields = jsonfile.read(file)
    _check_kind(file, fields)
    config = parse(fields, AdapterConfig, str(file))
    adapter = Weights.open(weights)
    names = {key: _module(key, base, place) for key in sorted(adapter.keys)}
    alphas = _alphas(file, config, [name for name, part in names.values() if part])
    replaced: dict[str, Change] = {}
    added: dict[str, Update] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for key, (name, part) in names.items():
        if part in ("A.weight", "A.default.weight", "embedding_A"):
            other_key = key.replace("lora_A", "lora_B").replace("lora_embedding_A", "lora_embedding_B")
            rank = _rank(adapter, key, other_key)
            scale = alphas[name] / (math.sqrt(rank) if config.use_rslora else rank)
            added[f"{name}.weight"] = Update(adapter, key, other_key, scale, rounded)
        elif not part:
            target = name.replace(".modules_to_save", "")
            replaced[target] = partial(_replace, adapter, key)
            shapes[target] = adapter.shape(key)
        elif not part.startswith(("B", "embedding_B")):
            raise ValueError(f"{folder}: {key} is not a LoRA weight; {ADVICE}")
    if tied and (both := sorted({EMBEDDING, HEAD} & added.keys())):
        raise ValueError(f"{folder}: adds to {both[0]}, which is the embedding and the head at once; {ADVICE}")
    if tied and not base.has(HEAD) and (HEAD in replaced or _embedding_alone(config)):
        base = base.copied(EMBEDDING, HEAD)
    unknown = sorted((replaced.keys() | added.keys()) - base.keys)
    if unknown:
        raise ValueError(f"{folder}: changes {unknown[0]}, which {base.source} lacks; is it the adapter's base model?")
    for target, update in added.items():
        update.check(shapes.get(target) or base.shape(target))
    change = replaced | {target: _after(replaced.get(target), add) for target, add in added.items()}
    return base.changed(change, shapes)


def merge_pairs(base: Weights, adapter: Weights, pairs: Mapping[str, tuple[str, str]], alpha: float) -> Weights:
    """`base` with updates B A alpha / rank added, rounded as by `merge(..., rounded=True)`.

    `pairs`: weight of the base -> names of its A and its B in `adapter`. Raises ValueError in one line when they do not
    go with the base.
    """
    unknown = sorted(pairs.keys() - base.keys)
    if unknown:
        raise ValueError(f"{adapter.source}: adds to {unknown[0]}, which {base.source} lacks; is it of another base?")
    added = {}
    for target, (a, b) in pairs.items():
        added[target] = Update(adapter, a, b, alpha / _rank(adapter, a, b), rounded=True)
        added[target].check(base.shape(target))
    return base.changed(added, {})


def _check_kind(file: Path, fields: dict[str, Any]) -> None:
    """Raises ValueError when the adapter is more than an update scale B A of some weights."""
    other = [name for name in (*REFUSED, "fan_in_fan_out") if fields.get(name)]
    if fields.get("init_lora_weights") not in INITIALISED:
        other.append(f"init_lora_weights {jsonfile.short(fields['init_lora_weights'])}")
    if fields.get("peft_type") != "LORA" or other:
        kind = ", ".join([jsonfile.short(fields.get("peft_type")), *other])
        raise ValueError(f"{file}: {kind} adapters are not merged here; {ADVICE}")


def _module(key: str, base: Weights, place: str) -> tuple[str, str]:
    """(name in the base, what of an update the key holds, or nothing) of an adapter's key."""
    wrapped, _, part = key.removeprefix(WRAPPED).partition(".lora_")
    name = wrapped.replace(".base_layer", "")
    weight = f"{name}.weight" if part else name.replace(".modules_to_save", "")
    return name if weight in base.keys else place + name, part


def _embedding_alone(config: AdapterConfig) -> bool:
    """True where the embedding was trained as a module of its own, which the head does not follow."""
    saved = config.modules_to_save or []
    return any(f".{EMBEDDING}".endswith(f".{name}.weight") for name in saved) and not config.ensure_weight_tying


def _after(first: Change | None, then: Change) -> Change:
    return (lambda weight: then(first(weight))) if first else then


def _rank(adapter: Weights, a: str, b: str) -> int:
    """The rank of an update B A. Raises ValueError when there is no B, or when it does not go with A."""
    first, second = adapter.shape(a), adapter.shape(b)
    if len(first) != 2 or len(second) != 2 or first[0] != second[1] or not first[0]:
        raise ValueError(f"{adapter.source}: {a} {list(first)} and {b} {list(second)} are no update B A")
    return first[0]


# Run apart, since nothing stops a regular expression that backtracks without end. As PEFT matches: the first that fits.
_MATCH = """
import json, re, sys
patterns, modules = json.load(sys.stdin)
for pattern in patterns:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        json.dump([pattern, str(error)], sys.stdout)
        sys.exit(1)
ends = [re.compile(rf"(.*\\.)?({pattern})$") for pattern in patterns]
json.dump([next((i for i, end in enumerate(ends) if end.match(module)), None) for module in modules], sys.stdout)
"""


def _alphas(file: Path, config: AdapterConfig, modules: Iterable[str]) -> dict[str, float]:
    """Name of a module -> its alpha, which may differ by pattern.

    Raises ValueError when a pattern is no regular expression, or one that does not come to an end.
    """
    names, patterns = sorted({*modules}), config.alpha_pattern or {}
    alphas = dict.fromkeys(names, config.lora_alpha)
    if not patterns:
        return alphas
    run = [sys.executable, "-I", "-S", "-c", _MATCH]
    text = json.dumps([[*patterns], names])
    try:
        done = subprocess.run(run, input=text, capture_output=True, text=True, timeout=PATTERN_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        shown = ", ".join(map(jsonfile.short, patterns))
        raise ValueError(f"{file}: alpha_pattern: matching {shown} does not come to an end; {ADVICE}") from None
    if done.returncode or not done.stdout:
        pattern, why = json.loads(done.stdout) if done.stdout else ("", "cannot be matched")
        raise ValueError(f"{file}: alpha_pattern: {jsonfile.short(pattern)} is no regular expression: {why}")
    values = [*patterns.values()]
    for name, index in zip(names, json.loads(done.stdout), strict=True):
        if index is not None:
            alphas[name] = values[index]
    return alphas


@dataclass(frozen=True)
class Update:
    """Adds scale B A to a weight."""

    adapter: Weights
    a: str
    b: str
    scale: float
    rounded: bool  # B A to the dtype of B, and the sum to that of the weight

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError when a weight of this shape is none that the update goes with."""
        (_, inputs), (outputs, _) = (self.adapter.shape(key) for key in (self.a, self.b))
        found = [inputs, outputs] if self._turned else [outputs, inputs]
        if found != list(shape):
            raise ValueError(
                f"{self.adapter.source}: {self.a} changes a weight of shape {found}, the base has {list(shape)}: "
                "another model"
            )

    @property
    def _turned(self) -> bool:
        """An embedding's is [width, rank] @ [rank, rows]; any other is [out, rank] @ [rank, in]."""
        return "lora_embedding_A" in self.a

    def __call__(self, weight: Tensor) -> Tensor:
        first, second = (self.adapter.stored(key) for key in (self.a, self.b))
        update = (second.float() @ first.float()) * self.scale
        update = update.T if self._turned else update
        if not self.rounded:
            return weight.float() + update
        return (weight.float() + update.to(second.dtype).float()).to(weight.dtype)


def _replace(adapter: Weights, key: str, _: Tensor) -> Tensor:
    return adapter.take(key, *adapter.shape(key))
