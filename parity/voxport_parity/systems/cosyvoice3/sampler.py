"""Fun-CosyVoice3: upstream's sampler and its filter of silences, row by row, with upstream's draws."""

import numpy as np

from voxport.graphs.session import Array
from voxport.systems.cosyvoice3.ras import Ras
from voxport.systems.cosyvoice3.silence import SilenceFilter
from voxport_parity.trace import Golden, Trace

CASES = ("sampler.rows", "sampler.history", "sampler.draw_q", "sampler.draw_len")
DRAWS = ("llm.ras_draw_q", "llm.ras_draw_len")
SILENCE = "llm.silent_filter_in"


class Draws:
    """Draws of upstream's in their order, and the sizes that were asked for.

    Whoever asks for other sizes has left upstream's way: then any of the numbers do.
    """

    def __init__(self, numbers: Array, sizes: Array) -> None:
        self._draws = np.split(numbers, np.cumsum(sizes)[:-1]) if len(sizes) else []
        self.sizes: list[int] = []

    def __call__(self, _address: int, size: int) -> Array:
        """See `ras.Draws`."""
        number, count = len(self.sizes), len(self._draws)
        self.sizes.append(size)
        return np.resize(self._draws[number % count], size) if count else np.ones(size, np.float32)


def none(_address: int, size: int) -> Array:
    """Draws where nothing is drawn."""
    return np.ones(size, np.float32)


def has_draws(golden: Golden) -> bool:
    """Whether the golden holds the draws of its sampled run."""
    return all(name in golden.tensors for name in DRAWS)


def draws(golden: Golden) -> "Draws":
    """Those of the golden's sampled run."""
    numbers, sizes = (golden.tensors[name] for name in DRAWS)
    return Draws(numbers, sizes)


def ras(golden: Golden) -> Ras:
    """The sampler with the settings that the golden's notes hold."""
    settings = golden.notes["settings"]["ras"]
    return Ras(settings["top_p"], settings["top_k"], settings["win_size"], settings["tau_r"])


def drawn(golden: Golden, scores: Array, tokens: list[int]) -> Trace:
    """scores [steps, ids] of the sampled run, its tokens -> sizes and winners of the draws, every step by itself."""
    if not has_draws(golden):
        return Trace()
    sampler, numbers = ras(golden), draws(golden)
    choices = [sampler.choose(row, tokens[:step], numbers) for step, row in enumerate(scores)]
    picks = [pick for choice in choices for pick in choice.picks]
    return {"llm.ras_draw_len": np.array(numbers.sizes), "llm.ras_draw_pick": np.array(picks)}


def trace(golden: Golden) -> Trace:
    """What the golden says of the sampler and of the filter; nothing of what it does not hold."""
    return _silence(golden) | _cases(golden)


def _cases(golden: Golden) -> Trace:
    """Scores with a history each, of no model."""
    if not all(name in golden.tensors for name in CASES):
        return Trace()
    rows, history, numbers, sizes = (golden.tensors[name] for name in CASES)
    numbered, sampler = Draws(numbers, sizes), ras(golden)
    choices = [sampler.choose(row, tokens.tolist(), numbered) for row, tokens in zip(rows, history, strict=True)]
    return {
        "sampler.pick": np.array([choice.token for choice in choices]),
        "sampler.n_draws": np.array([len(choice.picks) for choice in choices]),
        "sampler.draw_len": np.array(numbered.sizes),
    }


def _silence(golden: Golden) -> Trace:
    if SILENCE not in golden.tensors:
        return Trace()
    silence = SilenceFilter()
    tokens = [silence.feed(token) for token in golden.tensors[SILENCE].tolist()]
    return {"llm.silent_filter_out": np.array([token for token in tokens if token is not None])}
