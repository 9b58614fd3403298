"""What T5Gemma-TTS reads before it speaks: ids, codes and the length that is expected."""

import msgspec
import numpy as np
import pytest

from voxport.codecs.xcodec2 import CodecSection
from voxport.systems.t5gemma.prompt import Prompts, Reference
from voxport.systems.t5gemma.section import RopeSection, Section

TOKENS = {"empty": 256, "eog": 257, "pad": 258, "eos": 259, "y_sep": 260, "x_sep": 511}
ROPE = RopeSection(10000.0, 16)
SECTION = Section(
    codes=256,
    context=12,
    frame_rate=50.0,
    progress=True,
    progress_scale=2000.0,
    most_seconds=40.0,
    guard=0,
    bos=0,
    eos=0,
    parallel=False,
    encoder=ROPE,
    decoder=ROPE,
    codec=CodecSection(256, 16000, 320, chunk=50, context=100, ahead=10),
)
REFERENCE = Reference([1, 2], np.array([7, 8, 9], np.int64))


def prompts(**changes: object) -> Prompts:
    return Prompts(msgspec.structs.replace(SECTION, **changes), TOKENS)


def test_without_a_recording_the_decoder_reads_one_token_and_no_separator_goes_in() -> None:
    prompt = prompts().prompt([5, 6], 0.9)
    assert prompt.text == [5, 6]
    assert prompt.audio.tolist() == [256]
    assert prompt.audio.dtype == np.int64
    assert (prompt.frames, prompt.target_total, prompt.expected) == (0, 45, 46)
    assert prompt.codes.shape == (0,)


def test_a_recording_comes_first_on_both_sides_with_a_separator_after_it() -> None:
    prompt = prompts().prompt([5, 6], 0.99, REFERENCE)
    assert prompt.text == [1, 2, 511, 5, 6]
    assert prompt.audio.tolist() == [256, 7, 8, 9, 260]
    assert prompt.codes.tolist() == [7, 8, 9, 260]
    assert (prompt.frames, prompt.target_total, prompt.expected) == (4, 4 + 49, 4 + 50)


def test_far_too_many_copies_are_refused_before_they_take_memory() -> None:
    assert prompts(most_seconds=0.2).prompt([5], 1.0, REFERENCE, 3).frames == 13
    assert prompts().prompt([5], 1.0, REFERENCE, 4).frames == 16
    with pytest.raises(ValueError, match=r"^repeat_prompt 4: 5 times 3 frames are too long for a prompt$"):
        prompts(most_seconds=0.2).prompt([5], 1.0, REFERENCE, 4)
    assert prompts(most_seconds=0.01, context=2).prompt([5], 1.0, Reference([], REFERENCE.codes)).frames == 4


@pytest.mark.parametrize(("repeat", "copies"), [(0, 1), (2, 3), (None, 6)])
def test_codes_of_a_recording_are_repeated_as_often_as_is_asked_for_or_as_they_fit(
    repeat: int | None, copies: int
) -> None:
    # 20 frames: 6 copies and 1.5 frames of speech are below them, a seventh would not be
    prompt = prompts(most_seconds=0.4).prompt([5], 0.03, REFERENCE, repeat)
    assert prompt.codes.tolist() == [7, 8, 9] * copies + [260]
    assert prompt.target_total == int(len(prompt.codes) + 1.5)


def test_as_many_copies_as_fit_are_fewer_than_the_length_that_they_would_reach() -> None:
    prompt = prompts(most_seconds=0.42).prompt([5], 0.0, REFERENCE, None)  # 21 frames: seven copies are not less
    assert len(prompt.codes) == 6 * 3 + 1
    assert len(prompts().prompt([5], 100.0, REFERENCE, None).codes) == 3 + 1


def test_an_empty_recording_has_no_separator_and_is_repeated_for_ever_by_nobody() -> None:
    prompt = prompts().prompt([5], 1.0, Reference([1], np.empty(0, np.int64)), None)
    assert prompt.text == [1, 511, 5]
    assert prompt.audio.tolist() == [256]


def test_ids_around_a_text_go_around_the_transcript_too() -> None:
    prompt = prompts(bos=2, eos=1).prompt([5], 1.0, REFERENCE)
    assert prompt.text == [2, 1, 2, 511, 5, 1]


def test_upstreams_parallel_pattern_expects_two_frames_more() -> None:
    assert prompts(parallel=True).prompt([5], 0.9).target_total == 47


def test_progress_is_complete_at_the_last_token_of_a_prompt_that_is_longer_than_all_that_is_expected() -> None:
    prompt = prompts().prompt([5], 0.0, REFERENCE)
    assert (prompt.target_total, prompt.expected) == (4, 5)


def test_a_text_beyond_the_context_is_refused() -> None:
    assert len(prompts().prompt([5] * 12, 1.0).text) == 12
    with pytest.raises(ValueError, match=r"^13 tokens of text do not fit the context of 12; say the text in sev"):
        prompts().prompt([5] * 10, 1.0, REFERENCE)
