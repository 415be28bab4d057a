"""Print how a tuned oscillator bank finds planted rhythms: ``python -m tests.benchmarks.oscillator_bank``.

One line for each update, window and frequency, then how often a rhythm is declared where there is none.
"""

from __future__ import annotations

import argparse
import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from resonance_lens.nn import OscillatorBank, last_token, locking

Update = Literal["kuramoto", "akorn"]
KINDS: list[tuple[Update, int]] = [("kuramoto", 2), ("akorn", 2), ("akorn", 4)]
PLANTED = (0.040, 0.167, 0.293, 0.420)
LEVEL = 0.05
N_TRAIN, N_FEATURES, N_TOKENS = 128, 6, 64
Records = tuple[Tensor, Tensor, Tensor]


def records(frequency: float, n: int, seed: int, amplitude: float = 1.0) -> Records:
    """Return features, labels and lengths: white noise, in every other record a cosine in one direction.

    From 48 to 64 tokens; not a number beyond, which nothing may look at.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(48, N_TOKENS + 1, (n,), generator=generator)
    labels = torch.arange(n) % 2
    noise = torch.randn(n, N_TOKENS, N_FEATURES, generator=generator)
    direction = torch.nn.functional.normalize(torch.randn(N_FEATURES, generator=generator), dim=0)
    phases = 2 * math.pi * torch.rand(n, 1, generator=generator)
    rhythm = amplitude * torch.cos(2 * math.pi * frequency * torch.arange(N_TOKENS) + phases)
    x = noise + (labels[:, None] * rhythm)[..., None] * direction
    x[torch.arange(N_TOKENS) >= lengths[:, None]] = torch.nan
    return x, labels, lengths


def halves(both: Records, n_train: int = N_TRAIN) -> tuple[Records, Records]:
    """Return the records to tune on and those to judge by."""
    x, labels, lengths = both
    return (
        (x[:n_train], labels[:n_train], lengths[:n_train]),
        (x[n_train:], labels[n_train:], lengths[n_train:]),
    )


def accuracy(bank: OscillatorBank, x: Tensor, labels: Tensor, lengths: Tensor) -> float:
    """Return how often the largest logit at the last token is the label's."""
    with torch.no_grad():
        logits = last_token(bank(x, lengths), lengths)
    return float((logits.argmax(-1) == labels).double().mean())


def shuffled(both: Records, seed: int) -> Records:
    """Return records with labels dealt out anew."""
    x, labels, lengths = both
    return x, labels[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))], lengths


def found(kind: tuple[Update, int], window: float, frequency: float, draws: int) -> str:
    """Return a line of errors and accuracies."""
    rows = []
    for draw in range(draws):
        train, test = halves(records(frequency, N_TRAIN + 256, 1000 + draw))
        bank = OscillatorBank(N_FEATURES, 4, 2, update=kind[0], dimension=kind[1], window=window)
        bank.tune(*train)
        seen = locking(bank, *test, n_permutations=199)
        natural, rate = seen.frequencies[0, 0].item(), seen.rates[0, 0].item()
        errors = (abs(natural / frequency - 1), abs(rate / frequency - 1))
        rows.append((*errors, accuracy(bank, *test), seen.p[0].item()))
    natural_error, rate_error, score, p = np.array(rows).T
    return (
        f"largest error {natural_error.max():.2%} natural, {rate_error.max():.2%} observed; "
        f"accuracy {score.mean():.3f}; p <= {LEVEL} in {int((p <= LEVEL).sum())} of {draws}"
    )


def declared(kind: tuple[Update, int], draws: int) -> str:
    """Return a line of how often the first oscillator passes without a cause."""
    counts = {"shuffled labels": 0, "no rhythm": 0, "no rhythm, on the records tuned on": 0}
    for draw in range(draws):
        planted = records(PLANTED[draw % 4], 2 * N_TRAIN, 5000 + draw)
        empty = records(PLANTED[draw % 4], 2 * N_TRAIN, 5000 + draw, amplitude=0.0)
        for name, both in {"shuffled labels": shuffled(planted, draw), "no rhythm": empty}.items():
            train, test = halves(both)
            bank = OscillatorBank(N_FEATURES, 4, 2, update=kind[0], dimension=kind[1], window=48)
            bank.tune(*train)
            counts[name] += int(locking(bank, *test, n_permutations=199, seed=draw).p[0] <= LEVEL)
        own = locking(bank, *train, n_permutations=199, seed=draw)  # of the last: no rhythm
        counts["no rhythm, on the records tuned on"] += int(own.p[0] <= LEVEL)
    return "; ".join(f"{name} {count} of {draws}" for name, count in counts.items())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.oscillator_bank", description=__doc__)
    parser.add_argument("--draws", type=int, default=25, help="for each frequency")
    draws = parser.parse_args().draws
    for kind in KINDS:
        for window in (16.0, 48.0):
            for frequency in PLANTED:
                line = found(kind, window, frequency, draws)
                print(*kind, f"window {window:g}, {frequency}: {line}", flush=True)
    for kind in KINDS:
        print(*kind, declared(kind, 4 * draws), flush=True)


if __name__ == "__main__":
    main()
