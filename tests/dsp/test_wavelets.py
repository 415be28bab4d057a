"""Wavelet transforms, against PyWavelets on each record by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resonance_lens.dsp import wavelets
from resonance_lens.dsp.wavelets import MODES, dwt, max_level, shortest_record, swt
from resonance_lens.errors import ActivationError, AxisError, ParameterError, RecordError
from resonance_lens.signal import Signal

Floats = NDArray[np.float64]
WAVELETS = ("haar", "db2", "db4", "sym5", "bior2.2")


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    wavelets._cache.clear()
    yield
    wavelets._cache.clear()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def pywt_scales(x: Floats, wavelet: str, level: int, mode: str) -> list[Floats]:
    import pywt

    return list(pywt.wavedec(x, wavelet, mode=mode, level=level)[::-1])


def by_matrix(x: torch.Tensor, **about: object) -> wavelets.Coefficients:
    """Return the transform made as it is on a GPU, by asking for a gradient."""
    return dwt(x.clone().requires_grad_(), -1, **about)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wavelet", WAVELETS)
@pytest.mark.parametrize("n", [64, 51])
def test_coefficients_are_those_of_pywavelets(wavelet: str, mode: str, n: int) -> None:
    x = noise(3, 2, n)
    level = max_level(n, wavelet)
    for found in (dwt(x, -1, wavelet=wavelet, mode=mode), by_matrix(x, wavelet=wavelet, mode=mode)):
        assert found.level == level
        for place in np.ndindex(3, 2):
            expected = pywt_scales(x[place].numpy(), wavelet, level, mode)
            for scale, each in zip(found.scales, expected, strict=True):
                assert scale.dtype == torch.float64
                np.testing.assert_allclose(scale[place].detach(), each, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_a_record_comes_back_from_its_coefficients(mode: str) -> None:
    import pywt

    x = noise(4, 50)
    scales = [scale.numpy() for scale in dwt(x, -1, wavelet="db3", mode=mode).scales]
    back = pywt.waverec(scales[::-1], "db3", mode=mode, axis=-1)
    np.testing.assert_allclose(back[:, :50], x, atol=1e-10)


@pytest.mark.parametrize("n", [1, 2, 5, 6, 11, 12, 23, 24, 512, 1000])
@pytest.mark.parametrize("wavelet", WAVELETS)
def test_the_deepest_level_is_that_of_pywavelets(n: int, wavelet: str) -> None:
    import pywt

    assert max_level(n, wavelet) == pywt.dwt_max_level(n, pywt.Wavelet(wavelet).dec_len)
    for level in (1, 2, 3):
        needed = shortest_record(level, wavelet)
        assert max_level(needed, wavelet) == level > max_level(needed - 1, wavelet)


@given(st.integers(0, 10**6), st.sampled_from(["haar", "db2", "sym4"]), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_periodization_keeps_the_energy(seed: int, wavelet: str, level: int) -> None:
    x = noise(2, 64, seed=seed)
    found = dwt(x, -1, wavelet=wavelet, mode="periodization", level=level)
    torch.testing.assert_close(found.energy().sum(-1), x.square().sum(-1), rtol=1e-10, atol=0)
    torch.testing.assert_close(found.shares().sum(-1), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("wavelet", WAVELETS[:4])  # the orthogonal ones
@pytest.mark.parametrize("n, level", [(64, 2), (48, 1)])
def test_the_stationary_transform_is_that_of_pywavelets(wavelet: str, n: int, level: int) -> None:
    """PyWavelets takes records to go round, of a multiple of ``2^level`` positions."""
    import pywt

    x = noise(2, 3, n)
    found = swt(x, -1, wavelet=wavelet, level=level, mode="periodic")
    expected = pywt.swt(x.numpy(), wavelet, level=level, axis=-1, trim_approx=True, norm=True)
    for scale, each in zip(found.scales, expected[::-1], strict=True):
        np.testing.assert_allclose(scale, each, atol=1e-10)
    torch.testing.assert_close(found.energy().sum(-1), x.square().sum(-1), rtol=1e-10, atol=0)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "periodization"])
@pytest.mark.parametrize("n, level", [(37, 2), (50, 3)])
def test_a_record_is_continued_as_pywavelets_does(mode: str, n: int, level: int) -> None:
    """Of any length: PyWavelets continues the record, transforms all that, and the middle is ours."""
    import pywt

    x = noise(n)
    before = 64
    after = -(n + before) % 2**level + before
    longer = pywt.pad(x.numpy(), (before, after), mode)
    expected = pywt.swt(longer, "db2", level=level, trim_approx=True, norm=True)
    found = swt(x, 0, wavelet="db2", level=level, mode=mode)
    for scale, each in zip(found.scales, expected[::-1], strict=True):
        np.testing.assert_allclose(scale, each[before : before + n], atol=1e-10)


def test_a_shifted_record_has_shifted_coefficients() -> None:
    x = noise(2, 45)
    one, other = (swt(y, -1, level=2, mode="periodic") for y in (x, x.roll(7, -1)))
    for a, b in zip(one.scales, other.scales, strict=True):
        torch.testing.assert_close(a.roll(7, -1), b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("transform", [dwt, swt])
def test_records_of_unequal_length_are_what_they_are_alone(transform: object) -> None:
    assert callable(transform)
    lengths = [40, 25, 40, 33]
    x = noise(4, 3, 40)
    for row, length in enumerate(lengths):
        x[row, :, length:] = torch.nan
    together = transform(x, -1, lengths=torch.tensor(lengths)[:, None])
    signal = Signal(x, ("batch", "d_model", "token"), lengths=torch.tensor(lengths))
    named = transform(signal, "token")
    assert together.level == max_level(25)
    for row, length in enumerate(lengths):
        alone = transform(x[row, :, :length], -1, level=together.level)
        for index, scale in enumerate(alone.scales):
            size = scale.shape[-1]
            for many in (together, named):
                torch.testing.assert_close(many.scales[index][row][:, :size], scale, rtol=0, atol=1e-12)
                assert not many.scales[index][row][:, size:].any()
        torch.testing.assert_close(together.energy()[row], alone.energy())
        torch.testing.assert_close(together.scale_entropy()[row], alone.scale_entropy())
        torch.testing.assert_close(together.entropy()[row], alone.entropy())


def test_entropies_are_those_of_a_loop() -> None:
    x = noise(3, 60)
    found = dwt(x, -1, wavelet="db3", level=2, mode="zero")
    for row in range(3):
        scales = pywt_scales(x[row].numpy(), "db3", 2, "zero")
        each = [np.square(scale) / np.square(scale).sum() for scale in scales]
        expected = [-sum(p * math.log(p) for p in scale) for scale in each]
        np.testing.assert_allclose(found.scale_entropy()[row], expected, rtol=1e-10)
        whole = np.square(np.concatenate(scales))
        whole /= whole.sum()
        assert float(found.entropy()[row]) == pytest.approx(-(whole * np.log(whole)).sum(), rel=1e-10)


@given(st.integers(0, 10**6), st.integers(12, 90), st.sampled_from(sorted(MODES)))
@settings(max_examples=25, deadline=None)
def test_the_whole_entropy_is_that_between_scales_and_that_within(seed: int, n: int, mode: str) -> None:
    found = dwt(noise(n, seed=seed), 0, mode=mode)
    shares = found.shares()
    between = -(shares * shares.log()).sum()
    within = (shares * found.scale_entropy()).sum()
    assert float(found.entropy()) == pytest.approx(float(between + within), rel=1e-9)


def test_a_sinusoid_is_on_the_level_of_its_period() -> None:
    """In the middle of a level's octave, and with a filter long enough to tell octaves apart."""
    t = torch.arange(512, dtype=torch.float64)
    for level in (1, 2, 3, 4):
        period = 2 ** (level + 0.5)
        found = dwt((2 * math.pi * t / period).cos(), 0, wavelet="db8", level=5, mode="periodization")
        assert int(found.shares().argmax()) == level - 1
        low, high = found.periods[level - 1]
        assert low < period < high


def test_one_key_has_all_of_its_scales_in_few_coefficients_and_a_plateau_has_none() -> None:
    impulse = torch.zeros(64, dtype=torch.float64)
    impulse[20] = 1
    found = dwt(impulse, 0, wavelet="haar", mode="periodization")
    np.testing.assert_allclose(found.scale_entropy(), 0, atol=1e-12)  # one coefficient on every scale
    even = dwt(torch.ones(64), 0, wavelet="haar", mode="periodization")
    assert bool(even.scale_entropy()[:-1].isnan().all()) and float(even.shares()[-1]) == pytest.approx(1)
    nothing = dwt(torch.zeros(64), 0)
    assert bool(nothing.scale_entropy().isnan().all()) and bool(nothing.entropy().isnan())


@pytest.mark.parametrize("transform", [dwt, swt])
def test_single_precision_is_close(transform: object) -> None:
    assert callable(transform)
    x = noise(5, 200)
    for double, single in zip(transform(x, -1).scales, transform(x.float(), -1).scales, strict=True):
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-4)


@pytest.mark.parametrize("transform", [dwt, swt])
def test_gradients_are_those_of_finite_differences(transform: object) -> None:
    assert callable(transform)

    def entropy(x: torch.Tensor) -> torch.Tensor:
        found = transform(x, -1, level=2)
        return torch.cat([found.scale_entropy(), found.entropy()[:, None]], dim=-1)

    assert torch.autograd.gradcheck(entropy, noise(2, 24).requires_grad_())


def test_matrices_are_made_once_and_not_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    x = noise(2, 64)
    by_matrix(x)
    (kept,) = wavelets._cache.values()
    by_matrix(x)
    assert list(wavelets._cache.values())[0] is kept
    monkeypatch.setattr(wavelets, "CACHE_BYTES", kept.nbytes + 1)
    by_matrix(noise(2, 60))
    assert len(wavelets._cache) == 1 and list(wavelets._cache.values())[0] is not kept


def test_what_cannot_be_transformed_is_refused() -> None:
    x = noise(2, 30)
    signal = Signal(noise(1, 5, 30), ("batch", "token", "d_model"))
    with pytest.raises(AxisError, match="no wavelet transform over 'd_model'"):
        dwt(signal, "d_model")
    with pytest.raises(
        RecordError, match="db2 to level 1 needs records of at least 6 positions; the shortest has 5"
    ):
        dwt(x[:, :5], -1)
    with pytest.raises(RecordError, match="to level 4 needs records of at least 48 positions"):
        swt(x, -1, level=4)
    with pytest.raises(ParameterError, match="no wavelet 'db02'.*Did you mean 'db"):
        dwt(x, -1, wavelet="db02")
    with pytest.raises(ParameterError, match="no mode 'symetric'.*Did you mean 'symmetric'"):
        dwt(x, -1, mode="symetric")
    with pytest.raises(ParameterError, match="'level' parameter"):
        dwt(x, -1, level=0)
    with pytest.raises(RecordError, match="real numbers"):
        dwt(x.to(torch.complex128), -1)
    with pytest.raises(ActivationError, match="finite"):
        dwt(torch.full((2, 30), torch.nan), -1)
