"""Oscillator banks that begin at the rhythms of their training windows, where windows have one label each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from resonance_lens.nn import OscillatorBank
from resonance_lens.probing.examples import Examples

COMPONENTS = 32
"""Principal components that rhythms are looked for in, at most: there must be fewer than windows."""

WINDOWS_EACH = 4
"""Training windows for each of the components, at least."""

SHORTEST = 4
"""Tokens of a window: see `resonance_lens.nn.OscillatorBank.tune`."""


def tuned_bank(
    bank: OscillatorBank, standardised: Callable[[Tensor], Tensor], train: Examples, labelling: int
) -> OscillatorBank | None:
    """Return a bank that is tuned on training windows, or ``None`` where the labels do not allow it.

    Parameters
    ----------
    bank
        As it was drawn.
    standardised
        Gives what the bank is given of features.
    train
        The training part.
    labelling
        Which of its labellings.

    Returns
    -------
    OscillatorBank or None
        ``None`` if a window has no label or more than one, a class has fewer than two windows, there are
        fewer than `WINDOWS_EACH` windows, or one is shorter than `SHORTEST`.

    Notes
    -----
    Windows are reduced to the principal components of what varies within them, each at a variance of one;
    `OscillatorBank.tune` looks for rhythms there, and the reduction is put into the drives.
    """
    labels = _labels(train, labelling)
    if labels is None:
        return None
    n_components = min(COMPONENTS, train.n_features, len(labels) // WINDOWS_EACH)
    if n_components < 1 or int(np.bincount(labels, minlength=max(bank.n_outputs, 2)).min()) < 2:
        return None
    projection = _components(standardised, train, n_components)
    reduced = [each for windows in train for each in (standardised(windows.features) @ projection).unbind(0)]
    lengths = torch.tensor([len(each) for each in reduced])
    if int(lengths.min()) < SHORTEST:
        return None
    small = OscillatorBank.from_card(bank.card() | {"in_features": projection.shape[1]})
    padded = torch.nn.utils.rnn.pad_sequence(reduced, batch_first=True)
    small.tune(padded, torch.from_numpy(labels), lengths, every_token=True)
    return small.behind(projection)


def _labels(train: Examples, labelling: int) -> np.ndarray[tuple[int], np.dtype[np.int64]] | None:
    """Return the class of each window, or ``None`` if one has none or two."""
    found = []
    for windows in train:
        for own, known in zip(windows.labels[..., labelling], windows.measured, strict=True):
            classes = np.unique(own[known])
            if len(classes) != 1:
                return None
            found.append(int(classes[0]))
    return np.array(found, dtype=np.int64)


def _components(standardised: Callable[[Tensor], Tensor], train: Examples, n: int) -> Tensor:
    """Return ``[feature, component]``: what projects onto the first principal components, of variance one."""
    scatter, count = torch.zeros(train.n_features, train.n_features).double(), 0
    for windows in train:
        x = standardised(windows.features)
        x = (x - x.mean(1, keepdim=True)).flatten(0, 1)
        scatter += (x.T @ x).double()
        count += len(x)
    values, vectors = torch.linalg.eigh(scatter / count)
    values, vectors = values[-n:].flip(0), vectors[:, -n:].flip(1)
    whole = values > values[0] * 1e-6  # fewer features may vary than there are
    found: Tensor = vectors[:, whole] / values[whole].sqrt()
    return found.float()
