"""`probe`: what can be read of a label from activations, by band and layer, beside its controls."""

from __future__ import annotations

import dataclasses
import datetime
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from resonance_lens.errors import ParameterError, ResultError, wrong_parameter
from resonance_lens.files import make_folder
from resonance_lens.hooks import proof
from resonance_lens.hooks.adapter import ModelAdapter
from resonance_lens.hooks.twin import random_twin
from resonance_lens.models import given_or_loaded
from resonance_lens.partial import finished_in, save_finished
from resonance_lens.probing.asked import BANDS, RANDOM_WEIGHTS, Asked, ask
from resonance_lens.probing.concluding import Found, Place, best_places, conclude
from resonance_lens.probing.documents import PARTS, SHARES, WINDOW
from resonance_lens.probing.effect import Causal, require_effects, sites_used
from resonance_lens.probing.effect_telling import add_effects, lacks_effects, places_to_check
from resonance_lens.probing.material import Reader
from resonance_lens.probing.places import (
    Kept,
    Scored,
    fit_and_score,
    leave_nothing_empty,
    settings_of_places,
    tallies,
)
from resonance_lens.probing.planning import ProbePlan, free_bytes, make_plan
from resonance_lens.probing.protocol import Fitted, Probe
from resonance_lens.probing.saving import file_name, save_probe
from resonance_lens.probing.specimen import specimen
from resonance_lens.probing.store import Dtype, Store, fill, plan_store
from resonance_lens.provenance import weights_fingerprint
from resonance_lens.result import Result
from resonance_lens.runs import Run
from resonance_lens.stats.streams import stream
from resonance_lens.text_labels import Rule

FRACTIONS = (0.125, 0.25, 0.5, 1.0)
"""Of the training documents, in a learning curve."""

SETTINGS = ("model", "weights_fingerprint", "prompts", "seed", "probe")
"""What must be the same for a call to be resumed."""


def probe(
    model: Any,
    corpus: Any = "corpus",
    label: str | Path | Rule = "word_class",
    *,
    site: str = "resid_post",
    layers: Sequence[int] | None = None,
    probes: Sequence[str | Probe] | str | Probe = "linear",
    bands: Sequence[str] = BANDS,
    method: str = "dct",
    split: Sequence[float] | Mapping[str, Sequence[str]] = SHARES,
    window: int = WINDOW,
    n_shuffles: int = 3,
    baselines: Sequence[str] = (),
    causal: Causal = False,
    dtype: Dtype = "float16",
    features: str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    batch_tokens: int = 2048,
    prepend_bos: bool | None = None,
    progress: bool = True,
) -> Result:
    """Learn to read a label from activations, in every band and at every layer, and say what that is worth.

    Parameters
    ----------
    model
        A TransformerBridge or HookedTransformer, or a name or folder for `load_model`.
    corpus
        ``"corpus"``: the shipped one. Or documents of it, or texts as `read_prompts` takes them. Documents
        are the unit of everything: of the split, and of intervals.
    label
        A name: see `resonance_lens.probing.names.list_labels`; ``next_`` in front of one of tokens is that
        of the following token. Or a CSV file or dataset folder that labels spans of characters, or a rule of
        your own (`resonance_lens.text_labels.Rule`).
    site, layers
        A site of tokens, and at which layers; all that serve it if not said.
    probes
        Names out of `resonance_lens.probing.asked.PROBES`, or probes of your own
        (`resonance_lens.probing.protocol.Probe`).
    bands
        ``all``, Prism bands, ranges in cycles per token or scales of a wavelet, as the operations of
        `resonance_lens.patch` name them.
    method
        What bands are made by: ``dct``, ``wavelet`` or ``causal``.
    split
        Shares of documents for train, validation and test; or ids of documents by part.
    window
        Tokens that the model sees at a time. Bands are those of a window.
    n_shuffles
        How many times labels are shuffled.
    baselines
        ``("random_weights",)``: everything once more on the model's random-weight twin.
    causal
        Whether to take what linear probes read out of the model, and measure what it loses: at the best place
        of each and in its best single band, or at the layers and bands that are given as pairs. A call on the
        folder of a finished result adds it.
    dtype
        Features are stored as ``float16`` or ``float32``.
    features
        A folder for the features, which stay there for other labels. By default they are removed at the end.
    out
        A folder for the result and the learned probes. The same call resumes one that was stopped.
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
        ``score[probe, band, layer]`` (accuracy, or R squared for ordered labels) on test documents, with
        ``score_low`` and ``score_high``; ``balanced`` (each class counted alike); beside it
        ``score_majority``, ``score_shuffled``, ``score_control_task`` (but for labels of documents),
        ``score_random_features``, ``score_random_weights`` if asked for; ``selectivity`` with bounds;
        ``n_parameters``, ``strength``, ``score_validation``; ``learning_curve[probe, fraction]``;
        ``score_prompt[prompt, ...]``, by test document, which `compare` pairs. With ``causal`` the variables
        of `docs/probes.md` over ``place`` and ``removed``: ``effect``, in nats per token, and its controls.

    Raises
    ------
    ResonanceLensError
        In one sentence: too few documents, one class, labels that do not align with tokens, a split that
        leaks, a band that windows cannot resolve, an unknown label, probe, site or band, a disk that is too
        small, a folder of other settings.
    """
    started = time.perf_counter()
    asked = _asked(
        model, corpus, label, site=site, layers=layers, probes=probes, bands=bands, method=method,
        shares=split, window=window, n_shuffles=n_shuffles, baselines=baselines, seed=seed,
        prepend_bos=prepend_bos, batch_tokens=batch_tokens, progress=progress, causal=causal,
    )  # fmt: skip
    record = asked.record(batch_tokens)
    settings = {key: record[key] for key in SETTINGS}
    folder = None if out is None else Path(out)
    existed = folder is not None and folder.exists()
    if folder is not None and (finished := finished_in(folder, settings)) is not None:
        result = finished["probe"]
        if lacks_effects(asked, result, causal):
            result = _with_effects(asked, result, record, causal, dtype, features, batch_tokens, progress)
            save_finished(Run(results={"probe": result}, provenance=result.provenance), folder, settings)
        return result
    record["started"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    with ExitStack() as stack:
        if folder is not None:
            stack.callback(leave_nothing_empty, folder, existed)
        proof.require(asked.adapter, sites_used(asked, causal))
        if features is not None:
            where = Path(features)
        elif folder is not None:
            where = folder / "partial" / "features"
        else:
            where = Path(stack.enter_context(TemporaryDirectory(prefix="resonance-lens-")))
        store = _store(asked, asked.adapter, where, dtype, record["weights_fingerprint"])
        _require_space(store, asked)
        partial = None if folder is None else make_folder(folder / "partial")
        kept = Kept(partial, *settings_of_places(settings))
        made = None if folder is None else make_folder(folder / "probes")
        _fill(store, asked, asked.adapter, batch_tokens, progress)
        with _bar(asked, progress) as bar:
            scored = _places(asked, store, kept, "", made, bar)
            of_words = _random_features(asked, kept, bar)
            twin: dict[Place, Scored] = {}
            if RANDOM_WEIGHTS in asked.baselines:
                other = random_twin(asked.adapter, seed)
                second = _store(asked, other, where / RANDOM_WEIGHTS, dtype, weights_fingerprint(other.model))
                _fill(second, asked, other, batch_tokens, progress)
                del other
                twin = _places(asked, second, kept, f"{RANDOM_WEIGHTS}-", None, bar)
            best = best_places(asked, scored)
            curve: dict[str, list[float]] = {}
            fitted: dict[str, Fitted] = {}
            for each in asked.probes:
                curve[each.name], fitted[each.name] = _curve(asked, store, each, best[each.name])
            shown = specimen(asked, store, fitted, best)
        record["features"] = {"bytes": store.nbytes * (1 + len(asked.baselines)), "dtype": dtype}
        record["seconds"] = round(time.perf_counter() - started, 3)
        result = conclude(asked, Found(scored, of_words, twin, curve, FRACTIONS, shown), record)
        if causal:
            result = add_effects(asked, result, store, causal, batch_tokens, progress)
    if folder is not None:
        save_finished(Run(results={result.name: result}, provenance=result.provenance), folder, settings)
        shutil.rmtree(folder / "partial", ignore_errors=True)
        wanted = {file_name(each.name, layer, band) for each, layer, band in asked.places}
        for path in (folder / "probes").glob("*-L[0-9][0-9]*-*"):
            if path.suffix in (".json", ".safetensors") and path.name.rpartition(".")[0] not in wanted:
                path.unlink()  # of a call that failed for one of its probes, and was taken up without it
    return result


def plan(
    model: Any,
    corpus: Any = "corpus",
    label: str | Path | Rule = "word_class",
    *,
    site: str = "resid_post",
    layers: Sequence[int] | None = None,
    probes: Sequence[str | Probe] | str | Probe = "linear",
    bands: Sequence[str] = BANDS,
    method: str = "dct",
    split: Sequence[float] | Mapping[str, Sequence[str]] = SHARES,
    window: int = WINDOW,
    n_shuffles: int = 3,
    baselines: Sequence[str] = (),
    causal: Causal = False,
    dtype: Dtype = "float16",
    features: str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    batch_tokens: int = 2048,
    prepend_bos: bool | None = None,
) -> ProbePlan:
    """Return what `probe` would do with the same arguments: places, passes, disk and memory.

    Raises
    ------
    ResonanceLensError
        As `probe`, for everything that it refuses before its first pass.
    """
    asked = _asked(
        model, corpus, label, site=site, layers=layers, probes=probes, bands=bands, method=method,
        shares=split, window=window, n_shuffles=n_shuffles, baselines=baselines, seed=seed,
        prepend_bos=prepend_bos, batch_tokens=batch_tokens, progress=False, causal=causal,
    )  # fmt: skip
    where = Path(features) if features is not None else Path(out or gettempdir())
    return make_plan(asked, _store(asked, asked.adapter, where, dtype, None), out, batch_tokens, causal)


def _asked(
    model: Any, corpus: Any, label: Any, *, batch_tokens: int, progress: bool, causal: Causal, **asked: Any
) -> Asked:
    if type(batch_tokens) is not int or batch_tokens < 1:
        raise ParameterError(
            wrong_parameter("probe", "batch_tokens", "an integer of at least 1", batch_tokens)
        )
    model = given_or_loaded(model, progress)
    found = ask(model, corpus, label, **asked)
    if causal is not False:
        require_effects(found, causal)
    return found


def _with_effects(
    asked: Asked,
    result: Result,
    record: dict[str, Any],
    causal: Causal,
    dtype: Dtype,
    features: str | Path | None,
    batch_tokens: int,
    progress: bool,
) -> Result:
    """Return a finished result with effects, whose features are streamed again where they were not kept."""
    with TemporaryDirectory(prefix="resonance-lens-") as temporary:
        needed = asked
        if features is None:
            layers = sorted({layer for _, layer, _ in places_to_check(asked, result.data, causal)})
            needed = dataclasses.replace(asked, layers=tuple(layers))
        where = Path(temporary if features is None else features)
        store = _store(needed, asked.adapter, where, dtype, record["weights_fingerprint"])
        _require_space(store, needed)
        proof.require(asked.adapter, sites_used(asked, causal))
        _fill(store, needed, asked.adapter, batch_tokens, progress)
        return add_effects(asked, result, store, causal, batch_tokens, progress)


def _store(asked: Asked, adapter: ModelAdapter, where: Path, dtype: Dtype, fingerprint: str | None) -> Store:
    return plan_store(
        where,
        adapter,
        asked.material.documents,
        site=asked.site,
        layers=asked.layers,
        width=asked.width,
        dtype=dtype,
        fingerprint=fingerprint,
    )


def _require_space(store: Store, asked: Asked) -> None:
    """Raise `ResultError` if the disk is too small for what is not there yet."""
    there = sum(path.stat().st_size for path in store.folder.rglob("shard-*.npy"))
    needed, free = store.nbytes * (1 + len(asked.baselines)) - there, free_bytes(store.folder)
    if needed > free:
        raise ResultError(
            f"The features need {needed / 2**30:.2f} GiB in {store.folder}, and {free / 2**30:.2f} GiB are "
            "free there; give another folder as features, fewer layers, or fewer documents."
        )


def _fill(store: Store, asked: Asked, adapter: ModelAdapter, batch_tokens: int, progress: bool) -> None:
    with tqdm(
        total=int(store.rows[-1]), unit="token", desc="streaming", disable=not progress, file=sys.stderr
    ) as bar:
        fill(store, adapter, asked.material.documents, batch_tokens=batch_tokens, progress=bar.update)


def _bar(asked: Asked, progress: bool) -> Any:
    bands = sum(len(asked.bands_of(each)) for each in asked.probes)
    total = len(asked.places) * (1 + len(asked.baselines)) + bands
    return tqdm(total=total, unit="place", desc="probing", disable=not progress, file=sys.stderr)


def _places(
    asked: Asked, store: Store, kept: Kept, prefix: str, made: Path | None, bar: Any
) -> dict[Place, Scored]:
    """Fit and score every probe at every place that is not on disk yet."""
    found: dict[Place, Scored] = {}
    for each, layer, band in asked.places:
        name = file_name(each.name, layer, band)
        scored = kept.get(prefix + name)
        if scored is None:
            scored, fitted = _fit(asked, asked.material.stored(store, layer), each, band)
            if made is not None:
                fingerprint = store.manifest["weights_fingerprint"]
                save_probe(made / name, fitted, _about(asked, fingerprint, layer, band))
            kept.keep(prefix + name, scored)
        found[each.name, layer, band] = scored
        bar.update()
    return found


def _random_features(asked: Asked, kept: Kept, bar: Any) -> dict[tuple[str, str], Scored]:
    """Fit and score every probe on features that know the word alone, for which layers are all alike."""
    found = {}
    reader: Reader | None = None
    for each in asked.probes:
        for band in asked.bands_of(each):
            name = f"random_features-{each.name}-{band}"
            scored = kept.get(name)
            if scored is None:
                reader = reader or asked.material.random(asked.width)
                scored, _ = _fit(asked, reader, each, band, n_labellings=1)
                kept.keep(name, scored)
            found[each.name, band] = scored
            bar.update()
    return found


def _fit(
    asked: Asked, reader: Reader, each: Probe, band: str, n_labellings: int | None = None
) -> tuple[Scored, Fitted]:
    material = asked.material
    count = n_labellings or each.labellings
    train, validation, test = (
        material.examples(reader, asked.width, band, part, n_labellings=count) for part in PARTS
    )
    return fit_and_score(each, train, validation, test, len(material.documents))


def _curve(asked: Asked, store: Store, each: Probe, place: Place) -> tuple[list[float], Fitted]:
    """Return scores on validation for growing shares of the training documents, at one place.

    And the probe of the last share, which is all of them.
    """
    material, (_, layer, band) = asked.material, place
    reader = material.stored(store, layer)
    members = np.flatnonzero(material.part == 0)
    order = _mixed(stream(material.seed, "learning curve").permutation(members), asked)
    validation = material.examples(reader, asked.width, band, "validation", n_labellings=1)
    scores, fitted = [], None
    for fraction in FRACTIONS:
        chosen = np.zeros(len(material.documents), dtype=np.bool_)
        chosen[order[: max(1, round(fraction * len(order)))]] = True
        train = material.examples(reader, asked.width, band, "train", n_labellings=1, documents=chosen)
        values = [v for windows in train for v in np.unique(windows.labels[..., 0][windows.measured])]
        if len(set(values)) < 2:
            scores.append(float("nan"))  # these documents have one class alone
            continue
        fitted = each.fit(train, validation)
        scores.append(tallies(fitted, validation, len(material.documents))[0].score())
    assert fitted is not None  # all training documents together have two classes
    return scores, fitted[0]


def _mixed(members: NDArray[np.int64], asked: Asked) -> NDArray[np.int64]:
    """Return documents in an order in which, from the beginning, each class has its share of them.

    For a label of documents; for others they stay as they are.
    """
    of = asked.material.labels.document_classes
    if of is None:
        return members
    classes = np.array([of[member] or "" for member in members.tolist()])
    at = np.empty(len(members))
    for name in np.unique(classes):
        own = classes == name
        at[own] = (np.arange(own.sum()) + 0.5) / own.sum()
    return members[np.argsort(at, kind="stable")]


def _about(asked: Asked, fingerprint: str | None, layer: int, band: str) -> dict[str, Any]:
    """Return where a probe was fitted, for its card."""
    labels, windows = asked.material.labels, asked.material.documents.windows
    return {
        "model": asked.adapter.facts.model_name,
        "weights_fingerprint": fingerprint,
        "features": asked.width,
        "window": max(window.stop - window.start for window in windows),
        "bos": len(windows[0].tokens) > windows[0].stop - windows[0].start,
        "site": asked.site,
        "layer": layer,
        "band": band,
        "method": asked.material.method,
        "label": labels.name,
        "classes": list(labels.classes),
    }
