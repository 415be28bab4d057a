"""What probes say along one test window, and what they learned, for the eye: at the best place of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from resonance_lens.batches import token_strings
from resonance_lens.nn import OscillatorBank
from resonance_lens.probing.asked import Asked
from resonance_lens.probing.examples import in_band
from resonance_lens.probing.learned import LearnedFitted
from resonance_lens.probing.places import Scored
from resonance_lens.probing.protocol import Fitted
from resonance_lens.probing.store import Store

Floats = NDArray[np.float64]
Place = tuple[str, int, str]
"""Probe, layer, band."""

CYCLES = "cycles per token"


def specimen(
    asked: Asked, store: Store, fitted: Mapping[str, Fitted], best: Mapping[str, Place]
) -> xr.Dataset:
    """Return what each probe says of the first window of a test document that has labels.

    Parameters
    ----------
    asked
        What was probed.
    store
        Features of the model.
    fitted
        By probe, at its best place.
    best
        Where that is.

    Returns
    -------
    Dataset
        Over ``token``, with the coordinate ``token_text``. For classes ``specimen_probability[probe, class,
        token]``, ``specimen_is[class, token]`` (1 where a token is of the class) and
        ``specimen_right[probe, token]`` (the probability of its own class). For ordered labels
        ``specimen_value[probe, token]`` beside ``specimen_value_true[token]``, and of probes that give one
        ``density[probe, value, token]``. Of an oscillator bank what `oscillators` returns, and for classes
        ``coherence[class, natural_frequency]``, over all test tokens.
    """
    material = asked.material
    at = material.windows_of("test")[0]
    window = material.documents.windows[at]
    labels = material.labellings[material.rows[at] : material.rows[at + 1], 0]
    seen = {name: _features(asked, store, at, place) for name, place in best.items()}
    ids = material.documents.tokens[window.document][window.first : window.stop]
    token = np.arange(window.first, window.stop)
    about = {
        "long_name": f"token of the test document {material.documents.ids[window.document]}",
        "units": "1",
    }
    coords: dict[str, Any] = {
        "probe": list(best),
        "token": ("token", token, about),
        "token_text": ("token", list(token_strings(asked.adapter.tokenizer, ids))),
    }
    says = material.labels.says
    made: dict[str, Any] = {}
    if material.labels.kind == "classes":
        coords["class"] = list(material.labels.classes)
        given = np.stack(
            [fitted[name].probabilities(x)[0] for name, x in seen.items()]
        )  # [probe, token, class]
        given = given.transpose(0, 2, 1)
        known = ~np.isnan(labels)
        own = np.where(known, labels, 0).astype(np.int64)
        right = np.where(known, np.take_along_axis(given, own[None, None], axis=1)[:, 0], np.nan)
        belongs = np.where(known, np.arange(given.shape[1])[:, None] == own, np.nan)
        made["specimen_probability"] = (("probe", "class", "token"), given, "probability")
        made["specimen_is"] = (("class", "token"), belongs, "is of the class")
        made["specimen_right"] = (
            ("probe", "token"),
            right,
            "probability of the right class; not-a-number: no label",
        )
    else:
        values = np.stack([fitted[name].predict(x)[0] for name, x in seen.items()])
        made["specimen_value"] = (("probe", "token"), values, says)
        made["specimen_value_true"] = (("token",), labels, "true value")
        made |= _densities(fitted, seen, coords, says)
    data: xr.Dataset = xr.Dataset(
        {
            name: (dims, np.asarray(part, np.float32), {"long_name": named, "units": "1"})
            for name, (dims, part, named) in made.items()
        },
        coords=coords,
    )
    for name, x in seen.items():
        probe = fitted[name]
        if isinstance(probe, LearnedFitted) and isinstance(probe.module, OscillatorBank):
            seen_of_bank = oscillators(probe.module, probe.standardised(x), token)
            parts = [data, seen_of_bank, _coherence(asked, store, probe, best[name])]
            return xr.merge(parts, join="exact", compat="no_conflicts")
    return data


def _features(asked: Asked, store: Store, window: int, place: Place) -> torch.Tensor:
    """Return the features of a window at a place: ``[1, token, feature]``."""
    _, layer, band = place
    ((_, values),) = asked.material.stored(store, layer)([window])
    return in_band(torch.from_numpy(values), band, asked.material.method)


def _densities(
    fitted: Mapping[str, Fitted], seen: Mapping[str, torch.Tensor], coords: dict[str, Any], says: str
) -> dict[str, Any]:
    """Return densities over the values of an ordered label, of the probes that have bins of it."""
    binned = {n: f for n, f in fitted.items() if isinstance(f, LearnedFitted) and len(f.centres) > 1}
    if not binned:
        return {}
    # Bins are those of the training labels, and the same for all probes.
    centres = next(iter(binned.values())).centres.double().numpy()
    n_tokens = next(iter(seen.values())).shape[1]
    density = np.full((len(fitted), len(centres), n_tokens), np.nan)
    for i, name in enumerate(fitted):
        if name in binned:
            density[i] = binned[name].probabilities(seen[name])[0].T / (centres[1] - centres[0])
    coords["value"] = ("value", centres, {"long_name": says, "units": "1"})
    return {"density": (("probe", "value", "token"), density, "density")}


def _coherence(asked: Asked, store: Store, fitted: LearnedFitted, place: Place) -> xr.Dataset:
    """Return the mean coherence of each oscillator over the test tokens of each class; nothing if ordered."""
    material, bank = asked.material, fitted.module
    classes = material.labels.classes
    if not classes or not isinstance(bank, OscillatorBank):
        return xr.Dataset()
    sums, counts = np.zeros((len(classes), bank.n_oscillators)), np.zeros(len(classes))
    reader = material.stored(store, place[1])
    for windows in material.examples(reader, asked.width, place[2], "test", n_labellings=1):
        with torch.no_grad():
            coherence = bank.synchrony(fitted.standardised(windows.features)).coherence.double().numpy()
        known = windows.measured
        labels = windows.labels[..., 0][known].astype(np.int64)
        np.add.at(sums, labels, coherence[known])
        counts += np.bincount(labels, minlength=len(classes))
    means = np.divide(sums, counts[:, None], out=np.full_like(sums, np.nan), where=counts[:, None] > 0)
    frequencies = bank.frequencies[:, 0].detach().double().numpy()
    order = np.argsort(frequencies, kind="stable")
    about = {"long_name": "mean coherence with the drive, on test tokens", "units": "1"}
    return xr.Dataset(
        {"coherence": (("class", "natural_frequency"), means[:, order], about)},
        coords={"class": list(classes), "natural_frequency": frequencies[order]},
    )


def oscillators(bank: OscillatorBank, x: torch.Tensor, token: NDArray[Any]) -> xr.Dataset:
    """Return what a bank learned, and what it does along a window.

    Parameters
    ----------
    bank
        Fitted.
    x
        What it is given: ``[1, token, feature]``.
    token
        Coordinate of the tokens.

    Returns
    -------
    Dataset
        Oscillators from the slowest to the fastest. ``phase[oscillator, token]``, ``order_parameter[token]``,
        ``coupling[to_oscillator, oscillator]``, and by ``natural_frequency`` the ``importance``. Of
        oscillators on a sphere it is the first plane.
    """
    with torch.no_grad():
        seen = bank.synchrony(x)
        frequencies = bank.frequencies[:, 0].double().numpy()
        couplings, importance = bank.couplings.double().numpy(), bank.importance.double().numpy()
    order = np.argsort(frequencies, kind="stable")
    number = np.arange(len(order))
    cycles = {"long_name": "natural frequency", "units": CYCLES}
    return xr.Dataset(
        {
            "phase": (
                ("oscillator", "token"),
                seen.phases[0, :, order, 0].T.numpy(),
                {"long_name": "phase", "units": "rad"},
            ),
            "order_parameter": (
                "token",
                seen.order[0].numpy(),
                {"long_name": "order parameter", "units": "1"},
            ),
            "coupling": (
                ("to_oscillator", "oscillator"),
                couplings[np.ix_(order, order)],
                {"long_name": "coupling", "units": "rad per token"},
            ),
            "importance": (
                "natural_frequency",
                importance[order],
                {"long_name": "weight in the read-out", "units": "1"},
            ),
        },
        coords={
            "token": token,
            "oscillator": ("oscillator", number, {"long_name": "oscillator, slowest first", "units": "1"}),
            "to_oscillator": ("to_oscillator", number, {"long_name": "pulled oscillator", "units": "1"}),
            "natural_frequency": ("natural_frequency", frequencies[order], cycles),
        },
    )


def filters(asked: Asked, scored: Mapping[Place, Scored]) -> xr.Dataset:
    """Return the filters of the first probe that learned some: ``filter[layer, frequency]`` in [0, 1]."""
    for probe in asked.probes:
        gains = [scored[probe.name, layer, asked.bands_of(probe)[0]].gains for layer in asked.layers]
        if len(gains[0]):
            n = len(gains[0])
            about = {"long_name": "frequency", "units": CYCLES}
            about_gain = {"long_name": "gain of the learned filter", "units": "1", "probe": probe.name}
            return xr.Dataset(
                {"filter": (("layer", "frequency"), np.stack(gains), about_gain)},
                coords={
                    "layer": list(asked.layers),
                    "frequency": ("frequency", np.arange(n) / (2 * n), about),
                },
            )
    return xr.Dataset()
