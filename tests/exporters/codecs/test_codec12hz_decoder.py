"""The decoder of the 12 Hz codec computes what upstream's does: net, graph and stream."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.exporters.codecs.codec12hz_cases import (
    BASE,
    CROSS,
    CUSTOM,
    DECODERS,
    LAYER,
    QUICK,
    STREAM,
    WAVE,
    Array,
    RandomWeights,
    Sessions,
    close,
    drawn,
    parts,
    session,
    splits,
    stepped,
    zeros,
)

from voxport.codecs.codec12hz import Codec, after_reference
from voxport_exporters.codecs.codec12hz import decoder as nets
from voxport_exporters.codecs.codec12hz import stages as codec12hz
from voxport_exporters.codecs.codec12hz.config import DecoderConfig
from voxport_exporters.graphs.part import Part
from voxport_exporters.nets.taps import tapped


@pytest.mark.parametrize("name", [CUSTOM, BASE])
def test_every_layer_of_the_decoder_is_upstreams(name: str, goldens: dict[str, dict[str, Array]]) -> None:
    golden, part = goldens[name], parts(name)["codec_decode"]
    with torch.no_grad(), tapped() as taps:
        wave, *_ = part.net(torch.from_numpy(golden["dec.probe_codes"][0].T).long(), *zeros(part))
    close(wave.flatten(), golden["dec.probe_wav"].flatten(), WAVE)
    compared = {key for key in golden if key.startswith("dec.") and key in taps}
    assert {k for k in golden if k.startswith("dec.")} - compared <= {
        "dec.probe_codes", "dec.probe_wav", "dec.full_wav", "dec.chunked_5_3_wav", "dec.chunked_8_12_wav"
    }  # fmt: skip
    for key in compared:
        close(taps[key], golden[key], LAYER)


@pytest.mark.parametrize(("name", "target"), [*QUICK, *CROSS])
def test_the_graph_decodes_every_golden(
    name: str, target: str, goldens: dict[str, dict[str, Array]], sessions: Sessions
) -> None:
    golden, decoder = goldens[name], Codec(sessions(name, target, "codec_decode"), 64)
    close(decoder.decode(golden["dec.probe_codes"][0].T), golden["dec.probe_wav"].flatten(), WAVE)
    codes = golden["cv_nonstream.codes" if name == CUSTOM else "icl.codes"]
    close(decoder.decode(codes), golden["cv_nonstream.wav" if name == CUSTOM else "dec.full_wav"].flatten(), WAVE)
    for chunk, context in ((5, 3), (8, 12)):
        key = f"dec.chunked_{chunk}_{context}_wav"
        if key in golden:
            close(decoder.chunked(codes, chunk, context), golden[key].flatten(), WAVE)
    if name == BASE:  # a clone in context: the reference's frames go first, then their samples are cut
        first = golden["enc.codes"]
        both = decoder.decode(np.concatenate((first, codes)))
        close(both[after_reference(len(first), len(first) + len(codes), len(both)) :], golden["icl.wav"], WAVE)
        primed = decoder.stream()
        primed.feed(first)
        close(primed.feed(codes), golden["icl.wav"][-len(codes) * decoder.frame :], WAVE)


@pytest.mark.parametrize(("name", "target"), QUICK)
def test_any_split_decodes_to_the_same_samples(name: str, target: str, sessions: Sessions) -> None:
    graph = sessions(name, target, "codec_decode")
    decoder = Codec(graph, 64)

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(sizes=splits, seed=st.integers(0, 2**32))
    def holds(sizes: list[int], seed: int) -> None:
        codes = drawn(seed, 64, sum(sizes), decoder.books)
        stream, at, pieces = decoder.stream(), np.cumsum([0, *sizes]), []
        for start, end in pairwise(at):
            pieces.append(stream.feed(codes[start:end]))
        whole, _ = graph(graph.start(), codes=codes)
        close(np.concatenate(pieces), whole["wave"].reshape(-1), STREAM)
        close(decoder.decode(codes), whole["wave"].reshape(-1), STREAM)

    holds()


@pytest.mark.parametrize("change", DECODERS.values(), ids=DECODERS)
@given(sizes=splits)
@settings(max_examples=10, deadline=None, derandomize=True)
def test_any_split_of_any_config_decodes_to_the_same_samples(change: dict[str, Any], sizes: list[int]) -> None:
    config = DecoderConfig.of(change)
    part = Part(codec12hz.decode_stage(config), nets.Decoder(RandomWeights(), config), axes={"frames": 4})
    codes = torch.from_numpy(drawn(1, config.codebook_size, sum(sizes), config.num_quantizers))
    close(stepped(part, codes, sizes=sizes), stepped(part, codes, sizes=[len(codes)]), STREAM)


@pytest.mark.parametrize(
    ("which", "target"),
    [
        ("odd", "cpu"),
        pytest.param("odd", "portable", marks=pytest.mark.slow),
        pytest.param("window of one frame", "cpu", marks=pytest.mark.slow),
        pytest.param("window of one frame", "portable", marks=pytest.mark.slow),
    ],
)
def test_the_decoder_graph_of_any_config_is_its_net(which: str, target: str, tmp_path: Path) -> None:
    config = DecoderConfig.of(DECODERS[which])
    part = Part(codec12hz.decode_stage(config), nets.Decoder(RandomWeights(), config), axes={"frames": 4})
    decoder = Codec(session(part, target, tmp_path), config.codebook_size)
    codes = drawn(2, config.codebook_size, 31, config.num_quantizers)
    expected = stepped(part, torch.from_numpy(codes), sizes=[31]).flatten()
    close(decoder.decode(codes), expected, 1e-5)
    stream = decoder.stream()
    close(np.concatenate([stream.feed(codes[i : i + 1]) for i in range(31)]), expected, 1e-5)


def test_the_window_forgets_what_left_it() -> None:
    """Frames further back than the window and the convolutions reach change nothing; those within it do."""
    config = DecoderConfig.of({**DECODERS["odd"], "num_hidden_layers": 1, "upsample_rates": [2], "latent_dim": 6})
    part = Part(codec12hz.decode_stage(config), nets.Decoder(RandomWeights(), config), axes={"frames": 4})
    codes = torch.from_numpy(drawn(3, 11, 40, 3))
    reach = 2 + 3 + 6 + 6 + 1 + 78 // 6 + 1  # pre_conv, window, and the rest in frames of 3 to 6 steps, rounded up
    changed = codes.clone()
    changed[5] = (changed[5] + 1) % 11
    difference = (stepped(part, codes, sizes=[40]) - stepped(part, changed, sizes=[40])).abs().amax(1)
    assert (difference[:5] == 0).all()
    assert difference[5] > 0
    assert (difference[5 + reach :] == 0).all()


def test_bad_codes_are_refused(sessions: Sessions) -> None:
    decoder = Codec(sessions(BASE, "cpu", "codec_decode"), 64)
    assert len(decoder.decode(np.empty((0, 16), np.int64))) == 0
    with pytest.raises(ValueError, match="code 64 is not one of"):
        decoder.decode(np.full((1, 16), 64))
    with pytest.raises(ValueError, match="code -1"):
        decoder.decode(np.full((1, 16), -1))
    with pytest.raises(ValueError, match=r"wanted codes int \[frames, 16\]"):
        decoder.decode(np.zeros((1, 8), np.int64))
    with pytest.raises(ValueError, match="chunk of at least 1 frame"):
        decoder.chunked(np.zeros((1, 16), np.int64), 0)


@pytest.mark.parametrize(
    ("change", "law"),
    [
        ({"head_dim": 7}, "head_dim is 7, wanted an even one"),
        ({"num_key_value_heads": 5}, "num_key_value_heads"),
        ({"sliding_window": None}, "sliding_window is null"),
        ({"hidden_act": "swish9"}, "hidden_act"),
        ({"decoder_dim": 7, "upsample_rates": [2, 2, 2]}, "decoder_dim"),
    ],
)
def test_a_config_that_cannot_be_is_refused(change: dict[str, Any], law: str) -> None:
    with pytest.raises(ValueError, match=law):
        DecoderConfig.of(change)
