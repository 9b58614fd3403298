"""The systems voxport runs: what each kind of model can do, and where its class is. Only this file names them."""

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from voxport.bundle import Bundle
from voxport.graphs.session import Array

if TYPE_CHECKING:  # `import voxport` stays as quick as what it needs
    from voxport.rehearsal import Rehearsal
    from voxport.speech.rows import Stopwatch
    from voxport.speech.settings import Value
    from voxport.speech.speech import Speech
    from voxport.speech.voices import Voice

Mode = Literal["exact", "upstream", "offline"]  # of a Converter's streams


class Model(Protocol):
    """What every system offers, so that `verify` and `bench` need to know none of them."""

    bundle: Bundle

    @property
    def sample_rate(self) -> int:
        """Of the audio it makes, in Hz."""

    @property
    def clock(self) -> "Stopwatch | None":
        """Steps of its language model and the seconds they took; None where there is no language model."""

    def rehearse(self) -> "Rehearsal":
        """The outputs for fixed inputs that `golden/` records at export, by name."""

    def workload(self, seconds: float, chunk_factor: int = 1, /, **settings: "Value") -> Iterator[Array]:
        """About `seconds` of audio for benchmarks, float32 [n] piece by piece. `settings`: as `say` takes them."""


class Stream(Protocol):
    """A live stream through a Converter: float32 [n] at `rate` Hz in, float32 [m] at the model's rate out.

    It belongs to one thread at a time.
    """

    rate: int

    def feed(self, samples: Array) -> Array:
        """The next samples, any number; returns the samples that are ready."""

    def flush(self) -> Array:
        """Ends the stream and returns the samples that are still owed."""

    def convert(self, samples: Array) -> Array:
        """A whole signal at once, float32 [n] -> float32 [n] (at equal rates)."""


@runtime_checkable
class Converter(Model, Protocol):
    """Turns speech into speech in another voice. Several threads may use it at once, each with a stream of its own."""

    def stream(self, mode: Mode = "exact", chunk_factor: int = 1, rate: int | None = None) -> Stream:
        """An independent stream."""


@runtime_checkable
class Codec(Model, Protocol):
    """Turns samples into a codec's tokens and back."""

    def tokenize(self, samples: Array, rate: int) -> Array:
        """Samples float32 [n] at `rate` Hz -> the codec's tokens."""

    def detokenize(self, tokens: Array, seed: int = 0) -> Iterator[Array]:
        """The codec's tokens -> samples float32 [n], piece by piece."""


@runtime_checkable
class Speaker(Codec, Protocol):
    """Turns text into speech. Several threads may use it at once."""

    @property
    def voices(self) -> list[str]:
        """Names that `say` takes as `voice`."""

    def say(
        self,
        text: str,
        *,
        voice: "str | os.PathLike[str] | Voice | None" = None,
        language: str | None = None,
        instruct: str | None = None,
        ref_audio: str | os.PathLike[str] | None = None,
        ref_text: str | None = None,
        seed: int = 0,
        greedy: bool = False,
        stream: bool = True,
        **settings: "Value",
    ) -> "Speech":
        """Speech, made while it is iterated.

        `voice`: a name, an enrolled voice or the path of one; `language`: of the text; `instruct`: how to say it;
        `ref_audio`, `ref_text`: a recording to clone and what is said in it; `greedy`: the best token at every choice;
        `stream`: audio is handed out while it is made, so that nothing can be said again; `settings`: by upstream's
        names. Raises ValueError in one line, among others for an option that the system does not take, and for an
        unknown setting.
        """

    def enroll(self, path: str | os.PathLike[str], text: str | None) -> "Voice":
        """The voice of a recording in which `text` is said."""


@runtime_checkable
class Revoicer(Speaker, Protocol):
    """A Speaker that also says what a recording says, in another voice."""

    def revoice(
        self,
        samples: Array,
        rate: int,
        *,
        voice: "str | os.PathLike[str] | Voice | None" = None,
        ref_audio: str | os.PathLike[str] | None = None,
        stream: bool = True,
        **settings: "Value",
    ) -> "Speech":
        """The speech in samples float32 [n] at `rate` Hz, in the voice of `voice` or of the recording `ref_audio`."""


def _llvc(bundle: Bundle, threads: int | None) -> Converter:
    from voxport.systems.llvc.converter import Converter

    return Converter(bundle, threads=threads)


def _vyvo(bundle: Bundle, threads: int | None) -> Speaker:
    from voxport.systems.vyvo.speaker import Speaker

    return Speaker(bundle, threads=threads)


def _qwen3tts(bundle: Bundle, threads: int | None) -> Speaker:
    from voxport.systems.qwen3tts.speaker import Speaker

    return Speaker(bundle, threads=threads)


def _cosyvoice3(bundle: Bundle, threads: int | None) -> Speaker:
    from voxport.systems.cosyvoice3.speaker import Speaker

    return Speaker(bundle, threads=threads)


def _t5gemma(bundle: Bundle, threads: int | None) -> Speaker:
    from voxport.systems.t5gemma.speaker import Speaker

    return Speaker(bundle, threads=threads)


SYSTEMS: dict[str, Callable[[Bundle, int | None], Speaker | Converter]] = {
    "llvc": _llvc,
    "vyvo": _vyvo,
    "qwen3tts": _qwen3tts,
    "cosyvoice3": _cosyvoice3,
    "t5gemma": _t5gemma,
}


def open_model(bundle: Bundle, threads: int | None = None) -> Speaker | Converter:
    """The Speaker or Converter of an open bundle. ValueError for a system that this voxport does not know."""
    system = bundle.manifest.system
    if system not in SYSTEMS:
        raise ValueError(
            f"{bundle.path / 'manifest.json'}: system {system!r} is not one of {', '.join(SYSTEMS)}; "
            "a newer voxport may know it"
        )
    try:
        return SYSTEMS[system](bundle, threads)
    except KeyError as error:
        raise ValueError(f"{bundle.path / 'manifest.json'}: lacks {error}; export the bundle again") from None
