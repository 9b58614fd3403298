"""One generation of Qwen3-TTS: the row of the language model, its draws, its limit, and the events that come of it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from voxport import draws
from voxport.graphs.session import Array
from voxport.speech.limits import END, Limit, guarded_frames, smallest
from voxport.speech.longtext import Piece, address, spoken_letters
from voxport.speech.speech import Ended, Events, Token, Warned
from voxport.systems.qwen3tts.lm import LanguageModel, Row
from voxport.systems.qwen3tts.prompt import Prompt
from voxport.systems.qwen3tts.request import Request


class Letters:
    """How many letters (longtext.spoken_letters) of a text there have been so far."""

    def __init__(self, text: str | None) -> None:
        """`text`: None for one that comes piece by piece, through `counted`."""
        self.whole = text is not None
        self.total = spoken_letters(text or "")

    def counted(self, text: Iterable[str]) -> Iterator[str]:
        """The pieces of a text; their letters are added as they come."""
        for piece in text:
            self.total += spoken_letters(piece)
            yield piece


@dataclass(frozen=True)
class Generation:
    """One try of a piece of text. `limit()`: of its tokens, as far as the text has come."""

    row: Row
    limit: Callable[[], Limit]
    request: Request
    piece: Piece

    def events(self, frames: Iterable[Array]) -> Events:
        """Its frames int64 [books] as events, up to its end or its limit."""
        for frame in frames:
            yield Token(frame)
        if self.row.stopped == END:
            yield Ended(END)
            return
        limit = self.limit()
        yield Ended(limit.why)
        if not self.request.limited:
            yield Warned(self.piece.cut(limit))


class Generator:
    """Makes generations, and runs them one at a time."""

    def __init__(self, model: LanguageModel, context: int, sample_rate: int, frame: int) -> None:
        """`context`: tokens that the talker was trained for; `frame`: samples per frame, at `sample_rate` Hz."""
        self.model, self._context, self._sample_rate, self._frame = model, context, sample_rate, frame

    def generation(
        self, prompt: Prompt, letters: Letters, request: Request, piece: Piece, attempt: int = 0
    ) -> Generation:
        """ValueError when the context has no room for a frame after the prompt."""
        room = self._context - len(prompt.embeds)
        if room < 2:
            raise ValueError(
                f"{len(prompt.embeds)} tokens of text and voice do not fit the context of {self._context}; "
                "say the text in several calls"
            )

        def limit() -> Limit:
            guard = None
            if request.guarded:
                guard = 1 + guarded_frames(request.settings, letters.total, self._sample_rate, self._frame)
            return smallest(request.settings, room, guard)

        most = limit() if letters.whole else smallest(request.settings, room, None)
        stream, books = address("qwen3tts", piece.index, attempt), self.model.books
        row = Row(
            prompt,
            most.tokens,
            lambda: limit().tokens,
            lambda frame: draws.uniforms(request.seed, stream, frame, books),
        )
        return Generation(row, limit, request, piece)

    def run(self, generation: Generation) -> Events:
        """The events of a generation, made while they are iterated."""
        steps = self.model.generate([generation.row], generation.request.rule)
        return generation.events(frame for (frame,) in steps if frame is not None)
