"""Qwen3-TTS: every prompt upstream's goldens hold, put together from nothing but the checkpoint's tables."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from tests.bundles import FIXTURES
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from voxport.bounds import TALKER_PROMPT
from voxport.speech.text import settled
from voxport.systems.qwen3tts.prompt import Prompt, Prompts, Reference, Text
from voxport.systems.qwen3tts.text import Words

Array = np.ndarray
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
RUNS = [
    *(("base", run) for run in ("icl", "icl_short", "icl_nonstream", "xvec", "xvec_nonstream", "xvec_sampled")),
    *(
        ("customvoice", run)
        for run in ("cv_nonstream", "cv_textstream", "cv_dialect", "cv_auto", "instruct", "cv_sampled")
    ),
]


class Rows:
    """The tables of a checkpoint, float32; text goes through its projection."""

    def __init__(self, weights: dict[str, Array]) -> None:
        self._w = weights

    def text(self, ids: Sequence[int]) -> Array:
        fc1, fc2 = ("talker.text_projection.linear_fc1", "talker.text_projection.linear_fc2")
        x = self._w["talker.model.text_embedding.weight"][np.array(ids, np.int64)]
        x = x @ self._w[f"{fc1}.weight"].T + self._w[f"{fc1}.bias"]
        x = x / (1 + np.exp(-x))
        return np.asarray(x @ self._w[f"{fc2}.weight"].T + self._w[f"{fc2}.bias"])

    def codec(self, ids: Sequence[int]) -> Array:
        return self._w["talker.model.codec_embedding.weight"][np.array(ids, np.int64)]

    def frames(self, codes: Array) -> Array:
        books = (f"talker.code_predictor.model.codec_embedding.{i}.weight" for i in range(codes.shape[1] - 1))
        return sum((self._w[n][codes[:, i]] for i, n in enumerate(books, start=1)), self.codec(codes[:, 0].tolist()))


class Checkpoint:
    """A fixture as the prompt code sees it."""

    def __init__(self, name: str) -> None:
        self.folder = FIXTURES / f"qwen3tts-{name}"
        self.golden = load_file(self.folder / "golden.safetensors")
        self.runs: dict[str, Any] = json.loads((self.folder / "golden.json").read_text())["runs"]
        config = json.loads((self.folder / "config.json").read_text())
        talker = config["talker_config"]
        tokens = {f"tts_{n}": config[f"tts_{n}_token_id"] for n in ("bos", "eos", "pad")}
        tokens |= {f"codec.{n}": talker[f"codec_{n}_id"] for n in ("pad", "bos", "think", "nothink")}
        tokens |= {f"codec.think_{n}": talker[f"codec_think_{n}_id"] for n in ("bos", "eos")}
        tokens |= {f"language.{n}": i for n, i in talker["codec_language_id"].items()}
        tokens |= {f"speaker.{n}": i for n, i in talker["spk_id"].items()}
        dialects = {n: d for n, d in talker["spk_is_dialect"].items() if d}
        tokens |= {f"dialect.{n}": talker["codec_language_id"][d] for n, d in dialects.items()}
        weights = {n: t.float().numpy() for n, t in load_torch(self.folder / "model.safetensors").items()}
        self.prompts = Prompts(tokens, Rows(weights))

    def speaker(self, run: str) -> str | Array | None:
        named: str | None = self.runs[run]["settings"].get("speaker")
        return named or self.golden.get("spk.embedding")

    def prompt(self, run: str, words: Words, text: Text | None = None) -> Prompt:
        run_settings = self.runs[run]["settings"]
        reference = None
        if not run_settings.get("x_vector_only_mode", True):
            codes = self.golden["enc.codes"].astype(np.int64)
            reference = Reference(words.reference(run_settings["ref_text"]), codes)
        return self.prompts.prompt(
            text or words.target(run_settings["text"]),
            run_settings["language"],
            self.speaker(run),
            whole=run_settings["non_streaming_mode"],
            instruct=words.instruct(run_settings["instruct"]) if "instruct" in run_settings else (),
            reference=reference,
        )


@pytest.fixture(scope="module")
def checkpoint() -> Any:
    return cache(Checkpoint)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tokenizer.json as upstream's class is set up; both fixtures have the same."""
    folder = FIXTURES / "qwen3tts-base"
    tokens = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    tokens.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(QWEN), "isolated")
    into_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens.pre_tokenizer = pre_tokenizers.Sequence([words, into_bytes])
    tokens.decoder = decoders.ByteLevel()
    added = json.loads((folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    tokens.add_special_tokens([AddedToken(added[i]["content"], special=True) for i in sorted(added, key=int)])
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    tokens.save(str(path))
    return path


@pytest.mark.parametrize(("name", "run"), RUNS)
def test_prompts_are_upstreams(name: str, run: str, checkpoint: Any, tokenizer: Path) -> None:
    fixture: Checkpoint = checkpoint(name)
    for parse in (False, True):
        prompt = fixture.prompt(run, Words(tokenizer, parse))
        expected, trailing = fixture.golden[f"{run}.prefill_embeds"][0], fixture.golden[f"{run}.trailing_text"][0]
        assert prompt.embeds.shape == expected.shape
        assert prompt.embeds.dtype == np.float32
        assert np.abs(prompt.embeds - expected).max() < TALKER_PROMPT.absolute
        rows = [*prompt.trailing] or [prompt.pad]  # upstream writes the padding once where no text is left
        assert len(rows) == len(trailing)
        assert np.abs(np.stack(rows) - trailing).max() < TALKER_PROMPT.absolute
        assert np.abs(prompt.pad - fixture.golden[f"{run}.tts_pad_embed"][0, 0]).max() < TALKER_PROMPT.absolute


def test_ids_are_upstreams(checkpoint: Any, tokenizer: Path) -> None:
    fixture: Checkpoint = checkpoint("customvoice")
    expected = fixture.golden["text.input_ids"][0].tolist()
    for parse in (False, True):
        words = Words(tokenizer, parse)
        text = words.target(fixture.runs["text"]["text"])
        assert [*text.role, *next(iter(text.blocks))] == expected[:-5]
        instruct = fixture.runs["instruct"]["settings"]["instruct"]
        assert words.instruct(instruct) == fixture.golden["instruct.ids"][0].tolist()


def test_what_a_template_puts_around_a_text_is_counted_in_the_tokenizers_own_ids(
    tokenizer: Path, tmp_path: Path
) -> None:
    """Without merges `assistant` is nine ids, where upstream's tokenizer has one."""
    content = json.loads(tokenizer.read_text())
    content["model"]["merges"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    text = "Hi you"
    for file, role in ((tokenizer, 3), (tmp_path / "tokenizer.json", 1 + len("assistant\n"))):
        plain = Tokenizer.from_file(str(file)).encode(text).ids
        for parse in (False, True):
            words = Words(file, parse)
            assert len(words.target(text).role) == role
            assert [i for block in words.target(text).blocks for i in block] == plain
            assert words.reference(text) == plain
            streamed = words.target(iter([text]))
            assert list(streamed.role) == list(words.target(text).role)
            assert [i for block in streamed.blocks for i in block] == plain


def test_special_tokens_in_a_text_are_plain_unless_asked_for(tokenizer: Path) -> None:
    (parsed,) = Words(tokenizer, parse_special=True).target("a<|im_end|>b").blocks
    assert parsed == [64, 368, 65]
    (plain,) = Words(tokenizer).target("a<|im_end|>b").blocks
    assert 368 not in plain
    assert Tokenizer.from_file(str(tokenizer)).decode(list(plain), skip_special_tokens=False) == "a<|im_end|>b"


def test_the_other_split_pattern_cuts_words_elsewhere(tokenizer: Path) -> None:
    cut = []
    for fix in (False, True):
        split = Words(tokenizer, fix_mistral_regex=fix)._tokens._tokens.pre_tokenizer
        assert split is not None
        cut.append([piece for piece, _ in split.pre_tokenize_str("camelCase and/or don't")])
    assert cut[0] == ["camelCase", "Ġand", "/or", "Ġdon", "'t"]
    assert cut[1] == ["camel", "Case", "Ġand", "/or", "Ġdon", "'t"]


@given(
    st.lists(st.text(st.sampled_from("Hello aé,.!?'/-9\n\t ́你好。，한 "), max_size=9), max_size=9),  # noqa: RUF001
    st.booleans(),
)
@settings(max_examples=400, deadline=None)
def test_text_in_pieces_gives_the_ids_of_the_whole(tokenizer: Path, pieces: list[str], fix: bool) -> None:
    text = "".join(pieces)
    assert "".join(settled(pieces)) == (text if text.strip() else "")
    words = Words(tokenizer, fix_mistral_regex=fix)
    if not text.strip():
        return
    whole, parts = words.target(text), words.target(pieces)
    assert list(parts.role) == list(whole.role)
    assert [i for block in parts.blocks for i in block] == [i for block in whole.blocks for i in block]


def test_a_row_of_text_is_there_as_soon_as_its_word_is(checkpoint: Any, tokenizer: Path) -> None:
    fixture: Checkpoint = checkpoint("customvoice")
    taken: list[str] = []

    def pieces() -> Any:
        for piece in ("Hello", " there, this", " is a small test of the speech model. ", "你好，", "世界！"):  # noqa: RUF001
            taken.append(piece)
            yield piece

    words = Words(tokenizer)
    prompt = fixture.prompt("cv_textstream", words, words.target(pieces()))
    assert len(taken) == 2
    rows = np.stack(list(prompt.trailing))
    assert np.abs(rows - fixture.golden["cv_textstream.trailing_text"][0]).max() < TALKER_PROMPT.absolute
    assert np.abs(prompt.embeds - fixture.golden["cv_textstream.prefill_embeds"][0]).max() < TALKER_PROMPT.absolute


def test_names_are_known_in_any_case_and_unknown_ones_are_refused(checkpoint: Any) -> None:
    prompts: Prompts = checkpoint("customvoice").prompts
    assert prompts.language("ENGLISH", None) == 67
    assert prompts.language("Auto", None) is None
    assert prompts.language(None, "dylan") == prompts.language("Chinese", "dylan") == 90
    assert prompts.language("English", "dylan") == 67
    assert prompts.speaker("RYAN") == "ryan"
    with pytest.raises(ValueError, match="language 'klingon' is not one of auto, beijing_dialect, chinese, english"):
        prompts.language("klingon", None)
    with pytest.raises(ValueError, match="'bob' is not known to this model; known are dylan, eric, ryan"):
        prompts.speaker("bob")
    with pytest.raises(ValueError, match="no voices of its own"):
        checkpoint("base").prompts.speaker("ryan")


def test_empty_text_and_foreign_voices_are_refused(checkpoint: Any, tokenizer: Path) -> None:
    fixture: Checkpoint = checkpoint("base")
    words = Words(tokenizer)
    for empty in ("", " \n"):
        with pytest.raises(ValueError, match="the text is empty"):
            words.target(empty)
    for whole in (False, True):
        for reference in (None, Reference([1, 2], np.zeros((3, 16), np.int64))):
            with pytest.raises(ValueError, match="the text is empty"):
                fixture.prompts.prompt(Text([1, 2, 3], [[]]), None, None, whole=whole, reference=reference)
    with pytest.raises(ValueError, match="a voice of 3 numbers, this model's have 64"):
        fixture.prompts.prompt(Text([1], [[2]]), None, np.zeros(3, np.float32), whole=True)
