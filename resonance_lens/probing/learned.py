"""Probes that are trained by gradient: any module of `resonance_lens.nn` whose outputs are logits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from resonance_lens.errors import PromptError
from resonance_lens.nn import (
    CardModule,
    CyclicFilter,
    HiddenHead,
    OscillatorBank,
    SpectralFilter,
    from_card,
)
from resonance_lens.probing.bins import bin_edges, bin_of
from resonance_lens.probing.examples import Examples, Windows
from resonance_lens.probing.tally import Tally
from resonance_lens.probing.tuned import tuned_bank
from resonance_lens.stats.streams import stream
from resonance_lens.text_labels import Kind

Floats = NDArray[np.float64]
Make = Callable[[int, int, int], CardModule]
"""A module for features, outputs and a seed."""

HIDDEN = 64
"""Units of the hidden layer in front of a head for ordered labels."""

DRAWN, TUNED = "drawn", "tuned"
"""How a module began: at random, or at what its training windows show."""


@dataclass(frozen=True, eq=False)
class LearnedFitted:
    """A module behind standardised features.

    Attributes
    ----------
    kind
        Of the label.
    module
        Gives logits of classes, or of bins of an ordered label.
    mean, scale
        ``[feature]``: what features are standardised with.
    centres
        ``[bin]``: values of the bins; empty for classes.
    along
        Whether the module looks along tokens.
    start
        ``drawn``, or ``tuned`` if it began at the rhythms of its training windows.
    """

    kind: Kind
    module: CardModule
    mean: Tensor
    scale: Tensor
    centres: Tensor
    along: bool
    start: str = DRAWN

    @property
    def n_parameters(self) -> int:
        """Numbers that were learned."""
        return self.module.n_parameters

    def standardised(self, features: Tensor) -> Tensor:
        """Return what the module is given of features ``[window, token, feature]``."""
        return (features - self.mean) / self.scale

    def logits(self, features: Tensor) -> Tensor:
        """Return logits ``[window, token, output]``."""
        found: Tensor = self.module(self.standardised(features))
        return found

    def predict(self, features: Tensor) -> Floats:
        """Return classes, or the expected value; see `resonance_lens.probing.protocol.Fitted`."""
        with torch.no_grad():
            logits = self.logits(features)
            if self.kind == "classes":
                return np.asarray(logits.argmax(-1).double().numpy())
            return np.asarray((logits.softmax(-1) @ self.centres).double().numpy())

    def probabilities(self, features: Tensor) -> Floats:
        """Return those of classes or bins; see `resonance_lens.probing.protocol.Fitted`."""
        with torch.no_grad():
            return np.asarray(self.logits(features).double().softmax(-1).numpy())

    def card(self) -> dict[str, Any]:
        """Return what makes it again beside the tensors."""
        return {
            "kind": "learned",
            "label_kind": self.kind,
            "along": self.along,
            "start": self.start,
            "module": self.module.card(),
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return what was learned, and what features are standardised with."""
        own = {"mean": self.mean, "scale": self.scale, "centres": self.centres}
        learned = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        return {name: value.contiguous() for name, value in (own | learned).items()}

    @staticmethod
    def made_of(card: dict[str, Any], tensors: dict[str, Tensor]) -> LearnedFitted:
        """Return the probe that a card and tensors describe."""
        module = from_card(card["module"])
        learned = {k.removeprefix("module."): v for k, v in tensors.items() if k.startswith("module.")}
        module.load_state_dict(learned)
        return LearnedFitted(
            card["label_kind"],
            module.eval(),
            tensors["mean"],
            tensors["scale"],
            tensors["centres"],
            bool(card["along"]),
            str(card.get("start", DRAWN)),
        )


@dataclass(frozen=True)
class Learned:
    """A probe that is trained with Adam, and stopped when validation gets no better.

    Attributes
    ----------
    name
        What results call it.
    make
        Makes the module.
    along
        Whether it looks along tokens: it is then fitted on unfiltered features, whole windows at a time.
    ordered_only
        Whether it is for ordered labels alone.
    labellings
        How many labellings it learns, each a training of its own: the label, the control task, shuffled.
    epochs, patience
        Most epochs, and how many without a better validation score end the training.
    learning_rate, batch_windows
        Of Adam; windows of one step.

    Notes
    -----
    An ordered label is cut into bins of equal width (`resonance_lens.probing.bins`), and learned by
    cross-entropy; what is predicted is the expectation. Labels beyond the outermost bins count as these.

    Where each window has one class, an oscillator bank is trained from two starts, one that is drawn and one
    that is tuned (`resonance_lens.probing.tuned`), and validation chooses: for the label and for its controls
    alike.
    """

    name: str
    make: Make
    along: bool
    ordered_only: bool = False
    labellings: int = 3
    epochs: int = 30
    patience: int = 4
    learning_rate: float = 3e-3
    batch_windows: int = 8

    @property
    def whole_records(self) -> bool:
        """As `along`."""
        return self.along

    def why_not(self, kind: str, classes: Sequence[str]) -> str | None:
        """Return why it cannot learn such a label."""
        if self.ordered_only and kind != "ordered":
            return f"{self.name} is for ordered labels; take another probe for classes"
        return None

    def fit(self, train: Examples, validation: Examples) -> list[LearnedFitted]:
        """Return a trained probe for each of the first labellings."""
        mean, scale = _standard(train)
        found = []
        for labelling in range(min(self.labellings, train.n_labellings)):
            drawn, edges = self._drawn(train, mean, scale, labelling)
            module = drawn.module
            starts = [drawn]
            if isinstance(module, OscillatorBank) and train.kind == "classes":
                tuned = tuned_bank(module, drawn.standardised, train, labelling)
                starts += [replace(drawn, module=tuned, start=TUNED)] if tuned is not None else []
            trained = [self._trained(each, edges, labelling, train, validation) for each in starts]
            found.append(max(trained, key=lambda each: each[1])[0])
        return found

    def untrained(self, train: Examples) -> LearnedFitted:
        """Return the module as it is drawn; see `resonance_lens.probing.protocol.Probe`."""
        first = train.first()
        return self._drawn(first, *_standard(first), 0)[0]

    def _drawn(
        self, train: Examples, mean: Tensor, scale: Tensor, labelling: int
    ) -> tuple[LearnedFitted, Floats]:
        """Return a probe that has learned nothing, and the edges of its bins."""
        edges = _edges(train, labelling) if train.kind == "ordered" else np.zeros(0)
        n_outputs = len(edges) - 1 if len(edges) else len(train.classes)
        centres = torch.from_numpy((edges[1:] + edges[:-1]) / 2).float() if len(edges) else torch.zeros(0)
        module = self.make(train.n_features, n_outputs, train.seed)
        return LearnedFitted(train.kind, module, mean, scale, centres, self.along), edges

    def _trained(
        self, fitted: LearnedFitted, edges: Floats, labelling: int, train: Examples, validation: Examples
    ) -> tuple[LearnedFitted, float]:
        """Return the probe at its best epoch, the start among them, and its score on validation there."""
        optimiser = torch.optim.Adam(fitted.module.parameters(), lr=self.learning_rate)
        best, waited = score_of(fitted, validation, labelling), 0
        kept = copy.deepcopy(fitted.module.state_dict())
        for epoch in range(self.epochs):
            rng = stream(train.seed, "batches", self.name, epoch)
            for windows in train:
                order = rng.permutation(len(windows.documents))
                for start in range(0, len(order), self.batch_windows):
                    part = order[start : start + self.batch_windows]
                    loss = _loss(fitted, windows, part, edges, labelling)
                    if loss is not None:
                        optimiser.zero_grad()
                        loss.backward()
                        optimiser.step()
            score = score_of(fitted, validation, labelling)
            waited = 0 if score > best else waited + 1
            if score >= best:  # of equal ones the later: a filter goes on closing what is of no use
                best, kept = score, copy.deepcopy(fitted.module.state_dict())
            if waited >= self.patience:
                break
        fitted.module.load_state_dict(kept)
        fitted.module.eval()
        return fitted, best


def score_of(fitted: LearnedFitted, examples: Examples, labelling: int) -> float:
    """Return the accuracy, or R squared, of a labelling."""
    tally = Tally.empty(examples.kind, 1, len(examples.classes))
    for windows in examples:
        known = windows.measured
        predicted = fitted.predict(windows.features)[known]
        labels = windows.labels[..., labelling][known]
        tally.add(np.zeros(len(labels), dtype=np.int64), labels, predicted)
    return tally.score()


def _loss(
    fitted: LearnedFitted, windows: Windows, part: NDArray[np.int64], edges: Floats, labelling: int
) -> Tensor | None:
    """Return the cross-entropy over the tokens of some windows that have a label, with its penalty."""
    known = torch.from_numpy(windows.measured[part])
    if not bool(known.any()):
        return None
    labels = windows.labels[part][..., labelling][known.numpy()]
    wanted = bin_of(labels, edges) if len(edges) else labels.astype(np.int64)
    logits = fitted.logits(windows.features[torch.from_numpy(part)])[known]
    loss = functional.cross_entropy(logits, torch.from_numpy(wanted))
    if isinstance(fitted.module, SpectralFilter | CyclicFilter):
        loss = loss + fitted.module.regularisation()
    return loss


def _standard(train: Examples) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the features, 1 where there is none."""
    count, total, squares = 0, torch.zeros(train.n_features).double(), torch.zeros(train.n_features).double()
    for windows in train:
        rows = windows.features.reshape(-1, train.n_features).double()
        count += len(rows)
        total += rows.sum(0)
        squares += rows.square().sum(0)
    if not count:
        raise PromptError("No token of the training documents has a label; give more documents.")
    mean = total / count
    scale = (squares / count - mean.square()).clamp_min(0).sqrt()
    return mean.float(), torch.where(scale > 0, scale, 1.0).float()


def _edges(train: Examples, labelling: int) -> Floats:
    """Return the edges of the bins of an ordered label."""
    return bin_edges(np.concatenate([w.labels[..., labelling][w.measured] for w in train]))


def _fourier(n_features: int, n_bins: int, seed: int) -> HiddenHead:
    return HiddenHead(n_features, HIDDEN, n_bins, n_frequencies=max(n_bins // 2 - 1, 1), seed=seed)


def fourier_head(**settings: Any) -> Learned:
    """Return a hidden layer and a Fourier head, for ordered labels: a density that is smooth in the label."""
    return Learned(
        "fourier_head",
        _fourier,
        along=False,
        ordered_only=True,
        **settings,
    )


def linear_softmax(**settings: Any) -> Learned:
    """Return the same with a linear softmax head: as many parameters as `fourier_head`, trained alike."""
    return Learned(
        "linear_softmax",
        lambda *sizes: HiddenHead.as_large_as(_fourier(*sizes)),
        along=False,
        ordered_only=True,
        **settings,
    )


def spectral_filter(**settings: Any) -> Learned:
    """Return a linear probe behind a learned filter along tokens: the filter is what it found."""
    return Learned(
        "spectral_filter",
        lambda n, outputs, seed: SpectralFilter(n, outputs, n_indices=64, seed=seed),
        along=True,
        **settings,
    )


def oscillator_bank(**settings: Any) -> Learned:
    """Return a small bank of coupled oscillators, driven along tokens and read out by its synchrony."""
    # A step costs the same for many windows as for few: it goes through their tokens one by one.
    usual = {"epochs": 12, "patience": 2, "batch_windows": 32}
    return Learned(
        "oscillator_bank",
        lambda n, outputs, seed: OscillatorBank(n, 16, outputs, seed=seed),
        along=True,
        **(usual | settings),
    )
