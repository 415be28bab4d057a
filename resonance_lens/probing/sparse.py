"""Sparse probes of two classes: how few features are enough, by `fit_sparse_probe` of TransformerLens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from resonance_lens.errors import ParameterError
from resonance_lens.probing.examples import Examples
from resonance_lens.probing.linear import LinearFitted, chosen_on, drawn_tokens, untrained_linear

SIZES = (64, 16, 4, 1)
"""How many features a probe may read: what validation chooses from, of equal ones the fewest."""

HELD_OUT = 0.1
"""Of the training documents: TransformerLens holds some out, and its own score of these is not used."""


@dataclass(frozen=True)
class Sparse:
    """A logistic probe that reads a few features, those whose class means differ most; for two classes.

    Attributes
    ----------
    most_tokens
        Tokens of training that are drawn at random where there are more: TransformerLens holds them.

    Notes
    -----
    `transformer_lens.tools.analysis.fit_sparse_probe`, from TransformerLens 4.1 on. Its split is within our
    training part, by document. ``strength`` in the result is the number of features.
    """

    name: str = "sparse"
    whole_records: bool = False
    labellings: int = 3
    most_tokens: int = 20_000

    def why_not(self, kind: str, classes: Sequence[str]) -> str | None:
        """It learns two classes, where TransformerLens has it."""
        if len(classes) != 2:
            return "the probe 'sparse' is for two classes; take 'linear'"
        try:
            from transformer_lens.tools.analysis import fit_sparse_probe  # noqa: F401
        except ImportError:
            return "the probe 'sparse' needs TransformerLens 4.1 or later; take 'linear'"
        return None

    def untrained(self, train: Examples) -> LinearFitted:
        """Return random weights of a few features drawn at random; see `untrained_linear`."""
        n = min(max(SIZES), train.n_features)
        return replace(untrained_linear(train, n), strength=float(n), how="sparse")

    def fit(self, train: Examples, validation: Examples) -> list[LinearFitted]:
        """Return a fitted probe for each of the first labellings.

        Raises
        ------
        ParameterError
            If TransformerLens cannot fit it: why.
        """
        from transformer_lens.tools.analysis import fit_sparse_probe

        features, labels, documents = drawn_tokens(train, self.most_tokens)
        candidates = []
        for labelling in range(min(self.labellings, train.n_labellings)):
            found = []
            for size in (size for size in SIZES if size <= train.n_features):
                try:
                    probe = fit_sparse_probe(
                        torch.from_numpy(features),
                        torch.from_numpy(labels[:, labelling].astype(np.int64)),
                        k=size,
                        test_fraction=HELD_OUT,
                        groups=torch.from_numpy(documents),
                        preprocess="standardize",
                        class_weight=None,
                        seed=train.seed,
                    )
                except (ValueError, RuntimeError) as error:
                    raise ParameterError(f"The probe 'sparse' cannot be fitted: {error}") from error
                slope = probe.coefficients / probe.preprocess_scale
                offset = probe.intercept - (slope * probe.preprocess_mean).sum()
                weight = torch.zeros(train.n_features, 2, dtype=torch.float64)
                weight[probe.selected_features, 1] = slope
                bias = torch.stack([torch.zeros_like(offset), offset])
                found.append(LinearFitted("classes", weight.float(), bias.float(), float(size), "sparse"))
            candidates.append(found)
        return chosen_on(candidates, validation)
