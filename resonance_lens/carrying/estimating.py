"""From responses to numbers: gains under interventions, what places carry, what a chain of kernels explains.

Over prompts m, with the response ``H_m(f)`` of the whole model and ``K_m(f)`` under an intervention, vectors
of as many dimensions as the stream has:

- a **gain** is ``sqrt(mean over directions of norm(K_m)^2)``, averaged over prompts; a **coherent** gain is
  the size of the mean over prompts, from products of two different prompts alone: without its bias;
- what a place **carries** is ``1 - norm(K_m) / norm(H_m)``, all lines of a band and all directions together;
- what comes **through** it is ``Re <H_m - K_m, H_m> / norm(H_m)^2``: the part of the response that goes with
  the place, along the response. For a small drive it adds up over places beside each other;
- the share of the coherent response that something **explains** is ``1 - C(H - K) / C(H)``, where ``C(X)``
  is the mean of ``Re <X_m, X_n>`` over pairs of different prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from resonance_lens.carrying.measuring import Responses
from resonance_lens.stats.intervals import CONFIDENCE

Floats = NDArray[np.float64]
Values = NDArray[np.complexfloating]

FEWEST = 3
"""Prompts without which nothing is left when one is left out of pairs."""


@dataclass(frozen=True, eq=False)
class Spread:
    """An estimate that has no value for a prompt alone, with its bounds by leaving out one prompt at a time.

    Attributes
    ----------
    value, low, high
        Not-a-number of one prompt; the bounds of fewer than `FEWEST`.
    """

    value: Floats
    low: Floats
    high: Floats

    @staticmethod
    def of(value: Floats, without: Floats) -> Spread:
        """Return an estimate with the jackknife's interval, from those ``[prompt, ...]`` without each."""
        n = len(without)
        nothing = np.full_like(value, np.nan)
        if n < FEWEST:
            return Spread(value, nothing, nothing.copy())
        error = np.sqrt((n - 1) / n * ((without - without.mean(0)) ** 2).sum(0))
        half = stats.t.ppf((1 + CONFIDENCE) / 2, df=n - 1) * error
        return Spread(value, value - half, value + half)

    def rooted(self) -> Spread:
        """Return the roots of powers, with their signs."""
        return Spread(*(np.sign(each) * np.sqrt(np.abs(each)) for each in (self.value, self.low, self.high)))


def common_power(values: Values) -> tuple[Floats, Floats]:
    """Return the power of what all prompts have in common, and the same without each prompt.

    Parameters
    ----------
    values
        ``[prompt, direction, line, d_model]``.

    Returns
    -------
    tuple
        ``[line]`` and ``[prompt, line]``: means over directions of ``Re <X_m, X_n>`` over pairs of different
        prompts. Not-a-number where there is no pair.
    """
    n = len(values)
    size = _power(values)  # [prompt, direction, line]
    total = values.sum(0, dtype=np.complex128)
    every = size.sum(0)

    def pairs(together: Values, alone: Floats, count: int) -> Floats:
        if count < 2:
            return np.full(alone.shape[-1], np.nan)
        return np.asarray(((_power(together) - alone) / (count * (count - 1))).mean(0))

    without = [pairs(total - values[m], every - size[m], n - 1) for m in range(n)]
    return pairs(total, every, n), np.stack(without)


@dataclass(frozen=True, eq=False)
class Under:
    """Numbers under each intervention.

    Attributes
    ----------
    gain
        ``[prompt, intervention, layer, line]``.
    explained
        Share of each prompt's own response, of the same shape.
    coherent
        Coherent gain ``[intervention, layer, line]``.
    common
        Share of the coherent response that is explained, of the same shape; not-a-number where the coherent
        response is not surely above zero.
    whole
        The same of all lines together, ``[intervention, layer]``.
    """

    gain: Floats
    explained: Floats
    coherent: Spread
    common: Spread
    whole: Spread


def under(responses: Sequence[Responses], untouched: Values) -> Under:
    """Return the numbers of interventions, and behind them those of a stream that nothing is written to.

    Parameters
    ----------
    responses
        Of each prompt.
    untouched
        What such a stream answers: ``[direction, d_model]``.
    """
    n_interventions, n_layers, _, n_lines, _ = responses[0].under.shape
    shape = (n_interventions + 1, n_layers, n_lines)
    gain, explained = (np.empty((len(responses), *shape)) for _ in range(2))
    spreads: dict[str, list[Spread]] = {"coherent": [], "common": [], "whole": []}
    for at in range(n_layers):
        plain = _stacked(responses, lambda one, at=at: one.under[0, at])  # type: ignore[misc]
        sure = _sure(Spread.of(*common_power(plain)))
        for which in range(n_interventions + 1):
            if which < n_interventions:
                here = _stacked(responses, lambda one, at=at, i=which: one.under[i, at])  # type: ignore[misc]
            else:
                here = np.broadcast_to(untouched[:, None], plain.shape)
            left = plain - here
            gain[:, which, at] = np.sqrt(_power(here).mean(1))
            explained[:, which, at] = 1 - _power(left).sum(1) / _power(plain).sum(1)
            spreads["coherent"].append(Spread.of(*common_power(here)).rooted())
            spreads["common"].append(_share(plain, left, lambda power: power, sure))
            spreads["whole"].append(_share(plain, left, lambda power: power.sum(-1, keepdims=True)))

    def shaped(name: str) -> Spread:
        values = (
            np.stack([getattr(each, field) for each in spreads[name]]).reshape(n_layers, shape[0], -1)
            for field in ("value", "low", "high")
        )
        return Spread(*(np.swapaxes(each, 0, 1) for each in values))

    whole = shaped("whole")
    return Under(
        gain=gain,
        explained=explained,
        coherent=shaped("coherent"),
        common=shaped("common"),
        whole=Spread(whole.value[..., 0], whole.low[..., 0], whole.high[..., 0]),
    )


@dataclass(frozen=True, eq=False)
class Instead:
    """How much of the response under one intervention is there under another.

    Attributes
    ----------
    explained
        Share of each prompt's own response, ``[prompt, layer, line]``.
    common
        Share of the coherent response, all lines together, ``[layer]``.
    """

    explained: Floats
    common: Spread


def instead(responses: Sequence[Responses], whole: int, other: int | Values) -> Instead:
    """Return how much of the response under an intervention is there under another one.

    Parameters
    ----------
    responses
        Of each prompt.
    whole
        Number of the intervention.
    other
        Number of the other one, or what is answered in its place at every line: ``[direction, d_model]``.
    """
    explained, spreads = [], []
    for at in range(responses[0].under.shape[1]):
        first = _stacked(responses, lambda one, at=at: one.under[whole, at])  # type: ignore[misc]
        if isinstance(other, int):
            second = _stacked(responses, lambda one, at=at, i=other: one.under[i, at])  # type: ignore[misc]
        else:
            second = np.broadcast_to(other[:, None], first.shape)
        explained.append(1 - _power(first - second).sum(1) / _power(first).sum(1))
        spreads.append(_share(first, first - second, lambda power: power.sum(-1, keepdims=True)))
    values = (np.concatenate([getattr(one, field) for one in spreads]) for field in ("value", "low", "high"))
    return Instead(np.stack(explained, axis=1), Spread(*values))


@dataclass(frozen=True, eq=False)
class Held:
    """Numbers of places held one at a time, by band.

    Attributes
    ----------
    carried, through
        ``[prompt, place, band]``.
    coherent
        Share of the coherent gain that is gone, ``[place, band]``; not-a-number where there is surely none.
    """

    carried: Floats
    through: Floats
    coherent: Spread


def held(responses: Sequence[Responses], heard: int, bands: Sequence[Sequence[int]]) -> Held:
    """Return the numbers of places.

    Parameters
    ----------
    responses
        Of each prompt.
    heard
        Which of the layers of `Responses.under` was heard.
    bands
        Of each band, the indices of its lines.
    """

    def banded(values: Floats) -> Floats:
        return np.stack([values[..., list(band)].sum(-1) for band in bands], axis=-1)

    plain = _stacked(responses, lambda one: one.under[0, heard])  # [prompt, direction, line, d_model]
    power = banded(_power(plain).sum(1))  # [prompt, band]
    whole, whole_without = (banded(each) for each in common_power(plain))
    sure = _sure(Spread.of(whole, whole_without))
    n_places = len(responses[0].held)
    carried, through = (np.empty((len(responses), n_places, len(bands))) for _ in range(2))
    spreads = []
    for place in range(n_places):
        here = _stacked(responses, lambda one, at=place: one.held[at])  # type: ignore[misc]
        carried[:, place] = 1 - np.sqrt(banded(_power(here).sum(1)) / power)
        along = ((plain - here) * plain.conj()).real.sum(-1, dtype=np.float64)
        through[:, place] = banded(along.sum(1)) / power
        left, left_without = (banded(each) for each in common_power(here))
        spreads.append(Spread.of(_gone(left, whole, sure), _gone(left_without, whole_without, sure)))
    empty = np.empty((0, len(bands)))
    coherent = [
        np.stack([getattr(each, field) for each in spreads]) if spreads else empty
        for field in ("value", "low", "high")
    ]
    return Held(carried, through, Spread(*coherent))


def _share(
    plain: Values, left: Values, pooled: Callable[[Floats], Floats], sure: NDArray[np.bool_] | None = None
) -> Spread:
    """Return the share of the common power of a response that is not in what is left of it."""
    whole, whole_without = (pooled(each) for each in common_power(plain))
    rest, rest_without = (pooled(each) for each in common_power(left))
    sure = _sure(Spread.of(whole, whole_without)) if sure is None else sure
    return Spread.of(
        *(1 - a / np.where(sure, b, np.nan) for a, b in ((rest, whole), (rest_without, whole_without)))
    )


def _gone(left: Floats, whole: Floats, sure: NDArray[np.bool_]) -> Floats:
    ratio = left / np.where(sure & (whole > 0), whole, np.nan)
    return np.asarray(1 - np.sign(ratio) * np.sqrt(np.abs(ratio)))


def _sure(power: Spread) -> NDArray[np.bool_]:
    """Return where there is a common response: its lower bound is above zero."""
    return np.asarray(power.low > 0)


def _power(values: Values) -> Floats:
    real, imaginary = values.real.astype(np.float64), values.imag.astype(np.float64)
    return np.asarray((real**2 + imaginary**2).sum(-1))


def _stacked(responses: Sequence[Responses], pick: Callable[[Responses], Values]) -> Values:
    return np.stack([np.asarray(pick(one)) for one in responses])
