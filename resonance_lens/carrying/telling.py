"""What a result of `carriers` says of itself: summary, methods, what to look at, and what to patch."""

from __future__ import annotations

import numpy as np
import xarray as xr

from resonance_lens.carrying.interventions import ABLATED, CHAIN, KERNELS, PLAIN, WORDS
from resonance_lens.result import Result, Target, ViewSpec

NAMED = 3
"""How many heads of a band the summary names."""

SHOWN = (PLAIN, "attention_held", "values_held", "mlp_held", "heads_held", ABLATED)
"""Interventions whose gains are drawn beside each other."""

EXPLAINING = (KERNELS, "heads_held", "attention_held")
"""Interventions whose shares are drawn beside that of the chain."""

UNREACHED = "a head that is held goes on with its work, so nothing here is an effect on answers."


def summary(result: Result) -> str:
    """Return who carries slow and fast waves, what is left under interventions, and what kernels explain."""
    data, about = result.data, result.provenance["carriers"]
    heard = about["heard"]
    said = [
        f"A wave that enters before layer {about['layer']} comes out of layer {heard} "
        f"{_slow_and_fast(data, PLAIN, heard)} times as large (root mean square, slowest and fastest)"
    ]
    held = [
        f"{_slow_and_fast(data, name, heard)} with {WORDS[name].partition(':')[0]}"
        for name in data.intervention.values.tolist()
        if name in ("attention_held", "mlp_held", "heads_held")
    ]
    said = [f"{said[0]}{'; ' if held else ''}{'; '.join(held)}."]
    if "carried" in data:
        for band in (data.band.values[0], data.band.values[-1]):
            best = _best(data.carried.sel(band=band))[:NAMED]
            if not best:
                continue
            named = [
                f"{label} {_share(data.carried.sel(layer=layer, head=head, band=band))} "
                f"[{_share(data.carried_low.sel(layer=layer, head=head, band=band))}, "
                f"{_share(data.carried_high.sel(layer=layer, head=head, band=band))}]"
                for label, layer, head in best
            ]
            said.append(f"Of waves of {band} tokens most goes when {_listed(named)} is held.")
        said.append(_beside_the_twin(data))
    if "carried_by_layer" in data:
        whole = data.carried_by_layer.max("layer")
        parts = [
            f"{'attention' if part == 'attn_out' else 'an MLP'} up to {_share(whole.sel(part=part).max())}"
            for part in data.part.values.tolist()
            if bool(whole.sel(part=part).notnull().any())
        ]
        said.append(f"Of whole layers {_listed(parts)} of a band.")
    if "kernel_chain" in data:
        said += _of_chains(data, heard)
    return " ".join(each for each in said if each)


def methods(result: Result) -> str:
    """Return how it was measured."""
    data, about = result.data, result.provenance["carriers"]
    n = result.provenance["prompts"]["count"]
    sentences = [
        f"A multisine of periods of {data.attrs['period']} tokens was added before layer {about['layer']}, "
        f"in {data.attrs['directions']} directions one after the other, {about['epsilon']:g} median norms "
        f"large, to {n} prompt{'s' * (n != 1)}, each with its own phases. What is held keeps, in the driven "
        "pass, the values of the undriven one.",
        "Bounds are 95 % over prompts: of means by resampling, of what is coherent by leaving out one prompt "
        "at a time.",
    ]
    if "kernel_chain" in data:
        sentences.append(
            "Kernels come from the other half of the prompts."
            if about["kernels"] == "the other half of the prompts"
            else "Kernels were given, or measured on given prompts."
        )
        sentences.append(
            "In a chain of kernels the patterns of all heads from the driven layer on are their kernels by "
            "lag, renormalised in each window, the weight of the first key left as it is, in both passes."
        )
    return " ".join(sentences)


def views(result: Result) -> list[ViewSpec]:
    """Return maps of heads by band, layers, gains under interventions, and the chain of kernels."""
    data, about = result.data, result.provenance["carriers"]
    made: list[ViewSpec] = []
    if "carried" in data:
        made.append(
            ViewSpec(
                kind="layer_head_map",
                title="Which head carries which band",
                says="Share of the response that is gone when the head alone is held.",
                misleads=f"heads beside each other stand in for each other; {UNREACHED}",
                variables=("carried",),
                colours="diverging",
                limits=_limits(data.carried),
            )
        )
    if "carried_by_layer" in data:
        for part, words in (("attn_out", "attention"), ("mlp_out", "MLPs")):
            if part in data.part and bool(data.carried_by_layer.sel(part=part).notnull().any()):
                made.append(
                    ViewSpec(
                        kind="lines",
                        title=f"What {words} carry, by layer",
                        says=f"Share of the response that is gone when all that {words} of a layer "
                        "write is held.",
                        misleads="shares of layers do not add up: what one adds the next may take away.",
                        variables=("carried_by_layer",),
                        select={"part": part},
                        series="band",
                    )
                )
    names = [name for name in SHOWN if name in data.intervention.values.tolist()]
    if len(names) > 1:
        made.append(
            ViewSpec(
                kind="lines",
                title=f"Gain at layer {about['heard']} under interventions",
                says="Root mean square gain with parts of the model held.",
                misleads="what is held still works: only its response to the wave is gone.",
                variables=("carried_by",),
                select={"layer": about["heard"], "intervention": names},
                over="frequency",
                series="intervention",
                x_scale="log",
                y_scale="log",
            )
        )
    known = data.intervention.values.tolist()
    if "kernel_chain" in data:
        made.append(
            ViewSpec(
                kind="lines",
                title="What is explained, by layer",
                says="Share of the coherent response, all frequencies together, that is still there with "
                "parts held or replaced, and in a stream that nothing is written to.",
                misleads="what only stays in the stream is explained by anything, and what MLPs do by all "
                "that leaves them free: compare a chain of kernels with what holds as much. Below zero it is "
                "off by more than the response.",
                variables=("chain_share",),
                references=("chain_share_untouched",),
                select={"intervention": [CHAIN, *(name for name in EXPLAINING if name in known)]},
                series="intervention",
                limits=(-1.0, 1.0),
            )
        )
        ends = [name for name in map(str, data) if name.startswith("kernel_chain_")]
        bounds = ("_low", "_high", "_random_weights")
        made.append(
            ViewSpec(
                kind="lines",
                title=f"What the chain of kernels explains, at layer {int(data.layer[0])}",
                says="Share of the coherent response by frequency, beside other chains.",
                misleads="where the coherent response is not surely above zero there is nothing to explain.",
                variables=("kernel_chain",),
                references=tuple(name for name in ends if not name.endswith(bounds)),
                select={"layer": int(data.layer[0])},
                over="frequency",
                x_scale="log",
            )
        )
    return made


def targets(result: Result, k: int = 50) -> list[Target]:
    """Return heads, or failing these layers, by the largest share that they carry of a band."""
    data = result.data
    if "carried" in data:
        best = data.carried.max("band")
        band = data.band.values[np.nan_to_num(data.carried.values, nan=-np.inf).argmax(-1)]
        first = int(data.layer[0])
        return [
            Target(
                site="z",
                layer=layer,
                head=head,
                score=float(best.sel(layer=layer, head=head)),
                reason=f"share of waves of {band[layer - first, head]} tokens that is gone when it is held",
            )
            for _, layer, head in _best(best)[:k]
        ]
    if "carried_by_layer" not in data:
        return []
    flat = data.carried_by_layer.max("band").stack(place=("part", "layer"))
    flat = flat[(flat.notnull() & (flat > 0)).values]
    order = np.argsort(-flat.values, kind="stable")[:k]
    return [
        Target(
            site=str(flat.part.values[i]),
            layer=int(flat.layer.values[i]),
            score=float(flat.values[i]),
            reason="largest share of a band that is gone when it is held",
        )
        for i in order
    ]


def _best(values: xr.DataArray) -> list[tuple[str, int, int]]:
    """Return label, layer and head of the values above zero, the largest first."""
    found = [
        (float(values.sel(layer=layer, head=head)), int(layer), int(head))
        for layer in values.layer.values
        for head in values["head"].values
    ]
    found = sorted((one for one in found if one[0] > 0), key=lambda one: -one[0])
    return [(f"L{layer}H{head}", layer, head) for _, layer, head in found]


def _beside_the_twin(data: xr.Dataset) -> str:
    """Return the largest share of a head in the model and in its twin."""
    largest = f"The largest share of a head in any band is {_share(data.carried.max())}"
    if "carried_random_weights" not in data:
        return f"{largest}."
    return f"{largest}, with random weights {_share(data.carried_random_weights.max())}."


def _of_chains(data: xr.Dataset, layer: int) -> list[str]:
    """Return how much of the coherent response at a layer is explained by kernels, and by less than these."""

    def share(of: xr.DataArray) -> str:
        value = float(of.sel(layer=layer))
        return f"{value:.0%}" if value >= 0 else "nothing (it is off by more than the response)"

    chain = data.chain_share
    if not bool(chain.sel(intervention=CHAIN, layer=layer).notnull()):
        return [
            f"At layer {layer} there is no coherent response surely above zero that kernels could explain."
        ]
    said = (
        f"Of the coherent response at layer {layer} the chain of measured kernels with MLPs held explains "
        f"{share(chain.sel(intervention=CHAIN))}, a stream that nothing is written to "
        f"{share(data.chain_share_untouched)}"
    )
    names = data.intervention.values.tolist()
    if KERNELS in names:
        said += f"; with MLPs that respond the chain explains {share(chain.sel(intervention=KERNELS))}"
        if "heads_held" in names:
            said += f", and MLPs alone {share(chain.sel(intervention='heads_held'))}"
    return [f"{said}."]


def _slow_and_fast(data: xr.Dataset, intervention: str, layer: int) -> str:
    gain = data.carried_by.sel(intervention=intervention, layer=layer)
    return f"{float(gain[0]):.2g} and {float(gain[-1]):.2g}"


def _limits(carried: xr.DataArray) -> tuple[float, float] | None:
    """Return the range of colours of all bands, so that they can be compared."""
    largest = float(np.nanmax(np.abs(carried.values), initial=0.0))
    return (-largest, largest) if largest else None


def _share(value: xr.DataArray) -> str:
    return f"{float(value):.1%}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
