"""Three roads to one frequency response, on a real model: ``python -m tests.benchmarks.roads``.

The same prompts, cut at the same token, are driven in the same directions tone by tone, with multisines, and
with one impulse at each token of the record.

What is wanted is the response to ``exp(2 pi i f t)``, which impulses at all tokens add up to. A tone is half
of that and half of its mirror image at ``-f``, of which a system that changes along the record moves some to
f: two tones a quarter of a cycle apart are needed, and give the same number in each prompt as far as the
model is linear. A multisine adds to each line what the model moves there from all other lines. That differs
from draw to draw; what all prompts have in common stays, and is what is compared.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy import stats
from torch import Tensor

import resonance_lens as rl
from resonance_lens.design import Drive
from resonance_lens.driving import median_norms
from resonance_lens.dsp.excitation import Timing, driven, tone
from resonance_lens.dsp.identification import at_lines, gains, of_impulses
from resonance_lens.facts import Batch
from resonance_lens.hooks import attach
from resonance_lens.prompts import corpus
from resonance_lens.signal import Signal

SEED = 0
ROADS = ("tones", "impulses", "multisine")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all roads have in common.

    Attributes
    ----------
    layer
        Before which the drives enter.
    heard
        Layers after which the stream is listened to.
    tokens, period
        Of each prompt, and of the longest wave.
    directions
        Random directions, numbers 0, 1, ... of `SEED`.
    draws
        Of the phases of the multisine.
    epsilon
        Root mean square of waves, and height of impulses, in median norms of a token.
    at_once
        Drives in one pass.
    """

    layer: int
    heard: tuple[int, ...]
    tokens: int
    period: int
    directions: int
    draws: int
    epsilon: float = 0.03
    at_once: int = 16

    @property
    def timing(self) -> Timing:
        """When prompts are driven and listened to."""
        return Timing.fit(self.tokens, period=self.period)

    @property
    def sequences(self) -> dict[str, int]:
        """Driven sequences for each prompt, by road."""
        timing = self.timing
        each = {
            "tones": 2 * len(timing.lines),
            "impulses": timing.tokens - timing.onset,
            "multisine": self.draws,
        }
        return {road: self.directions * count for road, count in each.items()}

    def multisine(self, direction: int, draw: int = 0) -> Drive:
        """Return a multisine in a direction, as `resonance_lens.drive` and the analysis make it."""
        return Drive(
            layer=self.layer,
            timing=self.timing,
            lines=self.timing.lines,
            amplitude=self.epsilon,
            direction=direction,
            draw=draw,
        )

    def signals(self, road: str, direction: int, prompt: int) -> Tensor:
        """Return what a road drives with: ``[drive, token]``; of tones each and a quarter of a cycle on."""
        timing = self.timing
        if road == "tones":
            waves = [tone(timing.period, line, by) for line in timing.lines for by in (0.0, math.pi / 2)]
            return driven(timing, torch.stack(waves))
        if road == "impulses":
            return torch.eye(timing.tokens, dtype=torch.float64)[timing.onset :]
        drives = [self.multisine(direction, draw) for draw in range(self.draws)]
        return torch.stack([drive.signal(SEED, prompt) for drive in drives])


def documents(model: Any, count: int, tokens: int) -> list[list[int]]:
    """Return the beginnings of so many documents of prose, spread over the shipped corpus."""
    prose = corpus("prose")
    chosen = prose[:: len(prose) // count][:count]
    return [model.tokenizer(document.text)["input_ids"][:tokens] for document in chosen]


def measure(model: Any, rows: Sequence[Sequence[int]], setup: Setup) -> dict[str, Tensor]:
    """Return responses by road: complex ``[prompt, direction, layer, line, feature]``.

    An output of 1 is as large as what went in. Responses to multisines are means over the draws.
    """
    found: dict[str, list[Tensor]] = {road: [] for road in ROADS}
    for prompt, row in enumerate(rows):
        passes = Passes(model, row, prompt, setup)
        for road in ROADS:
            directions = range(setup.directions)
            found[road].append(torch.stack([passes.response(road, each) for each in directions]))
    return {road: torch.stack(each) for road, each in found.items()}


class Passes:
    """One prompt: an undriven pass, and driven ones that resume from it."""

    def __init__(self, model: Any, row: Sequence[int], prompt: int, setup: Setup) -> None:
        self.adapter, self.prompt, self.setup = attach(model), prompt, setup
        self.batch = self._batch(row, 1)
        self.row = row
        self.entered, self.undriven = Tensor(), dict[int, Tensor]()

        def receive(signal: Signal) -> None:
            assert signal.layer is not None
            if signal.site == "resid_pre":
                self.entered = signal.values.clone()
            else:
                self.undriven[signal.layer] = signal.values.clone()

        wanted = {layer: ["resid_post"] for layer in setup.heard}
        wanted.setdefault(setup.layer, []).append("resid_pre")
        self.adapter.run(self.batch, wanted, receive)
        self.norms = median_norms(self.entered, self.batch.lengths)

    def _batch(self, row: Sequence[int], n: int) -> Batch:
        return Batch(torch.tensor([row] * n), torch.tensor([len(row)] * n), (self.prompt,) * n)

    def answers(self, signals: Tensor, direction: int) -> Tensor:
        """Return responses to signals, over the amplitude: ``[drive, layer, token, feature]``."""
        setup, found = self.setup, []
        unit = setup.multisine(direction).unit(self.entered.shape[-1], SEED)
        size = setup.epsilon * self.norms.double()
        for some in signals.split(setup.at_once):
            added = ((size * some)[..., None] * unit).to(self.entered)  # [drive, token, feature]
            heard: dict[int, Tensor] = {}

            def receive(signal: Signal, heard: dict[int, Tensor] = heard) -> None:
                assert signal.layer is not None
                heard[signal.layer] = signal.values - self.undriven[signal.layer]

            self.adapter.drive(
                self._batch(self.row, len(some)),
                "resid_pre",
                setup.layer,
                added,
                self.entered.repeat(len(some), 1, 1),
                {layer: ["resid_post"] for layer in setup.heard},
                receive,
            )
            found.append(torch.stack([heard[layer] for layer in setup.heard], dim=1))
        return torch.cat(found).double() / size

    def response(self, road: str, direction: int) -> Tensor:
        """Return the response by one road: complex ``[layer, line, feature]``."""
        timing = self.setup.timing
        lines = timing.lines
        signals = self.setup.signals(road, direction, self.prompt)
        answers = self.answers(signals, direction)
        if road == "impulses":
            return torch.stack([of_impulses(each, timing, lines) for each in answers.unbind(1)])
        h = at_lines(answers, timing, lines) / at_lines(signals[:, None, :, None], timing, lines)
        if road == "multisine":
            return h.mean(0)
        at = torch.arange(len(lines))
        pairs = h.unflatten(0, (len(lines), 2)).mean(1)  # [tone, layer, line, feature]
        own: Tensor = pairs[at, :, at]  # each tone at its own line
        return own.movedim(0, 1)


@dataclass(frozen=True, eq=False)
class Coherent:
    """A coherent gain with its interval over prompts.

    Attributes
    ----------
    gain, width
        ``[layer, line]``: the gain without its bias, and half of its 95 % interval by the jackknife.
    """

    gain: Tensor
    width: Tensor

    def agrees(self, other: Coherent) -> Tensor:
        """Return where two gains are no further apart than the 95 % interval of their difference.

        As if they were independent: where roads share their prompts, it is wider than it need be.
        """
        return (self.gain - other.gain).abs().le(torch.hypot(self.width, other.width))


def coherent(response: Tensor) -> Coherent:
    """Return what prompts have in common of responses ``[prompt, direction, layer, line, feature]``."""
    n = len(response)

    def gain(of: Tensor) -> Tensor:
        power = of.abs().square().sum(-1)
        found = gains(of.sum(0), power.sqrt().sum(0), power.sum(0), len(of)).coherent_power.mean(0)
        return found.sign() * found.abs().sqrt()

    without = torch.stack([gain(response[torch.arange(n) != left]) for left in range(n)])
    error = ((n - 1) * without.var(0, correction=0)).sqrt()
    return Coherent(gain(response), float(stats.t.ppf(0.975, n - 1)) * error)


def rows_of(found: dict[str, Tensor], setup: Setup) -> Iterable[str]:
    """Yield the table, a layer and a line in each row."""
    by_road = {road: coherent(response) for road, response in found.items()}
    frequencies = setup.timing.frequencies(setup.timing.lines)
    yield f"{'layer':>6}{'period':>8}" + "".join(f"{road:>18}" for road in ROADS)
    for at, layer in enumerate(setup.heard):
        for line, frequency in enumerate(frequencies.tolist()):
            cells = [f"{each.gain[at, line]:10.4f} ±{each.width[at, line]:.4f}" for each in by_road.values()]
            yield f"{layer:6}{1 / frequency:8.2f}" + "".join(f"{cell:>18}" for cell in cells)
    yield ""
    yield f"{'layer':>6}{'':28}{'largest, rms difference':>26}{'within the interval':>24}"
    for one, other in (("tones", "impulses"), ("tones", "multisine"), ("impulses", "multisine")):
        a, b = by_road[one], by_road[other]
        for at, layer in enumerate(setup.heard):
            apart = ((a.gain - b.gain) / b.gain)[at].abs()
            held = a.agrees(b)[at]
            yield (
                f"{layer:6}{one + ' and ' + other:>28}{float(apart.max()):13.4f}"
                f"{float(apart.square().mean().sqrt()):13.4f}{int(held.sum()):16} of {len(held)}"
            )
    difference = (found["tones"] - found["impulses"]).abs().square().sum(-1)
    share = (difference / found["impulses"].abs().square().sum(-1)).sqrt()
    yield ""
    for at, layer in enumerate(setup.heard):
        yield (
            f"{layer:6} tones and impulses, prompt by prompt and line by line: apart by "
            f"{float(share[:, :, at].square().mean().sqrt()):.4f} of the response, at most "
            f"{float(share[:, :, at].max()):.4f}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.roads", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="a name for load_model")
    parser.add_argument("--prompts", type=int, default=8, help="documents of prose")
    parser.add_argument("--tokens", type=int, default=96, help="of each")
    parser.add_argument("--period", type=int, default=24, help="tokens of the longest wave")
    parser.add_argument("--directions", type=int, default=1, help="random directions")
    parser.add_argument("--draws", type=int, default=16, help="of the phases of the multisine")
    parser.add_argument("--layer", type=int, default=5, help="before which the drive enters")
    parser.add_argument("--heard", type=int, nargs="+", default=[5, 10, 20, 29], help="layers to listen at")
    parser.add_argument("--epsilon", type=float, default=0.03, help="amplitude in median norms")
    options = parser.parse_args()
    model = rl.load_model(options.model, progress=False)
    setup = Setup(
        layer=options.layer,
        heard=tuple(options.heard),
        tokens=options.tokens,
        period=options.period,
        directions=options.directions,
        draws=options.draws,
        epsilon=options.epsilon,
    )
    rows = documents(model, options.prompts, options.tokens)
    timing = setup.timing
    print(
        f"{options.model}, {len(rows)} prompts of {options.tokens} tokens, {setup.directions} directions, "
        f"driven before layer {setup.layer}; heard: {timing.periods} periods of {timing.period} tokens"
    )
    print("sequences for each prompt: " + ", ".join(f"{n} of {road}" for road, n in setup.sequences.items()))
    began = time.perf_counter()
    found = measure(model, rows, setup)
    for row in rows_of(found, setup):
        print(row)
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
