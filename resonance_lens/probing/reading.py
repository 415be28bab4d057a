"""A saved probe on a new text: what it reads of each token, as it read in training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from resonance_lens import provenance
from resonance_lens.batches import Tokenized, token_strings
from resonance_lens.errors import ModelError, PromptError, ResultError, unknown
from resonance_lens.facts import Batch
from resonance_lens.hooks import ModelAdapter, attach
from resonance_lens.nn import OscillatorBank
from resonance_lens.observing import require_finite
from resonance_lens.probing.examples import in_band, require_band
from resonance_lens.probing.learned import LearnedFitted
from resonance_lens.probing.offsets import tokens_of
from resonance_lens.probing.protocol import Fitted
from resonance_lens.probing.saving import file_name, load_probe
from resonance_lens.probing.showing import oscillator_views
from resonance_lens.probing.specimen import oscillators
from resonance_lens.probing.store import width_of
from resonance_lens.prompts import Prompt
from resonance_lens.result import Result, ViewSpec
from resonance_lens.runs import Run
from resonance_lens.signal import Signal

Floats = NDArray[np.float64]

MOST_CLASSES = 4
"""Classes that tokens are coloured by: those that are most probable over the text."""

Saved = str | Path | tuple[Fitted, Mapping[str, Any]]


def read_probe(
    saved: Saved, model: Any, text: str, *, probe: str | None = None, any_weights: bool = False
) -> Result:
    """Return what a saved probe reads of each token of a text.

    Parameters
    ----------
    saved
        The folder that `resonance_lens.probe` wrote (``out=``): its probe at the best place. Or the file of
        one probe in the folder ``probes`` there, or what `resonance_lens.probing.saving.load_probe` returns.
    model
        The model that the probe was fitted on.
    text
        A text, of any length: a longer one than the windows of training is read window by window.
    probe
        Which probe of a folder; the first if not said.
    any_weights
        Whether the model may have other weights than that of the training, as another checkpoint has. A
        direction of one model need not mean anything in another.

    Returns
    -------
    Result
        Over ``token``, with ``token_text``: ``probability[class, token]`` and ``predicted[token]``, the
        number of the class; for an ordered label ``value[token]``, and ``density[value_bin, token]`` where
        the probe gives one. Not-a-number at the first token of a model without a beginning-of-sequence token:
        probes never read the first position. Of an oscillator bank also phases, for a text of one window.
        ``view()`` and ``plot()`` show the text in colours.

    Raises
    ------
    ResonanceLensError
        In one sentence: no such probe, another model, a text that is too short for the band.

    Notes
    -----
    Windows are as long as those of training, and filtered each by itself. Where a text has several, each
    begins where the one before ends, and the last one is moved back so that it is whole.
    """
    fitted, card = _probe(saved, probe)
    adapter = attach(model)
    if not isinstance(adapter, ModelAdapter):
        raise ModelError("read_probe needs a model that can be run; an ActivationCache holds one pass.")
    _require_width(card, adapter)
    ids, _ = tokens_of(adapter.tokenizer, text, "the text") if adapter.tokenizer is not None else ((), ())
    if not ids:
        raise PromptError(f"{adapter.facts.model_name} has no tokenizer to read a text with.")
    record = provenance.of_run(
        adapter, [Prompt(text)], [Tokenized(Prompt(text), ids)], seed=0, prepend_bos=bool(card["bos"]),
        batch_tokens=None,
    )  # fmt: skip
    if not any_weights and record["weights_fingerprint"] != card["weights_fingerprint"]:
        raise ModelError(
            f"The probe was fitted on {card['model']} with other weights than this "
            f"{adapter.facts.model_name} has; give that model, or any_weights=True to read another with it."
        )
    lead = 0 if card["bos"] else 1  # the first position is never read
    if len(ids) <= lead:
        raise PromptError("The text has one token, and the first position is never read; give a longer text.")
    spans = windows(len(ids), int(card["window"]), lead)
    require_band(card["band"], card["method"], [stop - start - lead for start, stop in spans])
    seen = [_features(adapter, ids, span, card) for span in spans]
    data = _dataset(fitted, card, seen, spans, lead, len(ids))
    coords = {
        "token": ("token", np.arange(len(ids)), {"long_name": "token", "units": "1"}),
        "token_text": ("token", list(token_strings(adapter.tokenizer, ids))),
    }
    data = data.assign_coords(coords)
    views = _views(data, card)
    if len(spans) == 1 and isinstance(fitted, LearnedFitted) and isinstance(fitted.module, OscillatorBank):
        more = oscillators(fitted.module, fitted.standardised(seen[0]), np.arange(lead, len(ids)))
        data = xr.merge([data, more.reindex(token=data["token"])], join="exact", compat="no_conflicts")
        views += oscillator_views()
    where = {key: card[key] for key in ("label", "site", "layer", "band", "method")}
    return Result(
        name="probe_reading",
        data=data,
        provenance={
            **record,
            "analysis": "probe_reading",
            "title": f"What a probe of {card['label']} reads of a text",
            "version": "1",
            "headline": "probability" if "probability" in data else "value",
            "evidence": "measured",
            "baselines": [],
            "nulls": [],
            "claims": [],
            "parameters": where,
        },
        summary=_summary(data, card),
        methods="A probe that was fitted on other texts reads this one; nothing is fitted, and nothing is "
        "compared. What the probe is worth stands in the result of its training.",
        views=tuple(views),
    )


def windows(n: int, window: int, lead: int) -> list[tuple[int, int]]:
    """Return the windows that read a text: first token, and one after the last.

    Parameters
    ----------
    n
        Tokens of the text.
    window
        Tokens of a window.
    lead
        First tokens of a window that are not read, 0 or 1: the window before reads them.

    Examples
    --------
    >>> windows(10, 4, 1), windows(10, 4, 0), windows(3, 4, 1)
    ([(0, 4), (3, 7), (6, 10)], [(0, 4), (4, 8), (6, 10)], [(0, 3)])
    """
    if n <= window:
        return [(0, n)]
    starts = [*range(0, n - window, window - lead), n - window]
    return [(start, start + window) for start in starts]


def _probe(saved: Saved, name: str | None) -> tuple[Fitted, Mapping[str, Any]]:
    """Return a probe and its card, wherever they are."""
    if isinstance(saved, tuple):
        fitted, card = saved
    else:
        path = Path(saved)
        if path.is_dir():
            best = Run.load(path)["probe"].provenance["best"]
            chosen = next(iter(best)) if name is None else name
            if chosen not in best:
                raise ResultError(unknown(f"probe in {path}", chosen, best))
            path = path / "probes" / file_name(chosen, best[chosen]["layer"], best[chosen]["band"])
        fitted, card = load_probe(path)
    missing = [key for key in ("window", "bos", "features", "weights_fingerprint") if key not in card]
    if missing:
        raise ResultError(f"The card of the probe does not say its {missing[0]}; fit the probe again.")
    return fitted, card


def _require_width(card: Mapping[str, Any], adapter: ModelAdapter) -> None:
    """Raise `ModelError` unless the model has the place, and as many features there."""
    name, site, layer = adapter.facts.model_name, card["site"], card["layer"]
    if layer not in adapter.layers([site]):
        raise ModelError(
            f"The probe reads {site} at layer {layer} of {card['model']}, which {name} does not have."
        )
    width = width_of(site, adapter.facts, adapter)
    if width != card["features"]:
        raise ModelError(
            f"The probe reads {card['features']} features of {site} of {card['model']}, and {name} has "
            f"{width} there; give the model that it was fitted on."
        )


def _features(
    adapter: ModelAdapter, ids: tuple[int, ...], span: tuple[int, int], card: Mapping[str, Any]
) -> torch.Tensor:
    """Return the features of a window in the band of the probe: ``[1, token, feature]``."""
    bos = adapter.facts.bos_token
    front = [int(bos)] if card["bos"] and bos is not None else []
    tokens = torch.tensor([[*front, *ids[slice(*span)]]])
    found: list[torch.Tensor] = []

    def receive(signal: Signal) -> None:
        require_finite(signal)
        found.append(signal.values.flatten(2)[:, 1:].float().cpu())

    batch = Batch(tokens, torch.tensor([tokens.shape[1]]), (0,))
    adapter.run(batch, {card["layer"]: (card["site"],)}, receive)
    return in_band(found[0], card["band"], card["method"])


def _dataset(
    fitted: Fitted,
    card: Mapping[str, Any],
    seen: list[torch.Tensor],
    spans: list[tuple[int, int]],
    lead: int,
    n: int,
) -> xr.Dataset:
    given = _joined([fitted.probabilities(x)[0] for x in seen], spans, lead, n)  # [token, outcome]
    predicted = _joined([fitted.predict(x)[0][:, None] for x in seen], spans, lead, n)[:, 0]
    label, classes = str(card["label"]), list(card["classes"])
    if classes:
        about = {"long_name": f"class of {label} that is most probable", "units": "1"}
        return xr.Dataset(
            {
                "probability": (("class", "token"), given.T, {"long_name": "probability", "units": "1"}),
                "predicted": ("token", predicted, about),
            },
            coords={"class": classes},
        )
    data = xr.Dataset({"value": ("token", predicted, {"long_name": label, "units": "1"})})
    if given.shape[1] > 1 and isinstance(fitted, LearnedFitted):
        centres = fitted.centres.double().numpy()
        density = given.T / (centres[1] - centres[0])
        data["density"] = (("value_bin", "token"), density, {"long_name": "density", "units": "1"})
        data = data.assign_coords(value_bin=("value_bin", centres, {"long_name": label, "units": "1"}))
    return data


def _joined(parts: list[Floats], spans: list[tuple[int, int]], lead: int, n: int) -> Floats:
    """Return the values of a text from those of its windows; where two read a token, those of the first."""
    joined = np.full((n, parts[0].shape[1]), np.nan)
    read = 0
    for values, (start, stop) in zip(parts, spans, strict=True):
        first = max(start + lead, read)
        joined[first:stop] = values[first - start - lead :]
        read = stop
    return joined


def _views(data: xr.Dataset, card: Mapping[str, Any]) -> list[ViewSpec]:
    label = card["label"]
    misleads = "a probe says something of every token, also where the label means nothing."
    if "probability" in data:
        share = data["probability"].mean("token").values
        ranked = [str(data["class"].values[i]) for i in np.argsort(-share, kind="stable")]
        # Of two classes one says all.
        shown = list(card["classes"])[:1] if len(ranked) == 2 else ranked[:MOST_CLASSES]
        return [
            ViewSpec(
                kind="token_values",
                title=f"Probability of {shown[0] if len(shown) == 1 else label} along the text",
                says="How probable the probe finds each class at each token, strongest classes first.",
                misleads=f"{misleads} Probabilities are not calibrated.",
                variables=("probability",),
                series="class",
                select={"class": shown},
                limits=(0.0, 1.0),
            )
        ]
    made = [
        ViewSpec(
            kind="token_values",
            title=f"{label} along the text, as the probe reads it",
            says="The value that the probe reads at each token.",
            misleads=misleads,
            variables=("value",),
        )
    ]
    if "density" in data:
        made.append(
            ViewSpec(
                kind="image",
                title=f"Density of {label} along the text",
                says="What the head holds possible at each token, and the value that is expected as a point.",
                misleads="a density is not calibrated.",
                variables=("density",),
                references=("value",),
                over="token",
                down="value_bin",
            )
        )
    return made


def _summary(data: xr.Dataset, card: Mapping[str, Any]) -> str:
    where = f"{card['label']} in {card['site']} at layer {card['layer']}, band {card['band']}"
    if "predicted" not in data:
        low, high = float(data["value"].min()), float(data["value"].max())
        return f"Reads {where}: from {low:.3g} to {high:.3g} over {int(data['value'].count())} tokens."
    known = data["predicted"].values[~np.isnan(data["predicted"].values)].astype(int)
    counts = np.bincount(known, minlength=data.sizes["class"])
    order = [i for i in np.argsort(-counts, kind="stable") if counts[i]]
    said = ", ".join(f"{data['class'].values[i]} {counts[i]}" for i in order[:MOST_CLASSES])
    rest = sum(counts[i] for i in order[MOST_CLASSES:])
    more = f" and others {rest}" if rest else ""
    return f"Reads {where}, of {len(known)} tokens: {said}{more}."
