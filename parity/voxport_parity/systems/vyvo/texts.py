"""VyvoTTS: the texts, voices and the recording in a golden's notes, and the prompts they become."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from voxport.audio import files
from voxport.audio.resample import resample_reference
from voxport.graphs.session import Array
from voxport.systems.vyvo.format import Dialect
from voxport.systems.vyvo.speaker import Speaker
from voxport.systems.vyvo.voice import Voice
from voxport_parity.trace import Golden, Trace

Wording = tuple[list[str], str | Voice | None]  # the text of every row, and the voice that says them

INPUT_IDS, MASK = ".input_ids", ".attention_mask"


class Texts:
    """What the golden's runs say, and who says it."""

    def __init__(self, speaker: Speaker, golden: Golden) -> None:
        self._speaker, self._golden = speaker, golden
        self._texts = golden.notes["texts"]

    def plain(self) -> Wording:
        return [self._texts["text"]], None

    def named(self) -> Wording | None:
        return ([self._texts["text"]], self._texts["voice"]) if "voice" in self._texts else None

    def cloned(self, rows: int) -> Wording | None:
        """The first texts that are said in the voice of the recording; None without a recording."""
        targets = self._texts.get("clone_targets", [])
        return (targets[:rows], self.friend) if targets and self._reference is not None else None

    def prompts(self, texts: Sequence[str], voice: str | Voice | None, dialect: Dialect = "current") -> list[list[int]]:
        return [self._speaker.prompt(text, voice, dialect) for text in texts]

    @cached_property
    def friend(self) -> Voice:
        """The voice of the recording."""
        assert self._reference is not None
        return self._speaker.enroll(self._reference, self._texts["clone_ref"])

    @cached_property
    def recording(self) -> Array | None:
        """The recording at the codec's rate, float32 [n]; None without one."""
        if self._reference is None:
            return None
        return resample_reference(*files.read(self._reference), self._speaker.sample_rate)

    @cached_property
    def _reference(self) -> str | None:
        name = self._golden.notes.get("files", {}).get("reference")
        if name is None or self._golden.folder is None:
            return None
        return str(self._golden.folder / name.split()[0])

    def trace(self) -> Trace:
        """Every prompt, batches padded as upstream pads them, and the recording."""
        plain, named = self.prompts(*self.plain()), self.named()
        outputs: Trace = {"prompt_ids": np.array(plain)}
        if named is not None:
            both = [*plain, *self.prompts(*named)]
            outputs["prompt_ids_voice"] = np.array(both[1:])
            outputs["batch_ids"], outputs["batch_mask"] = padded(self._speaker, both)
        for name, ids in self._golden.tensors.items():
            cloned = self.cloned(len(ids)) if name.endswith(INPUT_IDS) else None
            if cloned is not None:  # seed-era upstream's prompt goes on to the id that the model's answer begins with
                classic = int(ids[0, -1]) == self._speaker.format.ids["START_OF_AI"]
                prompts = self.prompts(*cloned, "classic" if classic else "current")
                run = name.removesuffix(INPUT_IDS)
                outputs[run + INPUT_IDS], outputs[run + MASK] = padded(self._speaker, prompts)
        if self.recording is not None:
            outputs["ref.wav24k"] = self.recording
        return outputs


def padded(speaker: Speaker, prompts: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """ids and mask int64 [rows, longest] as upstream lays a batch out: pads before each prompt, so all end together."""
    longest, pad = max(map(len, prompts)), speaker.format.ids["PAD_TOKEN"]
    ids = np.array([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts], np.int64)
    mask = np.array([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], np.int64)
    return ids, mask
