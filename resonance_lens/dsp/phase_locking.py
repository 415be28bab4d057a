"""Phase locking between series, all pairs at once: from spectra of segments, or from analytic signals.

Every function takes complex samples ``[sample, ..., series]`` and returns ``[..., series, series]``. A sample
is whatever is repeated: a segment of a record (at each frequency), a prompt, a token of a band-passed record.
``X_g`` is series g, ``S = X_g conj(X_h)``, ``u = S / abs(S)``; means are over the n samples.

Phases are those of S: above zero where g is ahead. There is no volume conduction between heads, so that a
phase difference of zero is as good as another. `phase_lag_index` and what comes after it do not see it: they
are specific to a lag, not cleaner.

Samples count as independent in every statement about bias. Tokens of a record with bandwidth B are not: T of
them count for about ``2 B T / 1.5``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from resonance_lens.dsp.hilbert import Band, analytic_signal
from resonance_lens.dsp.large import large_empty, one_thread
from resonance_lens.errors import ActivationError, AxisError, ParameterError, RecordError, unknown
from resonance_lens.signal import Signal

Measure = Literal["plv", "ppc", "ciplv", "pli", "wpli", "wpli2_debiased"]

BINS_AT_ONCE = 4
"""Matrices of 270 heads in double precision that are made at one time: they stay in the cache."""

NUMBERS_AT_ONCE = 2**17
"""Products of series that are held for every sample at one time: they stay in the cache."""

LEAST_ROWS = 4
"""Series whose products with all others are held at one time, however many samples there are."""


def phase_locking_value(samples: Tensor, there: Tensor | None = None) -> Tensor:
    """Return ``abs(mean u)``, the mean resultant length of phase differences, in [0, 1].

    Parameters
    ----------
    samples
        Complex ``[sample, ..., series]``. A value of zero has no phase, and counts as no agreement.
    there
        Booleans that broadcast to ``[sample, ...]``: which samples count. All of them if not said.

    Returns
    -------
    Tensor
        ``[..., series, series]``; the diagonal is 1.

    Raises
    ------
    RecordError
        If there are no complex samples, or none that count at some place.
    ActivationError
        If a sample that counts is not finite.

    Notes
    -----
    Biased upwards: ``sqrt(pi / (4 n))`` for independent phases. `pairwise_phase_consistency` is not.
    """
    return _by_products(_units(_prepared(samples, there)), lambda c, s, n: torch.hypot(c, s) / n)


def pairwise_phase_consistency(samples: Tensor, there: Tensor | None = None) -> Tensor:
    """Return the mean cosine between the phase differences of two samples, over all pairs of samples.

    ``(n PLV^2 - 1) / (n - 1)`` (Vinck et al. 2010): zero on average for independent uniform phases, 1 if
    phase differences are always the same, at least ``-1 / (n - 1)``. For two heads that keep to a direction
    that both have in common, each with a von Mises spread, it is the product of their ``A(kappa)^2``.
    Parameters, result and errors as of `phase_locking_value`; two samples at least.
    """
    found = _prepared(samples, there)
    found.at_least(2, "A pairwise phase consistency")
    return _by_products(_units(found), lambda c, s, n: ((c.square() + s.square()) / n - 1) / (n - 1))


def corrected_imaginary_locking(samples: Tensor, there: Tensor | None = None) -> Tensor:
    """Return ``abs(Im mean u) / sqrt(1 - (Re mean u)^2)``, in [0, 1] (ciPLV, Bruna et al. 2018).

    0 on the diagonal, and where all phase differences are 0 or pi. Otherwise as `phase_locking_value`.
    """

    def measure(c: Tensor, s: Tensor, n: Tensor) -> Tensor:
        real, imaginary = (c / n).clamp(-1, 1), s.abs() / n
        rounding = 16 * torch.finfo(c.dtype).eps
        aside = imaginary > rounding
        # A root has no gradient at zero, where nothing is asked of it.
        rest = torch.where(aside, 1 - real.square(), 1.0).clamp_min(rounding**2).sqrt()
        return torch.where(aside, imaginary / rest, 0.0).clamp(max=1.0)

    return _by_products(_units(_prepared(samples, there)), measure)


def phase_lag_index(samples: Tensor, there: Tensor | None = None) -> Tensor:
    """Return ``abs(mean sign Im S)``, in [0, 1] (Stam et al. 2007): whether one series is always ahead.

    Biased upwards: .273, .177 and .112 for 9, 20 and 50 independent samples. 0 on the diagonal. Otherwise
    as `phase_locking_value`.
    """
    return _by_rows(_prepared(samples, there), lambda total, n, *_: total.abs() / n, signs=True)


def weighted_phase_lag_index(samples: Tensor, there: Tensor | None = None) -> Tensor:
    """Return ``abs(mean Im S) / mean abs(Im S)``, in [0, 1] (wPLI, Vinck et al. 2011).

    Biased upwards: .336, .225 and .142 for 9, 20 and 50 independent samples with Gaussian imaginary part.
    0, as on the diagonal, where all imaginary parts are 0. Otherwise as `phase_locking_value`.
    """
    return _by_rows(_prepared(samples, there), lambda total, _, size, *__: total.abs() / size)


def debiased_weighted_phase_lag_index(samples: Tensor, there: Tensor | None = None) -> Tensor:
    """Return the debiased square of wPLI (Vinck et al. 2011): zero on average for independent samples.

    ``((sum Im S)^2 - sum (Im S)^2) / ((sum abs(Im S))^2 - sum (Im S)^2)``: the mean over pairs of samples
    of the products of imaginary parts, weighted; it may be below zero. 0, as on the diagonal, where all
    imaginary parts are 0. Otherwise as `phase_locking_value`; two samples at least.
    """
    found = _prepared(samples, there)
    found.at_least(2, "A debiased weighted phase lag index")

    def measure(total: Tensor, _: Tensor, size: Tensor, squares: Tensor) -> Tensor:
        pairs = size.square() - squares
        # A single sample that is not 0 makes no pair.
        return torch.where(pairs > 0, (total.square() - squares) / pairs, 0.0)

    return _by_rows(found, measure, squares=True)


MEASURES: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "plv": phase_locking_value,
    "ppc": pairwise_phase_consistency,
    "ciplv": corrected_imaginary_locking,
    "pli": phase_lag_index,
    "wpli": weighted_phase_lag_index,
    "wpli2_debiased": debiased_weighted_phase_lag_index,
}
"""By the names that they have in MNE-Connectivity."""


def phase_locking(
    x: Signal | Tensor,
    dim: str | int,
    series: str | int,
    *,
    band: Band | None,
    measure: Measure = "ppc",
    lengths: Tensor | None = None,
) -> Tensor:
    """Return how series are locked along an ordered axis, in a band: samples are its positions.

    Parameters
    ----------
    x
        A signal, or a real tensor.
    dim
        The ordered axis: a name for a signal, a number for a tensor.
    series
        The axis of what is compared with each other, such as ``head``.
    band
        ``(low, high)`` in cycles per token; see `analytic_signal`. A cycle of its lower edge is left out at
        both ends of each record. ``None``: the whole spectrum and all positions, for phases that have been
        made narrow before.
    measure
        One of `MEASURES`.
    lengths
        Positions of each record of a tensor, ``[...]`` without the two axes.

    Returns
    -------
    Tensor
        ``[..., series, series]``.

    Raises
    ------
    AxisError, ParameterError, RecordError
        As `analytic_signal` does, if there is no such measure, or if nothing is left between the ends.
    """
    if measure not in MEASURES:
        raise ParameterError(unknown("measure of phase locking", measure, MEASURES))
    if isinstance(x, Signal):
        if not isinstance(series, str):
            raise AxisError(f"A signal's axis goes by its name, one of {', '.join(x.axes)}; got {series!r}.")
        values = analytic_signal(x, dim, band=band).values
        of, along = x.dim(series), x.dim(str(dim))
        counts = None
        if x.lengths is not None:
            beside = [axis for axis in x.axes if axis not in (dim, series)]
            shape = [-1 if axis == "batch" else 1 for axis in beside]
            counts = x.lengths.to(values.device).reshape(shape)
    else:
        if isinstance(series, str) or isinstance(dim, str):
            raise AxisError("A tensor's axes go by their numbers; signals have named axes.")
        of, along = series % x.ndim, dim % x.ndim
        counts = None if lengths is None else lengths.to(x.device)
        spread = None if counts is None else counts.unsqueeze(of - (along < of))
        values = analytic_signal(x, dim, band=band, lengths=spread)
    if of == along:
        raise AxisError("Series are compared along an axis other than their own.")
    samples = values.movedim((along, of), (0, -1))  # [position, ..., series]
    edge = 0 if band is None else int(-(-1 // band[0]))
    n = len(samples)
    position = torch.arange(n, device=samples.device).reshape(-1, *[1] * (samples.ndim - 2))
    last = n if counts is None else counts
    there = (position >= edge) & (position < last - edge)
    return MEASURES[measure](samples, there)


class _Samples:
    """Samples of all places, real and imaginary part apart.

    Attributes
    ----------
    real, imaginary
        ``[place, sample, series]``, zero where a sample does not count.
    n
        How many count, ``[place]``.
    shape
        Of the result.
    """

    def __init__(self, real: Tensor, imaginary: Tensor, n: Tensor, shape: tuple[int, ...]) -> None:
        self.real, self.imaginary, self.n, self.shape = real, imaginary, n, shape

    def at_least(self, n: int, what: str) -> None:
        """Raise `RecordError` unless n samples count at every place."""
        if int(self.n.min()) < n:
            raise RecordError(f"{what} needs at least {n} samples; at one place {int(self.n.min())} count.")


def _prepared(samples: Tensor, there: Tensor | None) -> _Samples:
    if not samples.is_complex() or samples.ndim < 2:
        raise RecordError(
            "Phase locking needs complex samples [sample, ..., series], such as spectra or analytic signals; "
            f"got {samples.dtype} of shape {tuple(samples.shape)}."
        )
    n_samples, *beside, n_series = samples.shape
    if there is None:
        counts = samples.new_full(tuple(beside), n_samples, dtype=torch.long)
    else:
        there = there.to(samples.device).expand(n_samples, *beside)
        counts = there.sum(0)
        samples = torch.where(there[..., None], samples, torch.zeros_like(samples))
    if not samples.numel() or int(counts.min()) < 1:
        raise RecordError("Phase locking needs at least one sample and one series at every place.")
    found = samples.movedim(0, -2).reshape(-1, n_samples, n_series)
    real, imaginary = found.real.contiguous(), found.imag.contiguous()
    if not bool(torch.isfinite(real.sum() + imaginary.sum())):
        raise ActivationError("Phase locking needs finite numbers; a sample holds others.")
    return _Samples(real, imaginary, counts.reshape(-1), (*beside, n_series, n_series))


def _units(found: _Samples) -> _Samples:
    """Return the samples with modulus one, or zero where they are zero."""
    size = torch.hypot(found.real, found.imaginary).clamp_min(torch.finfo(found.real.dtype).tiny)
    return _Samples(found.real / size, found.imaginary / size, found.n, found.shape)


@one_thread()
def _by_products(found: _Samples, measure: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Return a measure of the real and imaginary parts of ``sum S``, which are real matrix products."""
    n_series = found.real.shape[-1]
    out = large_empty((len(found.real), n_series, n_series), found.real)
    for start in range(0, len(out), BINS_AT_ONCE):
        here = slice(start, start + BINS_AT_ONCE)
        real, imaginary, n = found.real[here], found.imaginary[here], found.n[here]
        both = torch.cat([real, imaginary], dim=1)
        product = imaginary.mT @ real
        cosine, sine = both.mT @ both, product - product.mT  # Re and Im of X_g conj(X_h)
        out[here] = measure(cosine, sine, n[:, None, None].to(real.dtype))
    return out.reshape(found.shape)


@one_thread()
def _by_rows(
    found: _Samples, measure: Callable[..., Tensor], *, signs: bool = False, squares: bool = False
) -> Tensor:
    """Return a measure of the imaginary parts ``Im S``, of which sums of sizes have no matrix form.

    Parameters
    ----------
    found
        The samples.
    measure
        Given ``sum Im S`` as ``[row, series]``, the number of samples, ``sum abs(Im S)``, and, if
        ``squares``, ``sum (Im S)^2``.
    signs
        Whether the first of these is ``sum sign Im S`` instead.

    Notes
    -----
    Measures are symmetric: a row is made from the diagonal on, and mirrored. Where all imaginary parts are
    rounding errors of the products that they are made of, 0/0 is 0. Not differentiable: signs are steps, and
    sizes have no gradient where phases agree, as those of each series and itself do.
    """
    if torch.is_grad_enabled() and found.real.requires_grad:
        raise ActivationError(
            "A phase lag index is made of signs or sizes of imaginary parts, which have no gradient where "
            "phases agree, as those of each series and itself do; detach the samples, or take the "
            "phase-locking value."
        )
    n_samples, n_series = found.real.shape[1:]
    rounding = 8 * torch.finfo(found.real.dtype).eps
    at_once = max(LEAST_ROWS, NUMBERS_AT_ONCE // (n_samples * n_series))
    out = large_empty((len(found.real), n_series, n_series), found.real)
    # Rooms to work in: to come by new ones for every few rows takes longer than to fill them.
    room = found.real.new_empty(n_samples * at_once * n_series)
    sums = found.real.new_zeros(3 if squares else 2, n_series, n_series)  # above the diagonal, over samples
    for place, (first, second) in enumerate(_imaginary_factors(found)):
        modulus = torch.hypot(found.real[place], found.imaginary[place])  # [sample, series]
        smallest = modulus.mT @ modulus
        for row in range(0, n_series, at_once):
            rows, n_rows = slice(row, row + at_once), min(at_once, n_series - row)
            shape = (n_samples, n_rows, n_series - row)
            parts = torch.bmm(first[:, rows], second[:, :, row:], out=room[: math.prod(shape)].view(shape))
            total, size, *more = sums[:, rows, row:]
            torch.sum(parts.sign() if signs else parts, dim=0, out=total)
            for each in more:
                torch.sum(parts.square(), dim=0, out=each)
            torch.sum(parts.abs_(), dim=0, out=size)
        total, size, *more = sums
        value = measure(total, found.n[place].to(out.dtype), size, *more)
        upper = value.masked_fill_(size <= smallest.mul_(rounding), 0.0).triu_(1)
        torch.add(upper, upper.mT, out=out[place])
    return out.reshape(found.shape)


def _imaginary_factors(found: _Samples) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for each place two tensors whose product over two dimensions is ``Im S`` of every sample."""
    for real, imaginary in zip(found.real, found.imaginary, strict=True):
        yield torch.stack([imaginary, real], dim=-1), torch.stack([real, -imaginary], dim=1)
