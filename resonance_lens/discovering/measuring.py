"""What components do in documents that they were not learned from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from resonance_lens.discovering.learning import Bands, Learned
from resonance_lens.dsp.cosine import dct

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Measured:
    """Of each document, each component; and the mean spectrum of each component.

    Attributes
    ----------
    concentration
        ``[document, band, component]``: share of the component's power that lies in its band; not-a-number
        where it has none.
    expected
        ``[document, band]``: what a direction of no distinction has: the share of all power of the document
        that lies in the band, or that of white noise, whichever is more.
    share
        ``[document, band, component]``: share of the power of the band that the component holds.
    spectrum
        ``[band, component, index]``: share of the component's power at each index, mean over documents.
    """

    concentration: Floats
    expected: Floats
    share: Floats
    spectrum: Floats

    @property
    def excess(self) -> Floats:
        """``[document, band, component]``: concentration beyond what is expected; 1 where all is in the band.

        Of what could be beyond: ``(concentration - expected) / (1 - expected)``.
        """
        expected = self.expected[:, :, None]
        return (self.concentration - expected) / (1 - expected)


def measure(documents: Iterable[Tensor], learned: Learned, bands: Bands) -> Measured:
    """Return what components do in documents.

    Parameters
    ----------
    documents
        Their windows, ``[window, token, feature]``.
    learned
        Components, learned from other documents.
    bands
        The bands that they were learned in.

    Notes
    -----
    Two surrogates stand behind `expected`, and neither has to be drawn. *The same activations in another
    order* keep everything that there is between features, and no rhythm: a direction then has the share of
    white noise in a band, exactly. *A rotation of its own for each document* keeps the spectrum of the
    document and the eigenvalues of its covariance in every band, and nothing of which direction it was: a
    direction that comes from other documents then has, on average, what the whole site has. (A quotient of
    averages is not the average of quotients: see docs/discovery.md for how often this finds something where
    nothing is.) Phases of a multivariate phase-randomised surrogate say nothing here: it keeps every
    covariance in every band, and so every component.
    """
    members = torch.from_numpy(bands.members).double()  # [band, index]
    white = torch.from_numpy(bands.white)
    rows: dict[str, list[Tensor]] = {"concentration": [], "expected": [], "share": []}
    spectra = torch.zeros(*learned.weights.shape[:2], members.shape[1], dtype=torch.float64)
    counted = torch.zeros(learned.weights.shape[:2], dtype=torch.float64)
    for windows in documents:
        found = learned.coefficients(windows)  # [window, index, feature]
        of_all = found.square().sum((0, 2))  # [index]
        along = (
            torch.einsum("wif,bcf->wibc", found, learned.weights).square().sum(0)
        )  # [index, band, component]
        power = along.sum(0)
        held = torch.einsum("ibc,bi->bc", along, members)
        in_band = members @ of_all
        rows["concentration"].append(held / power)
        rows["expected"].append(torch.maximum(in_band / of_all.sum(), white))
        rows["share"].append(held / in_band[:, None])
        known = power > 0
        spectra += torch.where(known, along / power, 0.0).permute(1, 2, 0)
        counted += known
    stacked = {name: torch.stack(values).numpy() for name, values in rows.items()}
    return Measured(**stacked, spectrum=(spectra / counted[..., None]).numpy())


def signed_ranks(difference: Floats) -> Floats:
    """Return ranks of sizes over documents (the first axis), with the sign of each difference.

    What tests are made of: a component that is strong in all documents but a few is two heaps of numbers, in
    whose means resampling sees no sureness however far apart the heaps are.
    """
    ranks = stats.rankdata(np.abs(difference), axis=0, nan_policy="omit")
    return np.asarray(np.sign(difference) * ranks)


def courses(windows: Tensor, learned: Learned, bands: Bands, band: int) -> Tensor:
    """Return what components of a band do along tokens, in the band: ``[window, token, component]``."""
    found = learned.coefficients(windows) @ learned.weights[band].T  # [window, index, component]
    inside = torch.from_numpy(bands.members[band])
    basis = dct(torch.eye(bands.tokens, dtype=torch.float64), 0).T[1:][inside]  # [index, token]
    return torch.einsum("wic,it->wtc", found[:, inside], basis)
