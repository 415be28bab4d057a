"""`discover`: components of a site that live in a band and come back in other documents."""

from __future__ import annotations

import dataclasses
import datetime
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from resonance_lens.discovering.asked import RANDOM, SHUFFLED, Asked, ask
from resonance_lens.discovering.concluding import conclude, made_of, to_take_out
from resonance_lens.discovering.finding import Found, Kept, find
from resonance_lens.discovering.learning import Scaling, prism_bands
from resonance_lens.discovering.planning import DiscoverPlan, make_plan
from resonance_lens.discovering.removing import Ablation, losses
from resonance_lens.files import make_folder
from resonance_lens.hooks import proof
from resonance_lens.hooks.adapter import ModelAdapter
from resonance_lens.hooks.twin import random_twin
from resonance_lens.models import given_or_loaded
from resonance_lens.partial import finished_in, save_finished
from resonance_lens.probing.documents import WINDOW, Documents
from resonance_lens.probing.store import Dtype, Store, fill, plan_store
from resonance_lens.provenance import weights_fingerprint
from resonance_lens.result import Result
from resonance_lens.runs import Run

SETTINGS = ("model", "weights_fingerprint", "prompts", "seed", "discover")
"""What must be the same for a call to be resumed."""


def discover(
    model: Any,
    corpus: Any = "corpus",
    *,
    site: str = "resid_post",
    layers: Sequence[int] | None = None,
    bands: Sequence[str] = prism_bands(),
    n_components: int = 3,
    n_ablations: int = 4,
    n_moments: int = 10,
    scaling: Scaling = "features",
    method: str = "causal",
    held_out: float = 0.5,
    window: int = WINDOW,
    baselines: Sequence[str] = (SHUFFLED,),
    dtype: Dtype = "float16",
    out: str | Path | None = None,
    seed: int = 0,
    batch_tokens: int = 2048,
    prepend_bos: bool | None = None,
    progress: bool = True,
) -> Result:
    """Look for components that live in a band along tokens and come back in document after document.

    A component is a direction of a site (at ``z`` over all heads of a layer) in a band. Half of the documents
    say which directions hold more of a band than of everything; in the other half it is tested whether they
    do so again. Nothing is told of what to look for.

    Parameters
    ----------
    model
        A TransformerBridge or HookedTransformer, or a name or folder for `load_model`.
    corpus
        ``"corpus"``: the shipped one. Or documents of it, or texts as `read_prompts` takes them, at least 12.
        Documents are the unit of everything.
    site, layers
        A site of tokens, and at which layers; all that serve it if not said. Components over heads: ``z``.
    bands
        Prism's, or ranges in cycles per token such as ``0.1-0.25``. The lowest of Prism is not among the
        usual ones: windows of up to 341 tokens have nothing but their mean in it, which is taken out.
    n_components
        Of each band and layer.
    n_ablations
        How many of those that are found are taken out of the model, in their band: the best of each band in
        turn. 0 for none.
    n_moments
        How many of its strongest moments a component is named by.
    scaling
        ``features``: each is divided by its standard deviation, so that no massive dimension decides;
        ``none``.
    method
        What makes the band that is taken out: ``causal``, or ``dct``, which lets the model see later tokens.
        It is found with ``dct``.
    held_out
        Share of documents that components are tested on.
    window
        Tokens that the model sees at a time. Tokens at the end of a document that fill no window are left
        out.
    baselines
        ``shuffled_tokens``: the same components while the model reads held-out windows with their tokens in
        random order. ``random_weights``: components of the model's twin, whose weights are drawn anew,
        learned and tested there.
    dtype
        How activations are stored meanwhile: ``float16`` or ``float32``.
    out
        A folder for the result. The same call resumes one that was stopped.
    seed
        Of everything random.
    batch_tokens
        Tokens of one pass, padding included.
    prepend_bos
        As in `resonance_lens.run`.
    progress
        Whether to show progress bars on standard error.

    Returns
    -------
    Result
        ``discovery``. Everything ``[layer, band, component]``, on held-out documents, means over documents
        with ``_low`` and ``_high`` (95 %): ``excess``, how much of a component's power lies in its band
        beyond white noise and beyond the site as a whole, of what could lie beyond (1: all of it); ``share``,
        of the band's power that the component holds, beside ``share_null``; ``beyond_shuffled_tokens``, the
        excess less that in shuffled text; ``excess_q``, ``share_q``, ``beyond_shuffled_tokens_q`` over all
        places; ``found``: all that there are of these are at most 0.05, the excess is surely more than 0.05,
        and share and excess lie above what they are held against. ``period`` in
        tokens, ``contrast``, ``spectrum[..., frequency]``, ``head_weight[..., head]``.
        ``moment_text[..., moment]`` with ``moment_context``, ``moment_value``, ``moment_document``,
        ``moment_position``; ``words_above``, ``words_below``. For those that were taken out
        ``loss_removed``, ``loss_placebo`` and ``loss_beyond``, in nats for each token, with bounds.

    Raises
    ------
    ResonanceLensError
        In one sentence: too few documents, a document shorter than a window, a band that windows cannot
        resolve, a site without tokens or with too many features, a place that cannot be written to, a folder
        of other settings.

    Notes
    -----
    Directions are those of spatio-spectral decomposition (Nikulin, Nolte and Curio 2011), in the difference
    of normalised covariances instead of their quotient: see `resonance_lens.discovering.learning.learn`.
    Nulls are in `resonance_lens.discovering.measuring.measure`.
    """
    started = time.perf_counter()
    model = given_or_loaded(model, progress)
    asked = ask(
        model, corpus, site=site, layers=layers, bands=bands, n_components=n_components,
        n_ablations=n_ablations, n_moments=n_moments, scaling=scaling, method=method, held_out=held_out,
        window=window, baselines=baselines, seed=seed, batch_tokens=batch_tokens, prepend_bos=prepend_bos,
    )  # fmt: skip
    record = asked.record()
    settings = {key: record[key] for key in SETTINGS}
    folder = None if out is None else Path(out)
    if folder is not None and (finished := finished_in(folder, settings)) is not None:
        return finished["discovery"]
    used = {asked.site} | ({"resid_pre", "resid_post"} if asked.n_ablations else set())
    proof.require(asked.adapter, sorted(used))
    record["started"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    with ExitStack() as stack:
        partial = None if folder is None else make_folder(folder / "partial")
        kept = Kept(partial, settings)
        where = partial or Path(stack.enter_context(TemporaryDirectory(prefix="resonance-lens-")))
        looking = _Looking(asked, kept, where, dtype, progress)
        found = looking.layers(asked.adapter, record["weights_fingerprint"], "")
        twin: dict[int, Found] = {}
        if RANDOM in asked.baselines:
            other = random_twin(asked.adapter, seed)
            twin = looking.layers(other, weights_fingerprint(other.model), f"{RANDOM}-")
            del other
        made = made_of(asked, found, twin)
        chosen = to_take_out(asked, found, made)
        lost = looking.losses(chosen)
    record["seconds"] = round(time.perf_counter() - started, 3)
    result = conclude(asked, found, made, chosen, lost, record)
    if folder is not None:
        save_finished(Run(results={result.name: result}, provenance=result.provenance), folder, settings)
        shutil.rmtree(folder / "partial", ignore_errors=True)
    return result


def plan(
    model: Any,
    corpus: Any = "corpus",
    *,
    site: str = "resid_post",
    layers: Sequence[int] | None = None,
    bands: Sequence[str] = prism_bands(),
    n_components: int = 3,
    n_ablations: int = 4,
    n_moments: int = 10,
    scaling: Scaling = "features",
    method: str = "causal",
    held_out: float = 0.5,
    window: int = WINDOW,
    baselines: Sequence[str] = (SHUFFLED,),
    dtype: Dtype = "float16",
    out: str | Path | None = None,
    seed: int = 0,
    batch_tokens: int = 2048,
    prepend_bos: bool | None = None,
) -> DiscoverPlan:
    """Return what `discover` would do with the same arguments: places, passes, disk and memory.

    Raises
    ------
    ResonanceLensError
        As `discover`, for everything that it refuses before its first pass.
    """
    model = given_or_loaded(model, False)
    asked = ask(
        model, corpus, site=site, layers=layers, bands=bands, n_components=n_components,
        n_ablations=n_ablations, n_moments=n_moments, scaling=scaling, method=method, held_out=held_out,
        window=window, baselines=baselines, seed=seed, batch_tokens=batch_tokens, prepend_bos=prepend_bos,
    )  # fmt: skip
    return make_plan(asked, dtype, out)


@dataclasses.dataclass(frozen=True, eq=False)
class _Looking:
    """Passes and what is kept of them."""

    asked: Asked
    kept: Kept
    where: Path
    dtype: Dtype
    progress: bool

    def layers(self, adapter: ModelAdapter, fingerprint: str | None, prefix: str) -> dict[int, Found]:
        """Return what is found at every layer of a model, or of its twin."""
        asked = self.asked
        names = {layer: f"{prefix}layer-{layer:02d}" for layer in asked.layers}
        found = {layer: self.kept.get(name) for layer, name in names.items()}
        missing = [layer for layer, each in found.items() if each is None]
        if missing:
            store = self._stored(adapter, asked.documents, fingerprint, f"{prefix}features")
            shuffled = None
            if SHUFFLED in asked.baselines and not prefix:
                documents = asked.shuffled()
                shuffled = documents, self._stored(adapter, documents, fingerprint, f"{prefix}shuffled")
            for layer in self._bar(missing, "layer", "looking"):
                found[layer] = find(asked, store, layer, shuffled)
                self.kept.keep(names[layer], found[layer])  # type: ignore[arg-type]
        return {layer: each for layer, each in found.items() if each is not None}

    def losses(self, chosen: Sequence[Ablation]) -> NDArray[np.float64]:
        """Return the losses of the windows of held-out documents: see `removing.losses`."""
        asked = self.asked
        windows = [at for at, each in enumerate(asked.documents.windows) if asked.held_out[each.document]]
        if not chosen:
            return np.zeros((len(windows), 0))
        at_once = max(1, asked.batch_tokens // len(asked.documents.windows[0].tokens))
        pieces = []
        total = len(windows) * (1 + 2 * len(chosen))
        with tqdm(
            total=total, unit="window", desc="taking out", disable=not self.progress, file=sys.stderr
        ) as bar:
            for start in range(0, len(windows), at_once):
                some, name = windows[start : start + at_once], f"losses-{start:05d}-{at_once}"
                piece = self.kept.get(name)
                if piece is None:
                    piece = {"losses": losses(asked, chosen, some, bar.update)}
                    self.kept.keep(name, piece)
                else:
                    bar.update(piece["losses"].size)
                pieces.append(piece["losses"])
        return np.concatenate(pieces)

    def _stored(
        self, adapter: ModelAdapter, documents: Documents, fingerprint: str | None, name: str
    ) -> Store:
        asked = self.asked
        store = plan_store(
            self.where / name, adapter, documents, site=asked.site, layers=asked.layers, width=asked.width,
            dtype=self.dtype, fingerprint=fingerprint,
        )  # fmt: skip
        with tqdm(
            total=int(store.rows[-1]),
            unit="token",
            desc="streaming",
            disable=not self.progress,
            file=sys.stderr,
        ) as bar:
            fill(store, adapter, documents, batch_tokens=asked.batch_tokens, progress=bar.update)
        return store

    def _bar(self, items: Sequence[int], unit: str, what: str) -> Any:
        return tqdm(items, unit=unit, desc=what, disable=not self.progress, file=sys.stderr)
