"""What a model loses when what a probe reads is taken out of it: passes over test documents."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens.errors import ActivationError, AdapterError, ParameterError, wrong_parameter
from resonance_lens.facts import Batch
from resonance_lens.hooks.adapter import GROUPED_SITES, ModelAdapter
from resonance_lens.hooks.writing import why_not_write, write
from resonance_lens.patching.ground import batches_of, record
from resonance_lens.patching.operations.bands import RemoveBand
from resonance_lens.patching.operations.base import Operation, Scene
from resonance_lens.patching.operations.placebo import Placebo
from resonance_lens.patching.places import Place as Spot
from resonance_lens.patching.sweep import generator, put, taken
from resonance_lens.probing.asked import Asked
from resonance_lens.probing.erasing import remove_at_random, remove_read
from resonance_lens.probing.examples import in_band
from resonance_lens.probing.linear import Linear, LinearFitted, Logistic, sums_of
from resonance_lens.probing.names import ALL
from resonance_lens.probing.protocol import Fitted
from resonance_lens.probing.sparse import Sparse
from resonance_lens.probing.store import Store
from resonance_lens.probing.vocabulary import vocabulary_classes
from resonance_lens.stats.streams import stream

Floats = NDArray[np.float64]
Place = tuple[str, int, str]
"""Probe, layer, band."""

Causal = bool | Sequence[tuple[int, str]]
"""Whether to look for effects, or the layers and bands where to."""

WINDOWS = 4
"""Of each test document, evenly spread, in which effects are measured."""

LINEAR = (Linear, Logistic, Sparse)
"""Probes of which it is known what they read."""

REMOVALS = ("directions", "band")
"""What is taken out: what the probe reads in its band, or the band."""

CONTROLS = ("", "_placebo", "_others")
"""The change itself; one of the same size in random directions; and random directions that hold as much."""

MEASURES = ("class", "rest")
"""The next token's class, and which token of its class it is."""


@dataclass(frozen=True, eq=False)
class Losses:
    """Sums over the tokens of each document in one pass.

    Attributes
    ----------
    sums
        ``[measure, document, label]``, in nats: of the next token's class (nothing where the label is not one
        that tokens have by themselves) and of the rest. By the label of the token that the model is at;
        ordered labels are one.
    count
        ``[document, label]``: tokens.
    right
        ``[document]``: tokens whose label the probe reads rightly from the edited features; not-a-number for
        ordered labels.
    """

    sums: Floats
    count: Floats
    right: Floats


@dataclass(frozen=True, eq=False)
class Effect:
    """What was measured at a place.

    Attributes
    ----------
    place
        Which.
    unedited
        Of the model as it is.
    edited
        By removal and control.
    rank, others_rank
        Directions that the probe reads, and drawn ones that hold as much.
    share
        Of the band's power that lies along the directions read.
    looks_ahead
        Whether what is taken out at a token depends on later ones.
    """

    place: Place
    unedited: Losses
    edited: Mapping[tuple[str, str], Losses]
    rank: int
    others_rank: int
    share: float
    looks_ahead: bool


def require_effects(asked: Asked, causal: Causal) -> None:
    """Raise unless effects can be measured of what is asked for.

    Raises
    ------
    ParameterError
        If no probe is linear, or a layer or band is not among those that are probed.
    AdapterError
        If the site cannot be written to.
    """
    if not any(isinstance(probe, LINEAR) for probe in asked.probes):
        raise ParameterError(
            "A causal check takes out what a linear probe reads, and none of the probes is one; add 'linear'."
        )
    if not isinstance(causal, bool | Sequence):
        wanted = "true, or pairs of a layer and a band that are probed"
        raise ParameterError(wrong_parameter("probe", "causal", wanted, causal))
    places = [] if isinstance(causal, bool) else list(causal)
    for place in places:
        pair = isinstance(place, list | tuple) and len(place) == 2
        if not pair or place[0] not in asked.layers or place[1] not in asked.bands:
            wanted = "true, or pairs of a layer and a band that are probed"
            raise ParameterError(wrong_parameter("probe", "causal", wanted, place))
    if not isinstance(causal, bool) and not places:
        raise ParameterError(
            wrong_parameter("probe", "causal", "true, or at least one layer and band", causal)
        )
    facts = asked.adapter.facts
    for layer in asked.layers if isinstance(causal, bool) else {layer for layer, _ in places}:
        why = why_not_write(asked.adapter, asked.site, layer)
        if why is not None:
            raise AdapterError(f"The causal check writes to the site that is probed. {why}")
    if asked.site in GROUPED_SITES and facts.n_kv_heads != facts.n_heads:
        raise AdapterError(
            f"The causal check cannot write to {asked.site!r} of {facts.model_name}, whose heads share keys "
            "and values; probe 'z' or the residual stream."
        )


def sites_used(asked: Asked, causal: Causal) -> list[str]:
    """Return the sites that must prove themselves: those of an effect are read, written and resumed from."""
    return sorted({asked.site} | ({"resid_pre", "resid_post"} if causal is not False else set()))


def windows_checked(asked: Asked) -> list[int]:
    """Return the test windows in which effects are measured."""
    chosen: list[int] = []
    of_documents: dict[int, list[int]] = {}
    for window in asked.material.windows_of("test"):
        of_documents.setdefault(asked.material.documents.windows[window].document, []).append(window)
    for windows in of_documents.values():
        at = np.unique(np.linspace(0, len(windows) - 1, min(WINDOWS, len(windows))).round().astype(int))
        chosen += [windows[i] for i in at]
    return chosen


def bands_checked(asked: Asked, causal: Causal) -> list[str]:
    """Return the bands of the places where effects are measured, before it is known which: at most these."""
    n_probes = sum(isinstance(probe, LINEAR) for probe in asked.probes)
    if not isinstance(causal, bool):
        return [band for _, band in causal] * n_probes
    single = [band for band in asked.bands if band != ALL]
    whole = [ALL] if ALL in asked.bands else []
    return [*whole, *single[:1]] * n_probes if causal else []


def variants_of(band: str) -> list[tuple[str, str]]:
    """Return removals and controls at a band: all of a site is no band, and a band has one control."""
    found = [("directions", control) for control in CONTROLS]
    return found if band == ALL else [*found, ("band", ""), ("band", "_placebo")]


def measure_effect(
    asked: Asked, store: Store, place: Place, batch_tokens: int, progress: Callable[[int], object]
) -> Effect:
    """Fit a linear probe at a place, and measure what goes with what it reads.

    Parameters
    ----------
    asked
        What is probed.
    store
        Features, with the layer of the place among them.
    place
        Of a probe out of `LINEAR`.
    batch_tokens
        Tokens of one pass, padding included.
    progress
        Told how many windows are done, after each batch of each pass.
    """
    name, layer, band = place
    material = asked.material
    (probe,) = (each for each in asked.probes if each.name == name)
    reader = material.stored(store, layer)
    train, validation = (
        material.examples(reader, asked.width, band, part, n_labellings=1) for part in ("train", "validation")
    )
    sums = sums_of(train)
    if isinstance(probe, Linear):
        fitted: Fitted = probe.fit_sums(sums, validation)[0]
    else:
        fitted = probe.fit(train, validation)[0]
    assert isinstance(fitted, LinearFitted)
    read = remove_read(fitted, sums, band, material.method)
    drawn = stream(material.seed, "directions", *map(str, place))
    others = remove_at_random(sums, read.power(sums), drawn, band, material.method)
    filtered = RemoveBand(band=band, method=material.method)
    operations: dict[tuple[str, str], Operation] = {
        ("directions", ""): read,
        ("directions", "_placebo"): Placebo(of=read),
        ("directions", "_others"): others,
        ("band", ""): filtered,
        ("band", "_placebo"): Placebo(of=filtered),
    }
    passes = _Passes(asked, Spot(asked.site, layer), band, fitted, batch_tokens)
    found = passes.run({key: operations[key] for key in variants_of(band)}, progress)
    whole = float(np.trace(sums.covariance()))
    return Effect(
        place=place,
        unedited=found.pop(None),
        edited={key: losses for key, losses in found.items() if key is not None},
        rank=read.reads.shape[1],
        others_rank=others.reads.shape[1],
        share=read.power(sums) / whole,
        looks_ahead=filtered.looks_ahead,
    )


class _Passes:
    """Passes over test windows with something done at one place, whose logits become sums at once."""

    def __init__(self, asked: Asked, spot: Spot, band: str, fitted: LinearFitted, batch_tokens: int) -> None:
        self.asked, self.spot, self.band, self.fitted = asked, spot, band, fitted
        self.batch_tokens = batch_tokens
        self.windows = windows_checked(asked)
        documents, labels = asked.material.documents, asked.material.labels
        self.tokens = [documents.windows[w].tokens for w in self.windows]
        self.n_labels = max(len(labels.classes), 1)
        self.member: Tensor | None = None
        self.codes: Tensor | None = None
        if labels.alone is not None:
            text = itertools.chain.from_iterable(documents.tokens)
            names, codes = vocabulary_classes(
                labels.alone, asked.adapter.tokenizer, asked.adapter.facts.d_vocab, text
            )
            self.codes = torch.from_numpy(codes)
            self.member = torch.nn.functional.one_hot(self.codes, len(names)).float()  # [token, class]

    def run(
        self, operations: Mapping[tuple[str, str], Operation], progress: Callable[[int], object]
    ) -> dict[tuple[str, str] | None, Losses]:
        """Return the losses of every operation, and under ``None`` of the model as it is."""
        adapter = self.asked.adapter
        n = len(self.asked.material.documents)
        shape = (n, self.n_labels)
        found: dict[tuple[str, str] | None, Losses] = {
            key: Losses(np.zeros((len(MEASURES), *shape)), np.zeros(shape), np.zeros(n))
            for key in (None, *operations)
        }
        # The longest first, so that what a batch pads is little.
        order = sorted(range(len(self.tokens)), key=lambda i: -len(self.tokens[i]))
        rows = [self.tokens[i] for i in order]
        last = adapter.facts.n_layers - 1
        for batch in batches_of(rows, self.batch_tokens):
            some = [rows[i] for i in batch.prompts]
            which = [order[i] for i in batch.prompts]
            enter = self.spot.layer
            states = record(adapter, some, {("resid_pre", enter), ("resid_post", last)}, self.batch_tokens)
            if not adapter.resumes(batch, enter, states["resid_pre", enter], states["resid_post", last]):
                # Blocks hand on more than the residual stream: the pass is made from its beginning.
                enter = 0
                states |= record(adapter, some, {("resid_pre", 0)}, self.batch_tokens)
            for key in found:
                operation = None if key is None else operations[key]
                self._pass(adapter, batch, which, enter, states["resid_pre", enter], operation, found[key])
                progress(len(some))
        return found

    def _pass(
        self,
        adapter: ModelAdapter,
        batch: Batch,
        which: Sequence[int],
        enter: int,
        residual: Tensor,
        operation: Operation | None,
        into: Losses,
    ) -> None:
        spot = self.spot

        def change(values: Tensor) -> Tensor:
            before = taken(values, spot)
            after = before
            if operation is not None:
                names = [str(self.windows[i]) for i in which]
                scene = Scene(
                    site=spot.site,
                    layer=spot.layer,
                    head=None,
                    facts=adapter.facts,
                    lengths=batch.lengths.to(values.device),
                    generators=tuple(
                        generator(self.asked.material.seed, operation.label, spot, name) for name in names
                    ),
                )
                after = operation.edit(before, scene)
            self._read(after, which, into)
            return put(values, after, spot)

        end = adapter.resume(batch, enter, residual, write(adapter, spot.site, spot.layer, batch, change))
        end = adapter.common("resid_post", adapter.facts.n_layers - 1, end, batch)
        for row, window in enumerate(which):
            self._add(adapter, end[row], window, into)

    def _read(self, values: Tensor, which: Sequence[int], into: Losses) -> None:
        """Count the tokens whose label the probe reads rightly."""
        if not self.asked.material.labels.classes:
            into.right[:] = np.nan
            return
        for row, window in enumerate(which):
            at, labels, document = self._labelled(window)
            stop = len(self.tokens[window])
            features = in_band(
                values[row : row + 1, 1:stop].float().cpu(), self.band, self.asked.material.method
            )
            into.right[document] += (self.fitted.predict(features)[0, at - 1] == labels).sum()

    def _add(self, adapter: ModelAdapter, end: Tensor, window: int, into: Losses) -> None:
        """Add what the model loses at the tokens of a window that have a label and a next token."""
        at, labels, document = self._labelled(window)
        if not len(at):
            return
        logits = adapter.readout(end[torch.from_numpy(at)]).float().cpu()
        following = torch.tensor(self.tokens[window])[torch.from_numpy(at + 1)]
        logs = logits.log_softmax(-1)
        loss = -logs.gather(1, following[:, None])[:, 0].double()
        if not bool(loss.isfinite().all()):
            raise ActivationError(
                f"The loss is not finite when something is taken out of {self.spot.site!r} at layer "
                f"{self.spot.layer}; load the model in float32, or leave the causal check out."
            )
        of_class = torch.zeros_like(loss)
        if self.codes is not None and self.member is not None:
            shares = logs.exp() @ self.member  # [token, class]
            own = shares.gather(1, self.codes[following][:, None])[:, 0]
            # The class is as likely as its token at least, whatever rounding says.
            of_class = torch.minimum(-own.double().clamp_min(1e-30).log(), loss)
        column = (
            labels.astype(np.int64) if self.asked.material.labels.classes else np.zeros(len(at), np.int64)
        )
        for measure, values in enumerate((of_class, loss - of_class)):
            np.add.at(into.sums[measure, document], column, values.numpy())
        np.add.at(into.count[document], column, 1.0)

    def _labelled(self, window: int) -> tuple[NDArray[np.int64], Floats, int]:
        """Return positions in the pass that have a label and a next token, their labels, and the document."""
        material, number = self.asked.material, self.windows[window]
        labels = material.labellings[material.rows[number] : material.rows[number + 1], 0]
        # Position 0 is never measured; the last one has no next token.
        at = np.flatnonzero(~np.isnan(labels[:-1])) + 1
        return at, labels[at - 1], material.documents.windows[number].document
