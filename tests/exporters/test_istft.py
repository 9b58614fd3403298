"""STFT and ISTFT as convolutions are torch's, whole and in pieces."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from voxport_exporters.nets.istft import Istft, Stft, hann
from voxport_exporters.nets.states import States

SIZES = [(16, 4), (10, 3), (4, 2), (12, 5), (6, 1)]  # hops that divide the window, and such that do not


def pieces_of(net: Istft, spectrum: Tensor, sizes: list[int]) -> Tensor:
    """The frames, then as many that are not there (NaN would spread if they were used)."""
    state, out, at, reach = torch.zeros(net.state), [], 0, net.reach
    frames = spectrum.shape[-1]
    more = torch.cat((spectrum, torch.full((*spectrum.shape[:2], reach), 1e3)), dim=2)
    present = (torch.arange(frames + reach) < frames).float()
    for size in [*sizes, frames + reach - sum(sizes)]:
        states = States([state])
        out.append(net(more[..., at : at + size], present[at : at + size], states))
        (state,) = states.after
        at += size
    return torch.cat(out)


@pytest.mark.parametrize(("n_fft", "hop"), SIZES)
def test_a_spectrum_is_torchs(n_fft: int, hop: int) -> None:
    x = torch.randn(1, 31 * hop, generator=torch.Generator().manual_seed(0))
    expected = torch.stft(x, n_fft, hop, n_fft, hann(n_fft).float(), return_complex=True)
    mirrored = torch.nn.functional.pad(x[None], (n_fft // 2, n_fft // 2), mode="reflect")
    got = Stft(hann(n_fft), hop)(mirrored)
    torch.testing.assert_close(got, torch.cat((expected.real, expected.imag), dim=1), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("n_fft", "hop"), SIZES)
@given(sizes=st.lists(st.integers(1, 9), max_size=4))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_samples_are_torchs_at_both_ends_too(n_fft: int, hop: int, sizes: list[int]) -> None:
    """Ports were off by one frame here. Of random spectra, which are those of no signal."""
    random = torch.Generator().manual_seed(1)
    real, imaginary = (torch.randn(1, n_fft // 2 + 1, 40, generator=random) for _ in range(2))
    expected = torch.istft(torch.complex(real, imaginary), n_fft, hop, n_fft, hann(n_fft).float())[0]
    got = pieces_of(Istft(hann(n_fft), hop), torch.cat((real, imaginary), dim=1), sizes)
    torch.testing.assert_close(got[n_fft // 2 :][: len(expected)], expected, rtol=1e-5, atol=2e-6)
    assert len(expected) == 39 * hop


@pytest.mark.parametrize(("n_fft", "hop"), SIZES)
def test_a_signal_at_once_begins_where_its_first_window_does(n_fft: int, hop: int) -> None:
    net = Istft(hann(n_fft), hop)
    spectrum = torch.randn(1, n_fft + 2, 20, generator=torch.Generator().manual_seed(2))
    whole = net.whole(spectrum)
    assert len(whole) == (20 + net.reach - 1) * hop
    torch.testing.assert_close(whole, pieces_of(net, spectrum, [])[: len(whole)], rtol=1e-5, atol=2e-6)
