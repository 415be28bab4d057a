"""Whether oscillators of a bank lock to one class of records more than to the others, with a test."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from resonance_lens.nn.cards import last_token, require, seeded
from resonance_lens.nn.oscillators import OscillatorBank
from resonance_lens.nn.tuning import require_classes


@dataclass(frozen=True, eq=False)
class Locking:
    """How oscillators tell classes apart; on records that the bank was not tuned on, a test.

    Attributes
    ----------
    classes
        ``[oscillator]``: the class with more coherence at the last token than the other records together.
    contrast
        ``[oscillator]``: its mean coherence minus that of the others, in [-1, 1].
    p
        ``[oscillator]``: how often labels dealt out at random give at least that contrast, for whichever
        class. One oscillator's: for the smallest of a bank, correct for their number, or name the oscillator
        before looking, as with the first after `OscillatorBank.tune`.
    frequencies
        ``[oscillator, plane]``: natural frequencies in cycles per token.
    rates
        ``[oscillator, plane]``: circular mean of the observed rates over records of that class, in cycles per
        token.
    """

    classes: Tensor
    contrast: Tensor
    p: Tensor
    frequencies: Tensor
    rates: Tensor


@torch.no_grad()
def locking(
    bank: OscillatorBank, x: Tensor, labels: Tensor, lengths: Tensor | None = None, *,
    n_permutations: int = 999, seed: int = 0,
) -> Locking:  # fmt: skip
    """Return how the oscillators of a bank tell classes of records apart.

    Parameters
    ----------
    bank
        Tuned or trained on other records.
    x, lengths
        As of `OscillatorBank.synchrony`.
    labels
        The class of each record, integers ``[batch]``, each class with two records or more.
    n_permutations
        Ways in which labels are dealt out to records; the smallest p is ``1 / (n_permutations + 1)``.
    seed
        Of these.

    Raises
    ------
    ParameterError
        If labels do not go with the records, or there are no permutations.
    """
    require("locking", "n_permutations", n_permutations)
    n_classes = max(bank.n_outputs, 2)
    require_classes("locking", labels, len(x), n_classes)
    seen = bank.synchrony(x, lengths)
    coherence = last_token(seen.coherence, lengths).double().cpu()  # [record, oscillator]
    labels = labels.cpu()
    dealt = torch.rand(n_permutations, len(labels), generator=seeded(seed)).argsort(1)
    every = torch.cat([labels[None], labels[dealt]])  # [1 + permutation, record]
    most, classes = _contrasts(every, coherence, n_classes).max(1)  # [1 + permutation, oscillator]
    # Sums in another order differ in their last digits.
    exceed = (most[1:] >= most[0] - 1e-12).sum(0)
    turns = torch.stack(
        [
            torch.polar(torch.ones_like(own), 2 * math.pi * own).mean(0)
            for k, one in enumerate(classes[0].tolist())
            for own in [seen.rates[:, k].double().cpu()[labels == one]]
        ]
    )
    return Locking(
        classes=classes[0],
        contrast=most[0],
        p=(1 + exceed) / (1 + n_permutations),
        frequencies=bank.frequencies.cpu(),
        rates=turns.angle() / (2 * math.pi),
    )


def _contrasts(labels: Tensor, coherence: Tensor, n_classes: int) -> Tensor:
    """Return mean coherence of a class minus that of the others, ``[labelling, class, oscillator]``."""
    own = torch.stack([labels == one for one in range(n_classes)], dim=1).to(coherence)
    others = 1 - own
    inside = own @ coherence / own.sum(-1, keepdim=True)
    return inside - others @ coherence / others.sum(-1, keepdim=True)
