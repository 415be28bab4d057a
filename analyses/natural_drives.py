"""Prompts that are periodic: what of the period a model hands on, and how long a period it follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens.arrangement import Arrangement
from resonance_lens.contract import Accumulated, Analysis, Evidence, Planted, Where, parameter
from resonance_lens.design import Condition, Design
from resonance_lens.dsp.periods import periodic_power
from resonance_lens.errors import AnalysisError, ParameterError, wrong_parameter
from resonance_lens.facts import Facts
from resonance_lens.features import Features, stack_layers
from resonance_lens.labels import Labelled
from resonance_lens.planting import attention_facts
from resonance_lens.registry import register
from resonance_lens.result import Result, Target, ViewSpec
from resonance_lens.signal import Signal
from resonance_lens.stats.streams import stream

Array = NDArray[Any]

SITES = ("resid_post", "attn_out")
INPUT = "resid_pre"
"""Of the first layer: what drives all others."""

SCALINGS = ("raw", "whitened")
"""All features with the power that they have, and each divided by its own."""

PERIODS = (2, 4, 8, 16, 32, 64)
"""Tokens, of the periods that prompts are made of: as many as fit."""

REPETITIONS = 3
"""The fewest: one to settle in, two to compare."""

HARMONICS = 4
CURVE = 8
"""Repetitions that the loss is kept of one by one."""

FOLLOWED = 0.5
"""A period is followed if, late in the record, more than this share of the control's loss is gone."""

ROWS_AT_ONCE = 128
"""Distributions over the vocabulary that are held at one time."""

NOTHING = 1e-10
"""Share of the power of the drive below which there is no line."""

SILENT = "not-a-number: no power"
NO_LINE = "not-a-number: above half a cycle per token, or nothing went in"


@register
@dataclass(frozen=True, kw_only=True)
class NaturalDrives(Analysis):
    """Repeat a block of tokens, and measure what of its period is handed on and whether it is followed.

    From each prompt the first ``p`` tokens behind the first one are repeated to its length, for p = 2, 4, 8,
    ... 64 as far as three repetitions fit. The control has the same tokens in every block, their order drawn
    anew each time: no period in order. Both are run beside the prompt as it is.

    ``locked`` is the share of the power along tokens that repeats from period to period, which is that at 1/p
    and all its harmonics, without the first repetition and without the bias of few periods: 1 for the
    embedding of what is repeated, 0 for what has nothing in common from one block to the next. ``gain`` is
    how much larger a line is than it was at the input of the first layer. ``scaling="raw"`` counts features
    with the power that they have, ``scaling="whitened"`` all alike.

    ``following`` is the share of the loss of the control that is gone in the later half of the repetitions. A
    period is followed where it is more than half; ``longest_followed`` is the longest such period.

    Parameters
    ----------
    period
        0, or the period in tokens of prompts that are periodic by themselves: they are then measured as they
        are, beside the same tokens in drawn order within each period.

    Notes
    -----
    An embedding of repeated tokens is periodic without any model: only what differs from the control and from
    random weights was done by the layers. Random weights hand a period on too. Two tokens in drawn order can
    be predicted half of the time, so that controls of short periods have a small loss of their own: it is the
    share that counts. In prompts that are periodic by themselves a drawn order breaks grammar as well, and
    ``following`` says how much of both is gone.
    """

    name: ClassVar[str] = "natural_drives"
    title: ClassVar[str] = "Response to prompts that are periodic, and how long a period is followed"
    version: ClassVar[str] = "1"
    sites: ClassVar[tuple[str, ...]] = ("resid_pre", "resid_post", "attn_out")
    needs: ClassVar[tuple[str, ...]] = ("forward",)
    evidence: ClassVar[Evidence] = "measured"
    baselines: ClassVar[tuple[str, ...]] = ("reordered_blocks", "text_itself", "random_weights")
    nulls: ClassVar[tuple[str, ...]] = ()
    minimum_effect: ClassVar[float] = 0.1
    headline: ClassVar[str] = "locked"
    source: ClassVar[str] = (
        "Coherence between periods by Parseval's theorem; loss on repeated random tokens as in Olsson et al. "
        "2022, arXiv 2209.11895."
    )
    undefined: ClassVar[tuple[str, ...]] = ("locked", "locked_input")

    period: int = parameter(
        0, minimum=0, maximum=1024, help="tokens of the period that prompts have by themselves; 0: none"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.period == 1:
            raise ParameterError(wrong_parameter(self.name, "period", "0, or at least 2", self.period))

    @property
    def min_tokens(self) -> int:
        """Repetitions of the second shortest period behind the first token, or of the one that is given."""
        return 1 + REPETITIONS * (self.period or PERIODS[1])

    def periods(self, shortest: int) -> tuple[int, ...]:
        """Return the periods that are measured, where the shortest prompt has so many tokens."""
        if self.period:
            return (self.period,)
        return tuple(p for p in PERIODS if 1 + REPETITIONS * p <= shortest)

    def design(self, facts: Facts, shortest: int) -> Design:
        """Return the prompts as they are, and for each period those made of it and their control.

        Of prompts with a period of their own only the control is made.
        """
        plain = Arrangement()
        if self.period:
            arrangements = [plain, Arrangement(block=self.period, reordered=True)]
        else:
            arrangements = [plain]
            for period in self.periods(shortest):
                arrangements += [
                    Arrangement(block=period, repeated=True),
                    Arrangement(block=period, repeated=True, reordered=True),
                ]
        return Design((Condition(arrangements=tuple(arrangements)),))

    def observe(self, signals: Mapping[str, Signal], where: Where) -> Features:
        """Return what repeats, and lines, of what a layer carries and writes, at the periods in question."""
        carry: dict[str, Tensor] = {}
        if where.layer == where.layers[0]:
            carry["input"] = _measured(self, signals, (INPUT,), where)
        if where.layer == where.layers[-1]:
            carry["last"] = signals["resid_post"].values
        powers = _measured(self, signals, SITES, where)
        rows = {"locked": _locked(powers), "lines": powers[..., 2:]}
        return Features.of(where.prompts, rows=rows, carry=carry)

    def join(self, layers: Sequence[Features], where: Where) -> Features:
        """Stack the layers, and add the input of the first and what the last predicts."""
        if where.layers[-1] != where.facts.n_layers - 1:
            raise AnalysisError(
                "natural_drives needs what the last layer predicts, and the last layer was not observed."
            )
        into, last = layers[0].carry["input"], layers[-1].carry["last"]
        stacked = stack_layers([replace(each, carry={}) for each in layers])
        added = Features.of(
            where.prompts,
            rows={
                "locked_input": _locked(into)[:, :, 0],
                "lines_input": into[:, :, 0, :, 2:],
                **self._losses(last, where),
            },
        )
        return replace(stacked, rows={**stacked.rows, **added.rows})

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        """Return shares that repeat and gains by period and layer, and the loss by period and repetition.

        For figures: ``locked[scaling, period, site, layer]`` and ``gain[scaling, period, harmonic, site,
        layer]`` with ``_reordered`` beside them, ``following[period]``, ``late_loss[period]`` and
        ``loss[period, repetition]``, ``longest_followed``.
        """
        driven = {name: self._of(values, 0) for name, values in seen.plain.rows.items()}
        control = {name: self._of(values, 1) for name, values in seen.plain.rows.items()}
        periods = self.periods_of(driven["late_loss"].shape[1])
        out = Labelled(seen, self.name, _coords(periods))
        dims = ("scaling", "period", "site", "layer")
        locked, shuffled = (_by_layer(each["locked"]) for each in (driven, control))
        words = f"share of the power that repeats from period to period; {SILENT}"
        out.add_mean("locked", dims, locked, words, "1", by_prompt=True)
        words = f"share of the power that repeats where the order of each block is drawn; {SILENT}"
        out.add_mean("locked_reordered", dims, shuffled, words, "1", interval=False)
        words = f"share of the power that repeats, above that of drawn orders; {SILENT}"
        out.add_mean("locked_effect", dims, locked - shuffled, words, "1")
        words = f"share of the power of the drive, at the input of the first layer, that repeats; {SILENT}"
        out.add_mean("locked_input", dims[:2], driven["locked_input"].swapaxes(1, 2), words, "1")
        if not self.period:
            text = _by_layer(seen.plain.rows["locked"][:, 0].swapaxes(1, 2))
            words = f"share of the power that repeats in the text itself; {SILENT}"
            out.add_mean("locked_text", dims, text, words, "1", interval=False)
        lines = ("scaling", "period", "harmonic", "site", "layer")
        words = f"size of a line over that of the same line at the input of the first layer; {NO_LINE}"
        out.add_mean("gain", lines, _gains(driven, periods), words, "1", by_prompt=True)
        words = f"the same of what has the frequency of that line where orders are drawn; {NO_LINE}"
        out.add_mean("gain_reordered", lines, _gains(control, periods), words, "1", interval=False)
        self._add_losses(out, seen, driven, control)
        return out.dataset({"followed": FOLLOWED, "repetitions": REPETITIONS})

    def summary(self, result: Result) -> str:
        """Return how long a period is followed, and what of it the last layer carries."""
        data = result.data.sel(category="all")
        low, longest = float(data.longest_followed_low), float(data.longest_followed)
        tried = ", ".join(f"{p}" for p in data.period.values.tolist())
        followed = (
            f"The longest period followed is {longest:.0f} tokens" if longest else "No period is followed"
        )
        if np.isnan(low):
            said = f"{followed}, of one prompt and periods of {tried}."
        else:
            high = float(data.longest_followed_high)
            said = f"{followed} (95 % interval {low:.0f} to {high:.0f}), of {tried}."
        last = data.sel(site="resid_post", scaling="whitened").isel(layer=-1)
        parts = [
            f"{float(last.locked.sel(period=p)):.0%} at a period of {p} tokens "
            f"({float(last.locked_reordered.sel(period=p)):.0%} in drawn order)"
            for p in dict.fromkeys(data.period.values[[0, -1]].tolist())
            if np.isfinite(float(last.locked.sel(period=p)))
        ]
        return said + (
            f" What repeats is {' and '.join(parts)} of the power after the last layer." if parts else ""
        )

    def views(self, result: Result) -> list[ViewSpec]:
        """Return what is followed, how the loss falls, and what of the period is handed on."""
        whole = {"category": "all"}
        carried = {**whole, "site": "resid_post", "scaling": "whitened"}
        text = () if self.period else ("late_loss_text",)
        longest = int(result.data.period[-1])
        return [
            ViewSpec(
                kind="lines",
                title="How long a period is followed",
                says="Share of the loss of the control, whose blocks are in drawn order, that is gone in the "
                "later half of the repetitions.",
                misleads="a prompt holds many repetitions of a short period and few of a long one.",
                variables=("following",),
                references=("following_random_weights",),
                select=whole,
                over="period",
                x_scale="log",
            ),
            ViewSpec(
                kind="lines",
                title="Loss late in the record",
                says="Mean loss of the next token in the later half of the repetitions, beside the control "
                "and the text itself.",
                misleads="few different tokens are easy to guess in any order: read each beside its control.",
                variables=("late_loss",),
                references=("late_loss_reordered", *text, "late_loss_random_weights"),
                select=whole,
                over="period",
                x_scale="log",
            ),
            ViewSpec(
                kind="lines",
                title="Loss from repetition to repetition",
                says="Mean loss of the next token in each repetition of the block, by period.",
                misleads="a repetition of a short period is over before anything could be learned from it.",
                variables=("loss",),
                select=whole,
                over="repetition",
                series="period",
            ),
            ViewSpec(
                kind="image",
                title="What repeats, by period and depth",
                says="Share of the power of the residual stream that repeats from period to period, all "
                "features alike.",
                misleads="the embedding of repeated tokens repeats entirely, so that a layer that does "
                "nothing has 1.",
                variables=("locked",),
                select=carried,
                over="period",
                x_scale="log",
                limits=(0.0, 1.0),
            ),
            ViewSpec(
                kind="lines",
                title=f"What repeats at a period of {longest} tokens",
                says="Share of the power of the residual stream that repeats, beside drawn orders and random "
                "weights.",
                misleads="random weights hand a period on as well: only the difference was learned.",
                variables=("locked",),
                references=("locked_reordered", "locked_random_weights"),
                select={**carried, "period": longest},
            ),
            ViewSpec(
                kind="lines",
                title=f"Gain at a period of {longest} tokens",
                says="How much larger the fundamental is than at the input, in shares of the power of each "
                "feature, beside what has that frequency where orders are drawn.",
                misleads="a line that keeps its size in a stream that grows has a share that falls.",
                variables=("gain",),
                references=("gain_reordered", "gain_random_weights"),
                select={**carried, "period": longest, "harmonic": 1},
                y_scale="log",
            ),
        ]

    def targets(self, result: Result, k: int) -> list[Target]:
        """Return the layers whose attention writes most that repeats only because the order does."""
        data = result.data.sel(category="all", site="attn_out", scaling="whitened")
        score = data.locked_effect.mean("period")
        score = score[score.values > self.minimum_effect]
        score = score[np.argsort(-score.values, kind="stable")[:k]]
        return [
            Target(
                site="attn_out",
                layer=int(value.layer),
                score=float(value),
                reason="share of what attention writes that repeats, above that of drawn orders",
            )
            for value in score
        ]

    def plant(self, rng: np.random.Generator) -> Planted:
        """Return a model that carries what it reads, and predicts what followed the last time."""
        return _planted(rng, self, memory=MEMORY)

    def null(self, rng: np.random.Generator) -> Planted:
        """Return a model that carries noise, and predicts nothing."""
        return _planted(rng, self, memory=0)

    # ------------------------------------------------------------------------------------------

    def periods_of(self, count: int) -> tuple[int, ...]:
        """Return the periods of so many that were measured."""
        return (self.period,) if self.period else PERIODS[:count]

    def _of(self, rows: Array, which: int) -> Array:
        """Return rows ``[prompt, period, ...]`` of what is periodic (0) or of its control (1).

        Rows come as ``[prompt, arrangement, ..., period, ...]``, the periods behind the layers if they have
        any; see `design` for the arrangements.
        """
        n = (rows.shape[1] - 1) // 2 if not self.period else 1
        start, step = (which, 1) if self.period else (1 + which, 2)
        layered = rows.ndim >= 6
        return np.stack(
            [rows[:, start + step * i, :, i] if layered else rows[:, start + step * i, i] for i in range(n)],
            axis=1,
        )

    def _losses(self, last: Tensor, where: Where) -> dict[str, Array]:
        """Return the loss of the next token by repetition and late in the record, for every period."""
        periods = self.periods(where.shortest)
        n = max(p * ((where.shortest - 1) // p) for p in periods)
        tokens = where.tokens[:, 1 : n + 1].to(last.device)  # [batch, n]
        flat = last[:, :n].flatten(0, 1)
        found = [
            torch.nn.functional.cross_entropy(where.readout(vectors), wanted, reduction="none")
            for vectors, wanted in zip(
                flat.split(ROWS_AT_ONCE), tokens.flatten().split(ROWS_AT_ONCE), strict=True
            )
        ]
        loss = torch.cat(found).view(tokens.shape).double().cpu().numpy()
        late, curves = [], []
        for period in periods:
            count = (where.shortest - 1) // period
            each = loss[:, : count * period].reshape(len(loss), count, period).mean(-1)
            late.append(each[:, max(1, count // 2) :].mean(1))
            curve = np.zeros((len(loss), CURVE))
            curve[:, : min(count, CURVE)] = each[:, :CURVE]
            curves.append(curve)
        counts = [min(CURVE, (where.shortest - 1) // period) for period in periods]
        return {
            "late_loss": np.stack(late, axis=1),
            "loss": np.stack(curves, axis=1),
            "counted": np.broadcast_to(counts, (len(loss), len(periods))),
            "differ": np.broadcast_to(
                (tokens != tokens[:, :1]).any(1).cpu().numpy()[:, None], (len(loss), len(periods))
            ),
        }

    def _add_losses(
        self, out: Labelled, seen: Accumulated, driven: Mapping[str, Array], control: Mapping[str, Array]
    ) -> None:
        """Add losses and what follows from them."""
        late, other = driven["late_loss"], control["late_loss"]
        beyond = np.arange(CURVE) >= driven["counted"][..., None]
        words = "loss of the next token, in each repetition of the block; not-a-number: no such repetition"
        dims = ("period", "repetition")
        out.add_mean("loss", dims, np.where(beyond, np.nan, driven["loss"]), words, "nat", by_prompt=True)
        words = "loss in each block where orders are drawn; not-a-number: no such block"
        out.add_mean(
            "loss_reordered", dims, np.where(beyond, np.nan, control["loss"]), words, "nat", interval=False
        )
        words = "loss of the next token in the later half of the repetitions"
        out.add_mean("late_loss", dims[:1], late, words, "nat", by_prompt=True)
        words = "loss in the later half of the blocks where orders are drawn"
        out.add_mean("late_loss_reordered", dims[:1], other, words, "nat", interval=False)
        if not self.period:
            words = "loss of the text itself in the later half of the record"
            text = seen.plain.rows["late_loss"][:, 0]
            out.add_mean("late_loss_text", dims[:1], text, words, "nat", interval=False)
        known = driven["differ"].astype(bool) & (other > 0)
        share = 1 - late / np.where(known, other, np.nan)
        words = "share of the loss of drawn orders that is gone; not-a-number: a block of one token only"
        out.add_mean("following", dims[:1], share, words, "1", by_prompt=True)
        made = out.dataset()
        for end, words in BOUNDS.items():
            if f"following{end}" in made:
                longest = [_longest(row) for row in made[f"following{end}"].transpose("category", "period")]
                what = f"longest period of which more than {FOLLOWED:.0%} of that share is gone, 0 for none"
                out.add(f"longest_followed{end}", ("category",), longest, what + words, "tokens")


BOUNDS = {
    "": "",
    "_low": ", lower 95 % bound; not-a-number: of one prompt there is none",
    "_high": ", upper 95 % bound; not-a-number: of one prompt there is none",
}


def _measured(
    analysis: NaturalDrives, signals: Mapping[str, Signal], sites: Sequence[str], where: Where
) -> Tensor:
    """Return the power, what of it repeats, and the lines: ``[batch, period, site, scaling, 2 + harmonic]``.

    Means over features; ``whitened`` in shares of the power of each that has any. Of periods that the
    arrangement is not made of there are zeros, but of the text itself, which is measured at all of them.
    """
    assert where.arrangement is not None
    block, periods = where.arrangement.block, analysis.periods(where.shortest)
    first = signals[sites[0]].values
    found = torch.zeros(
        first.shape[0], len(periods), len(sites), 2, 2 + HARMONICS, dtype=torch.float64, device=first.device
    )
    for at, site in enumerate(sites):
        values = signals[site].values
        for index, period in enumerate(periods):
            if block not in (0, period):
                continue
            end = 1 + period * ((where.shortest - 1) // period)
            power = periodic_power(values[:, 1 + period : end].double(), period, HARMONICS)
            varies = power.total > 0  # [batch, feature]
            alike = varies / torch.where(varies, power.total, 1.0)
            even = torch.full_like(alike, 1 / alike.shape[-1])
            weights = torch.stack([even, alike / varies.sum(-1, keepdim=True).clamp_min(1)], dim=1)
            parts = torch.cat([torch.stack([power.total, power.repeated], dim=1), power.lines], dim=1)
            found[:, index, at] = weights @ parts.mT  # [batch, scaling, 2 + harmonic]
    return found


def _locked(powers: Tensor) -> Tensor:
    """Return the share that repeats, not-a-number where there is no power."""
    total, repeated = powers[..., 0], powers[..., 1]
    return repeated / torch.where(total > 0, total, torch.nan)


def _by_layer(rows: Array) -> Array:
    """Return ``[prompt, scaling, period, site, layer]`` of ``[prompt, period, layer, site, scaling]``."""
    return np.asarray(rows.transpose(0, 4, 1, 3, 2))


def _gains(rows: Mapping[str, Array], periods: Sequence[int]) -> Array:
    """Return lines over those at the input: ``[prompt, scaling, period, harmonic, site, layer]``."""
    lines = rows["lines"].transpose(0, 4, 1, 5, 3, 2)
    into = rows["lines_input"].transpose(0, 2, 1, 3)  # [prompt, scaling, period, harmonic]
    order = np.arange(1, HARMONICS + 1)
    there = 2 * order <= np.array(periods)[:, None]  # [period, harmonic]
    # Where nothing went in there is rounding, which is no line.
    there = there & (into > NOTHING * into.sum(-1, keepdims=True))
    gain: Array = np.sqrt(lines / np.where(there, into, np.nan)[..., None, None])
    return gain


def _coords(periods: Sequence[int]) -> dict[str, Any]:
    def axis(name: str, values: Any, long_name: str, units: str) -> xr.Variable:
        return xr.Variable(name, np.asarray(values), {"long_name": long_name, "units": units})

    return {
        "scaling": list(SCALINGS),
        "site": list(SITES),
        "period": axis("period", periods, "period", "tokens"),
        "harmonic": axis("harmonic", np.arange(1, HARMONICS + 1), "multiple of 1/period", "1"),
        "repetition": axis("repetition", np.arange(1, CURVE + 1), "repetition", "1"),
    }


def _longest(following: xr.DataArray) -> float:
    """Return the longest period that is followed, 0 for none, not-a-number where nothing is known."""
    if bool(following.isnull().all()):
        return float("nan")
    found = following.period.values[following.values > FOLLOWED]
    return float(found.max()) if found.size else 0.0


# ------------------------------------------------------------------------------------------ planted

MEMORY = 8
"""Tokens that the planted model looks back."""

SURE = 8.0
"""Logit of what it predicts."""


def _planted(rng: np.random.Generator, analysis: NaturalDrives, *, memory: int) -> Planted:
    """Return a model of two layers that predicts what followed the present token the last time.

    It looks no further back than ``memory`` tokens; without any it predicts nothing, and carries noise. Half
    of the power of its first layer is noise that the second takes away.
    """
    n_vocab, n_layers = 64, 2
    facts = attention_facts(n_layers=n_layers, n_heads=1, d_model=n_vocab, d_vocab=n_vocab)
    least = analysis.min_tokens
    lengths = torch.tensor([max(least, 49) + extra for extra in (0, 3, 1, 0, 5, 2)])
    rows = [_prompt(rng, int(n), n_vocab, analysis.period) for n in lengths]
    key = int(rng.integers(2**31))

    @lru_cache(maxsize=512)
    def read(tokens: tuple[int, ...]) -> list[dict[str, Tensor]]:
        n = len(tokens)
        drawn = stream(key, "planted noise", *tokens).standard_normal((4, n, n_vocab)) / np.sqrt(n_vocab)
        embedded = np.eye(n_vocab)[list(tokens)]
        predicted = np.zeros((n, n_vocab))
        for at in range(n):
            back = [j for j in range(max(1, at - memory), at) if tokens[j] == tokens[at]]
            if back:
                predicted[at, tokens[back[-1] + 1]] = SURE
        carried = [embedded + drawn[0], embedded + predicted] if memory else [drawn[0], drawn[1]]
        written = [drawn[2], predicted if memory else drawn[3]]
        return [
            {
                INPUT: torch.from_numpy(embedded if layer == 0 else carried[0]).float(),
                "resid_post": torch.from_numpy(carried[layer]).float(),
                "attn_out": torch.from_numpy(written[layer]).float(),
            }
            for layer in range(n_layers)
        ]

    def expect(data: xr.Dataset) -> None:
        data = data.sel(category="all")
        carried = data.sel(site="resid_post", scaling="raw")
        if not analysis.period:
            found = float(data.longest_followed)
            assert found == memory, f"the longest period followed is {memory} tokens, not {found:.0f}"
        if not memory:
            assert float(abs(carried.locked).max()) < 0.2, "noise was said to repeat"
            return
        assert float(carried.locked_input.min()) > 0.99, "what is repeated does not repeat at the input"
        # Of p different unit vectors 1 - 1/p is left without their mean, beside as much noise as 1.
        wanted = (1 - 1 / carried.period) / (2 - 1 / carried.period)
        off = float(abs(carried.locked.sel(layer=0) - wanted).max())
        assert off < 0.1, f"the share of what is carried that repeats is wrong by {off:.2f}"
        drawn = float(carried.locked_reordered.sel(layer=0).max())
        assert drawn < 0.25, f"{drawn:.2f} of what has no period was said to repeat"

    tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    width = tokens.shape[1]
    layers: list[dict[str, Tensor]] = [{} for _ in range(n_layers)]
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
        for into, found in zip(layers, read(tuple(ids)), strict=True):
            for site, values in found.items():
                grown = torch.nn.functional.pad(values, (0, 0, 0, width - len(ids)))
                into[site] = torch.cat([into[site], grown[None]]) if site in into else grown[None]
    return Planted(
        layers,
        lengths,
        facts,
        expect,
        readout=lambda residual: residual,
        tokens=tokens,
        read=lambda ids: read(tuple(ids)),
    )


def _prompt(rng: np.random.Generator, n: int, n_vocab: int, period: int) -> list[int]:
    """Return a prompt of tokens none of which stands twice within 32, or of a period of its own."""
    if period:
        block = rng.permutation(n_vocab)[:period]
        return [0, *np.resize(block, n - 1).tolist()]
    block = 1 + rng.permutation(n_vocab - 1)[:32]
    return [0, *np.resize(block, n - 1).tolist()]
