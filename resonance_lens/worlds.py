"""Worlds in which the nulls of claims are true, and what is planted in them, for `Analysis.trial`.

A test that keeps its word in one kind of noise may break it in another. So there are four worlds, for
attention and for entropies over depth, and in each of them something can be planted in known places. What is
drawn comes from the generator alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from resonance_lens.contract import Planted
from resonance_lens.errors import ParameterError, unknown
from resonance_lens.facts import Facts
from resonance_lens.planting import attention_facts, softmax_rows

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

WORLDS = ("iid", "autocorrelated", "unequal", "persistent")
"""Scores of attention are independent; follow those of the query before; are independent in prompts of very
unequal lengths; or belong to the key, so that all queries of a prompt look at the same keys."""

WHERE = {
    "iid": "where all is independent",
    "autocorrelated": "where noise is autocorrelated",
    "unequal": "where sizes are unequal",
    "persistent": "where noise persists",
}
"""The worlds in sentences."""

PROMPTS = 20
"""Prompts of one trial."""

SHORTEST, LONGEST = 20, 28
"""Tokens of a prompt, where lengths are nearly equal."""

FOLLOWING = 0.9
"""Correlation of what follows what it comes after, in the autocorrelated world."""

SHARPNESS = (0.5, 2.5)
"""Standard deviation of a head's scores: between nearly even attention and nearly one key."""

PEAK = 0.12
"""Width of a planted peak, as a share of the window."""

PLACE = 0.75
"""Where a planted peak is in the window: 0 the oldest key, 1 the newest."""

VOCABULARY = 64
"""Tokens that an imagined model chooses between: entropies are below ``ln 64`` = 4.16 nat."""


def lengths(rng: np.random.Generator, world: str, n_prompts: int) -> Tensor:
    """Return the tokens of each prompt: nearly equal, or from 9 to 48.

    Raises
    ------
    ParameterError
        If there is no such world.
    """
    if world not in WORLDS:
        raise ParameterError(unknown("world", world, WORLDS))
    if world == "unequal":
        return torch.as_tensor(np.geomspace(9, 48, n_prompts).round().astype(np.int64))
    return torch.as_tensor(rng.integers(SHORTEST, LONGEST + 1, size=n_prompts))


def scores(rng: np.random.Generator, world: str, shape: tuple[int, ...]) -> Floats:
    """Return standard normal scores ``[..., query, key]``; keys can be exchanged in every world."""
    if world == "persistent":
        of_key = rng.normal(size=(*shape[:-2], 1, shape[-1]))
        return np.broadcast_to(of_key, shape)
    drawn = rng.normal(size=shape)
    return _following(drawn, axis=-2) if world == "autocorrelated" else drawn


def heads(
    rng: np.random.Generator,
    world: str,
    strength: float,
    variable: str,
    *,
    n_prompts: int = PROMPTS,
    n_layers: int = 2,
    n_heads: int = 12,
) -> Planted:
    """Return heads whose keys can be exchanged, some of them with a peak at one place of the window.

    Each head has its own sharpness and its own preference for the first key.

    Parameters
    ----------
    rng
        Everything random comes from it.
    world
        One of `WORLDS`.
    strength
        Height of the peak, in nat of the attention score; at 0 there is none.
    variable
        Of the claim, whose family is layers and heads.
    n_prompts, n_layers, n_heads
        How many. The peaks are in the first half of the heads of the last layer.
    """
    facts = attention_facts(n_layers=n_layers, n_heads=n_heads)
    tokens = lengths(rng, world, n_prompts)
    n = int(tokens.max())
    truth = np.zeros((n_layers, n_heads), dtype=bool)
    if strength > 0:
        truth[-1, : n_heads // 2] = True
    peak = strength * _peak(_places(n), PLACE)  # [query, key]
    layers = []
    for planted in truth:
        drawn = scores(rng, world, (n_prompts, n_heads, n, n)) * _sharpness(rng, n_heads)
        drawn = drawn + planted[:, None, None] * peak
        layers.append({"pattern": _attention(rng, drawn, facts, tokens)})
    return Planted(layers, tokens, facts, _nothing, truth={variable: truth})


def layers_in_step(
    rng: np.random.Generator,
    world: str,
    strength: float,
    variable: str,
    *,
    n_prompts: int = PROMPTS,
    n_layers: int = 6,
    n_heads: int = 3,
) -> Planted:
    """Return heads that agree through positions alone, and layers in which they move together.

    In every prompt each head prefers the same place of the window, and the heads of a layer nearly the
    same, so they agree across prompts as much as within them. What is planted is a second place that all
    heads of a layer prefer in one prompt, and that is another in each prompt.

    Parameters
    ----------
    rng, world
        As in `heads`; scores are independent between heads.
    strength
        Height of the common peak, in nat of the attention score; at 0 there is none.
    variable
        Of the claim, whose family is layers.
    n_prompts, n_layers, n_heads
        How many. The common peaks are in the last third of the layers.
    """
    facts = attention_facts(n_layers=n_layers, n_heads=n_heads)
    tokens = lengths(rng, world, n_prompts)
    n = int(tokens.max())
    place = _places(n)
    truth = np.zeros(n_layers, dtype=bool)
    if strength > 0:
        truth[-(n_layers // 3) :] = True
    layers = []
    for planted in truth:
        own = rng.uniform(0, 1) + rng.normal(0, 0.1, size=(n_heads, 1, 1))
        drawn = scores(rng, world, (n_prompts, n_heads, n, n)) * _sharpness(rng, n_heads)
        drawn = drawn + rng.uniform(0, 2) * _peak(place, own)
        common = rng.uniform(0, 1, size=(n_prompts, 1, 1, 1))
        if planted:
            drawn = drawn + strength * _peak(place, common)
        layers.append({"pattern": _attention(rng, drawn, facts, tokens)})
    return Planted(layers, tokens, facts, _nothing, truth={variable: truth})


def descents(
    rng: np.random.Generator,
    world: str,
    strength: float,
    variable: str,
    *,
    n_prompts: int = PROMPTS,
    n_layers: int = 8,
) -> Planted:
    """Return a residual stream whose entropy falls alike at every layer, and more at one than at another.

    Falls of entropy are independent (``iid``, and ``unequal``, where a short prompt has fewer positions
    to average over), follow that of the layer before, or come in few steps, at layers and of a size that
    each prompt has of its own (``persistent``). In each, all layers have the same distribution.

    Parameters
    ----------
    rng, world
        As in `heads`.
    strength
        What is added to the fall at one layer and taken from it at another, so that the even descent of a
        prompt stays what it is, in standard deviations of the independent falls; at 0 nothing.
    variable
        Of the claim, whose family is layers.
    n_prompts, n_layers
        How many.
    """
    facts = attention_facts(n_layers=n_layers, n_heads=1, d_model=VOCABULARY, d_vocab=VOCABULARY)
    tokens = torch.as_tensor(rng.integers(4, 9, size=n_prompts))
    if lengths(rng, world, n_prompts).min() < SHORTEST:
        tokens = torch.as_tensor(np.geomspace(2, 24, n_prompts).round().astype(np.int64))
    shape = (n_prompts, int(tokens.max()), n_layers - 1)
    if world == "persistent":
        size = np.exp(rng.uniform(np.log(0.3), np.log(2.4), size=(n_prompts, 1, 1)))
        falls = size * rng.dirichlet(np.full(shape[-1], 0.5), size=(n_prompts, 1)) + np.zeros(shape)
    else:
        drawn = rng.normal(size=shape)
        drawn = _following(drawn, axis=-1) if world == "autocorrelated" else drawn
        falls = 0.05 + 0.4 * stats.norm.cdf(drawn)  # evenly between 0.05 and 0.45 nat
    truth = np.zeros(n_layers, dtype=bool)
    if strength > 0:
        more, less = n_layers - 2, 2
        truth[[more, less]] = True
        spread = 0.4 / np.sqrt(12)
        falls[..., more - 1] += strength * spread
        falls[..., less - 1] -= strength * spread
    start = np.log(VOCABULARY) - 0.4
    entropy = start - np.concatenate([np.zeros((*shape[:2], 1)), falls.cumsum(-1)], axis=-1)
    logits = one_token_logit(entropy)  # [prompt, token, layer]
    certain = rng.integers(VOCABULARY, size=shape[:2])
    layers = []
    for layer in range(n_layers):
        residual = torch.zeros(*shape[:2], VOCABULARY)
        at = torch.as_tensor(certain)[..., None]
        residual.scatter_(-1, at, torch.as_tensor(logits[..., layer, None], dtype=torch.float32))
        layers.append({"resid_post": residual})
    return Planted(layers, tokens, facts, _nothing, lambda residual: residual, truth={variable: truth})


def one_token_logit(entropy: Floats) -> Floats:
    """Return the logit of one of `VOCABULARY` tokens, the others at zero, that gives an entropy in nat."""
    logit = np.linspace(0.0, 25.0, 20001)
    rest = VOCABULARY - 1
    log_total = np.log(np.exp(logit) + rest)
    known = log_total - logit * np.exp(logit - log_total)
    return np.asarray(np.interp(entropy, known[::-1], logit[::-1]), dtype=np.float64)


def _attention(rng: np.random.Generator, drawn: Floats, facts: Facts, tokens: Tensor) -> Tensor:
    """Return attention from scores, the first key of each head preferred by as much as the head does."""
    first = np.zeros(drawn.shape[-1])
    first[0] = 1.0
    preferred = rng.uniform(0, 4, size=(facts.n_heads, 1, 1))
    return softmax_rows(drawn + preferred * first, facts, tokens)


def _sharpness(rng: np.random.Generator, n_heads: int) -> Floats:
    return rng.uniform(*SHARPNESS, size=(n_heads, 1, 1))


def _places(n: int) -> Floats:
    """Return ``[query, key]``: where a key is in the window of a query, 0 the oldest and 1 the newest."""
    return np.arange(n)[None, :] / np.maximum(np.arange(n), 1)[:, None]


def _peak(place: Floats, center: float | Floats) -> Floats:
    return np.asarray(np.exp(-0.5 * ((place - center) / PEAK) ** 2))


def _following(drawn: Floats, axis: int) -> Floats:
    """Return standard normal numbers that follow each other along an axis: AR(1), stationary."""
    steps = np.moveaxis(drawn, axis, 0).copy()
    for at in range(1, len(steps)):
        steps[at] = FOLLOWING * steps[at - 1] + np.sqrt(1 - FOLLOWING**2) * steps[at]
    return np.moveaxis(steps, 0, axis)


def _nothing(data: object) -> None:
    """Expect nothing: what a trial found is counted, not judged."""


def writing_heads(
    rng: np.random.Generator,
    world: str,
    strength: float,
    variable: str,
    *,
    n_prompts: int = PROMPTS,
    n_layers: int = 6,
    n_heads: int = 3,
) -> Planted:
    """Return heads that write series alike through positions alone, and layers that are driven.

    Each head writes one direction of its own, ``5 + x(t)`` of it. In every prompt x holds the same function
    of the position, nearly the same in all heads of a layer, and noise of the head's own: independent from
    token to token (``iid``, and ``unequal`` in prompts of 26 to 143 tokens), following the token before
    (``autocorrelated``), or a wave of one frequency and phase, others in each prompt (``persistent``). What
    is planted is a noise of each prompt that all heads of a layer write.

    Parameters
    ----------
    rng, world
        As in `heads`.
    strength
        Standard deviation of the common noise, in units of 0.4 of that of the head's own; at 0 there is none.
    variable
        Of the claim, whose family is layers.
    n_prompts, n_layers, n_heads
        How many. The common noise is in the last third of the layers.
    """
    d_head = 4
    facts = attention_facts(n_layers=n_layers, n_heads=n_heads, d_model=d_head * n_heads)
    tokens = 3 * lengths(rng, world, n_prompts) - 1
    n = int(tokens.max())
    truth = np.zeros(n_layers, dtype=bool)
    if strength > 0:
        truth[-(n_layers // 3) :] = True
    layers = []
    for planted in truth:
        of_position = rng.normal(size=n) + 0.3 * rng.normal(size=(n_heads, n))
        series = _series(rng, world, (n_prompts, n_heads, n)) + rng.uniform(0, 1) * of_position
        if planted:
            series = series + 0.4 * strength * rng.normal(size=(n_prompts, 1, n))
        direction = rng.normal(size=(n_heads, d_head))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        written = (5 + series.swapaxes(1, 2))[..., None] * direction
        layers.append({"z": torch.as_tensor(written, dtype=torch.float32)})
    return Planted(layers, tokens, facts, _nothing, truth={variable: truth})


def _series(rng: np.random.Generator, world: str, shape: tuple[int, ...]) -> Floats:
    """Return series of unit variance along the last axis."""
    if world == "persistent":
        frequency, phase = rng.uniform(0.05, 0.5, (*shape[:-1], 1)), rng.uniform(0, 1, (*shape[:-1], 1))
        return np.asarray(np.sqrt(2) * np.cos(2 * np.pi * (frequency * np.arange(shape[-1]) + phase)))
    drawn = rng.normal(size=shape)
    return _following(drawn, axis=-1) if world == "autocorrelated" else drawn


def token_series(
    rng: np.random.Generator,
    world: str,
    strength: float,
    variable: str,
    sites: Sequence[str],
    *,
    n_prompts: int = PROMPTS,
    n_layers: int = 4,
    width: int = 8,
) -> Planted:
    """Return vectors along tokens whose order is random, and layers in which slow ones are added to them.

    Vectors are independent (``iid``, ``unequal``), follow those of the same token one layer before
    (``autocorrelated``), or are of five kinds, around a mean and of a size that each prompt has of its own
    (``persistent``). The first vector is fifty times as large as the others.

    Parameters
    ----------
    rng, world
        As in `heads`.
    strength
        Standard deviation of the slow vectors, which keep .9 of the one before, in tenths of that of the
        others; at 0 there are none.
    variable
        Of the claim, whose family is layers.
    sites
        Where the vectors are found; each site has its own.
    n_prompts, n_layers, width
        How many, and their features. The slow vectors are in the second half of the layers.
    """
    facts = attention_facts(n_layers=n_layers, n_heads=1, d_model=width)
    tokens = lengths(rng, world, n_prompts) + 10
    shape = (n_prompts, int(tokens.max()), width)
    truth = np.zeros(n_layers, dtype=bool)
    if strength > 0:
        truth[n_layers // 2 :] = True
    before = {site: rng.normal(size=shape) for site in sites}
    layers = []
    for planted in truth:
        made = {}
        for site in sites:
            x = _of_few_kinds(rng, shape) if world == "persistent" else rng.normal(size=shape)
            if world == "autocorrelated":
                x = before[site] = FOLLOWING * before[site] + np.sqrt(1 - FOLLOWING**2) * x
            if planted:
                slow = _following(rng.normal(size=shape), axis=1)
                x = x + 0.1 * strength * x.std((1, 2), keepdims=True) * slow
            x[:, 0] *= 50.0
            made[site] = torch.as_tensor(x, dtype=torch.float32)
        layers.append(made)
    return Planted(layers, tokens, facts, _nothing, truth={variable: truth})


def _of_few_kinds(rng: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    kinds = rng.normal(size=(shape[0], 5, shape[2]))
    which = rng.integers(5, size=shape[:2])[..., None]
    size, mean = np.exp(rng.normal(size=(shape[0], 1, 1))), 3 * rng.normal(size=(shape[0], 1, shape[2]))
    return np.asarray(size * (np.take_along_axis(kinds, which, axis=1) + mean))
