"""manifest.json: everything about a bundle that its graphs do not say themselves."""

from typing import Annotated, Any

import msgspec

from voxport.recipe import Recipe

FORMAT = 2
MANIFEST = "manifest.json"

Setting = bool | int | float | str
StageName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_.]+\Z")]
Count = Annotated[int, msgspec.Meta(ge=0)]


class FileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content and size of a file."""

    sha256: str
    bytes: Count


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the weights came from. `repos`: id -> revision of those in models.lock that hold one of these files."""

    files: dict[str, FileRecord]
    repos: dict[str, str] = {}


class Cost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Operations of one call of a stage."""

    flops: Count
    int8_ops: Count


class StageRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What export measured of one stage.

    Costs are those of one call with the free axes of the graph at the sizes in `axes` (llvc: one chunk): bytes of
    weights read, floating-point and 8-bit operations (0 of a graph that was released as a file: nothing counts them).
    `growth`: operations where one of these axes is twice, then three times as long; they are proportional to an axis
    that is not named there. `error_db`: lowest signal-to-noise ratio of a quantized layer against fp32; `speed_up`: of
    its most expensive layer; `output_db`, `equal_ids`: signal-to-noise ratio of what the whole stage gives, and the
    share of ids that stay, for a made-up call. All are null where nothing is quantized, the last two also where nothing
    was compared. `streamed_db`: signal-to-noise ratio of what comes out in pieces beside what comes out at once, of a
    made-up input; null where both are the same but for rounding.
    """

    weight_bytes: Count
    flops: Count
    int8_ops: Count
    axes: dict[str, Annotated[int, msgspec.Meta(ge=1)]]
    growth: dict[str, tuple[Cost, Cost]] = {}
    error_db: float | None = None
    speed_up: float | None = None
    output_db: float | None = None
    equal_ids: float | None = None
    streamed_db: float | None = None


class Fidelity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What quantization did to a language model's logits, teacher forced, beside float32: means over positions."""

    kl: float  # nats, of the quantized distribution from that of float32
    top1: float  # share of positions with the same best id
    snr_db: float  # of the logits without their mean
    positions: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything about a bundle that its graphs do not say themselves.

    `recipe`: its rules as applied, with what `--gate` kept in fp32 last; `section`: what only this system needs, for
    `Bundle.section` to decode; `sampling`: every setting of `say` by name with its default; `voices`: names the
    checkpoint is known to speak as.
    """

    format: int
    system: str
    variant: str
    sample_rate: Annotated[int, msgspec.Meta(ge=1)]
    target: str
    recipe: Recipe
    source: Source
    tools: dict[str, str]
    stages: dict[StageName, StageRecord]
    files: dict[str, FileRecord]
    section: dict[str, Any]
    tokens: dict[str, int] = {}
    sampling: dict[str, Setting] = {}
    voices: list[str] = []
    fidelity: Fidelity | None = None
