"""Long silences: between language model and flow, of a run of silent tokens only the first few pass."""

# Upstream's "FSQ silent and breath token" (cli/model.py, CosyVoice3Model): of the released tokenizer, in no config.
SILENT = frozenset((1, 2, 28, 29, 55, 248, 494, 2241, 2242, 2322, 2323))
MOST = 5  # silent tokens in a row that pass (cli/model.py, llm_job: max_silent_token_num)


class SilenceFilter:
    """One generation's filter. The language model's own history keeps every token."""

    def __init__(self) -> None:
        self._run = 0

    def feed(self, token: int) -> int | None:
        """The token, or None when it is silent and at least MOST silent ones came right before it."""
        self._run = self._run + 1 if token in SILENT else 0
        return None if self._run > MOST else token
