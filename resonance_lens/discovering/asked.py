"""What a call of `discover` asks for, checked before any pass: model, documents, places, bands."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resonance_lens import provenance
from resonance_lens.batches import Tokenized
from resonance_lens.discovering.learning import SCALINGS, Bands, Scaling
from resonance_lens.errors import (
    AdapterError,
    ModelError,
    ParameterError,
    PromptError,
    unknown,
    wrong_parameter,
)
from resonance_lens.facts import SITE_AXES
from resonance_lens.hooks import ModelAdapter, attach
from resonance_lens.hooks.adapter import GROUPED_SITES
from resonance_lens.hooks.writing import why_not_write
from resonance_lens.patching.operations.bands import METHODS
from resonance_lens.probing.documents import Documents, make_documents, split
from resonance_lens.probing.store import width_of
from resonance_lens.prompts import Prompt
from resonance_lens.stats.inference import FEWEST_UNITS
from resonance_lens.stats.streams import stream

SHUFFLED, RANDOM = "shuffled_tokens", "random_weights"
BASELINES = (SHUFFLED, RANDOM)

WIDEST = 2048
"""Features of a site: their covariance in every band is held in memory."""

ABLATIONS = tuple(name for name in METHODS if name != "wavelet")


@dataclass(frozen=True, eq=False, kw_only=True)
class Asked:
    """What is looked for, in what.

    Attributes
    ----------
    adapter
        Of the model.
    documents
        In whole windows; tokens at their ends that fill none are left out and counted.
    held_out
        Booleans ``[document]``: those that components are not learned from.
    site, layers, width
        Where, and features of a token there.
    heads
        How many heads lie side by side in the features, or 0.
    bands
        Of the windows.
    n_components, n_ablations, n_moments
        How many: of each band and layer, that are taken out, and that each component is named by.
    scaling
        Of features.
    method
        What makes the band that is taken out.
    baselines
        Out of `BASELINES`.
    seed, batch_tokens, prepend_bos
        As they were asked for.
    """

    adapter: ModelAdapter
    documents: Documents
    held_out: NDArray[np.bool_]
    site: str
    layers: tuple[int, ...]
    width: int
    heads: int
    bands: Bands
    n_components: int
    n_ablations: int
    n_moments: int
    scaling: Scaling
    method: str
    baselines: tuple[str, ...]
    seed: int
    batch_tokens: int
    prepend_bos: bool | None

    @property
    def train(self) -> list[int]:
        """Documents that components are learned from."""
        return [int(at) for at in np.flatnonzero(~self.held_out)]

    @property
    def test(self) -> list[int]:
        """Documents that they are measured on."""
        return [int(at) for at in np.flatnonzero(self.held_out)]

    def shuffled(self) -> Documents:
        """Return the documents with the tokens of each window of a held-out one in random order.

        A beginning-of-sequence token stays in front, and so does the first token of a window without one:
        the first position is not measured in either.
        """
        windows = []
        for window in self.documents.windows:
            if not self.held_out[window.document]:
                continue
            rng = stream(self.seed, SHUFFLED, self.documents.ids[window.document], window.start)
            rest = rng.permutation(window.tokens[1:]).tolist()
            windows.append(dataclasses.replace(window, tokens=(window.tokens[0], *rest)))
        return dataclasses.replace(self.documents, windows=tuple(windows))

    def record(self) -> dict[str, Any]:
        """Return what a result is made of, as plain data."""
        documents = self.documents
        prompts = [
            Prompt(text.text, text.category, id_)
            for text, id_ in zip(documents.texts, documents.ids, strict=True)
        ]
        tokenized = [Tokenized(p, t) for p, t in zip(prompts, documents.tokens, strict=True)]
        record = provenance.of_run(
            self.adapter,
            prompts,
            tokenized,
            seed=self.seed,
            prepend_bos=self.prepend_bos,
            batch_tokens=self.batch_tokens,
        )
        return {
            **record,
            "discover": {
                "site": self.site,
                "layers": list(self.layers),
                "bands": list(self.bands.names),
                "n_components": self.n_components,
                "n_ablations": self.n_ablations,
                "n_moments": self.n_moments,
                "scaling": self.scaling,
                "method": self.method,
                "window": self.bands.tokens,
                "windows": len(documents.windows),
                "windows_digest": documents.digest,
                "tokens_left_out": documents.left_out,
                "learned_from": [documents.ids[at] for at in self.train],
                "held_out": [documents.ids[at] for at in self.test],
                "baselines": list(self.baselines),
            },
        }


def ask(
    model: Any,
    corpus: Any,
    *,
    site: str,
    layers: Sequence[int] | None,
    bands: Sequence[str],
    n_components: int,
    n_ablations: int,
    n_moments: int,
    scaling: Scaling,
    method: str,
    held_out: float,
    window: int,
    baselines: Sequence[str],
    seed: int,
    batch_tokens: int,
    prepend_bos: bool | None,
) -> Asked:
    """Return what a call asks for; arguments as those of `resonance_lens.discover`.

    Raises
    ------
    ResonanceLensError
        In one sentence, for everything that cannot be.
    """
    adapter = attach(model)
    if not isinstance(adapter, ModelAdapter):
        raise ModelError("discover needs a model that can be run; an ActivationCache holds one pass.")
    _require_numbers(
        n_components=(n_components, 1), n_ablations=(n_ablations, 0), n_moments=(n_moments, 1),
        batch_tokens=(batch_tokens, 1),
    )  # fmt: skip
    if scaling not in SCALINGS:
        raise ParameterError(unknown("scaling of discover", scaling, SCALINGS))
    if method not in ABLATIONS:
        raise ParameterError(unknown("method of discover", method, ABLATIONS))
    if isinstance(held_out, bool) or not 0 < held_out < 1:
        raise ParameterError(
            wrong_parameter("discover", "held_out", "a share of documents above 0 and below 1", held_out)
        )
    for baseline in (baselines,) if isinstance(baselines, str) else baselines:
        if baseline not in BASELINES:
            raise ParameterError(unknown("baseline of discover", str(baseline), BASELINES))
    width, heads = _size(site, adapter)
    served = adapter.layers([site])
    wanted = served if layers is None else tuple(dict.fromkeys(layers))
    if not wanted or any(layer not in served for layer in wanted):
        raise ParameterError(
            wrong_parameter("discover", "layers", f"layers out of {served[0]} to {served[-1]}", layers)
        )
    if n_components > width:
        raise ParameterError(
            wrong_parameter(
                "discover", "n_components", f"no more than the {width} features of {site!r}", n_components
            )
        )
    if n_ablations:
        why = next((why for layer in wanted if (why := why_not_write(adapter, site, layer))), None)
        if why is not None:
            raise AdapterError(f"{why} With n_ablations=0 nothing is taken out.")
    documents = _whole_windows(
        make_documents(corpus, adapter.tokenizer, adapter.facts, window=window, prepend_bos=prepend_bos)
    )
    chosen = Bands.of(bands, documents.windows[0].measured)
    return Asked(
        adapter=adapter,
        documents=documents,
        held_out=_deal(documents, held_out, seed),
        site=site,
        layers=wanted,
        width=width,
        heads=heads,
        bands=chosen,
        n_components=n_components,
        n_ablations=n_ablations,
        n_moments=n_moments,
        scaling=scaling,
        method=method,
        baselines=(baselines,) if isinstance(baselines, str) else tuple(baselines),
        seed=seed,
        batch_tokens=batch_tokens,
        prepend_bos=prepend_bos,
    )


def _require_numbers(**numbers: tuple[int, int]) -> None:
    for name, (value, least) in numbers.items():
        if type(value) is not int or value < least:
            raise ParameterError(wrong_parameter("discover", name, f"an integer of at least {least}", value))


def _size(site: str, adapter: ModelAdapter) -> tuple[int, int]:
    """Return how many features a token has at a site, and how many heads they are of."""
    facts = adapter.facts
    if site not in SITE_AXES:
        raise AdapterError(unknown("site", site, SITE_AXES))
    axes = SITE_AXES[site]
    if axes[1] != "token" or site == "logits":
        fitting = [name for name, found in SITE_AXES.items() if found[1] == "token" and name != "logits"]
        raise ParameterError(
            f"Components run along tokens, and {site!r} has none; choose {', '.join(fitting)}."
        )
    if site in GROUPED_SITES and facts.n_kv_heads != facts.n_heads:
        raise ParameterError(
            f"Heads of {facts.model_name} share what is at {site!r}, so that every component would be there "
            "more than once; choose 'z' or 'q'."
        )
    width = width_of(site, facts, adapter)
    if width > WIDEST:
        instead = "; choose 'z', which it is a linear map of" if site == "head_out" else ""
        raise ParameterError(
            f"{site!r} of {facts.model_name} has {width} features, and components are found in up to "
            f"{WIDEST}{instead}."
        )
    return width, facts.n_heads if "head" in axes else 0


def _whole_windows(documents: Documents) -> Documents:
    """Return documents in windows of one length: what is left at the end of one is left out and counted."""
    longest = max(len(window.tokens) for window in documents.windows)
    windows = tuple(window for window in documents.windows if len(window.tokens) == longest)
    whole = {window.document for window in windows}
    short = next((at for at in range(len(documents)) if at not in whole), None)
    if short is not None:
        raise PromptError(
            f"Document {documents.ids[short]!r} has {len(documents.tokens[short])} tokens, and windows have "
            f"{longest}: bands are those of windows of one length; give a smaller window, or leave it out."
        )
    rest = sum(window.stop - window.start for window in documents.windows if len(window.tokens) < longest)
    return dataclasses.replace(documents, windows=windows, left_out=documents.left_out + rest)


def _deal(documents: Documents, held_out: float, seed: int) -> NDArray[np.bool_]:
    """Return which documents are held out: of each kind alike, and none on both sides."""
    n, needed = len(documents), 2 * FEWEST_UNITS
    if n < needed:
        raise PromptError(
            f"{n} document{'s are' if n != 1 else ' is'} too few to find out what comes back: discover needs "
            f"at least {needed}, half of them to learn from and {FEWEST_UNITS} to test on."
        )
    shares = (1 - held_out, held_out / 2, held_out / 2)
    kinds = [text.category or "" for text in documents.texts]
    chosen = np.asarray(split(documents, shares=shares, classes=kinds, seed=seed) > 0)
    if chosen.sum() < FEWEST_UNITS or (~chosen).sum() < FEWEST_UNITS:
        raise PromptError(
            f"Of {n} documents {chosen.sum()} are held out, and discover needs at least {FEWEST_UNITS} to "
            f"test on and as many to learn from; change held_out, or give more documents."
        )
    return chosen
