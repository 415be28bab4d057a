"""What a result of `discover` says of itself: summary, methods, what to look at, and what to patch."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from resonance_lens.result import Result, Target, ViewSpec

NAMED = 3
"""How many moments, and heads, of a component the summary names."""

Place = tuple[int, int, int]
"""Numbers of layer, band and component, as they come in the data."""


def ordered(data: xr.Dataset) -> list[Place]:
    """Return all components: those that are found first, then by how much of their band they gained.

    By what they gained where they were learned, so that what they do elsewhere has no part in the order.
    """
    found, gained = data["found"].values, data["gained"].values
    places = [(int(a), int(b), int(c)) for a, b, c in np.ndindex(found.shape)]
    return sorted(places, key=lambda at: (not found[at], -gained[at]))


def best(data: xr.Dataset) -> Place:
    """Return the first component of `ordered`."""
    return ordered(data)[0]


def label(data: xr.Dataset, at: Place) -> str:
    """Return what a component is called: ``L9 mid 1``."""
    layer, band, component = at
    return f"L{int(data.layer[layer])} {data.band.values[band]} {int(data.component[component])}"


def summary(result: Result) -> str:
    """Return how many components come back, which are strongest, what they go by and what they are worth."""
    data, about = result.data, result.provenance["discover"]
    found, recurs = data["found"].values, data["recurs"].values
    first = (
        f"Of {found.size} components of {about['site']} (layers: {len(about['layers'])}, bands: "
        f"{len(about['bands'])}) {_count(recurs)} in documents that they were not learned from"
        f"{_by_band(data, 'recurs')}"
    )
    if "beyond_shuffled_tokens" in data and recurs.any():
        first += f", {int(found.sum()) or 'none'} of them more than in shuffled text{_by_band(data, 'found')}"
    said = [f"{first}."]
    if "recurs_random_weights" in data:
        said.append(f"With random weights {int(data['recurs_random_weights'].sum())} of its own come back.")
    if not found.any():
        at = max(ordered(data), key=lambda at: data["excess"].values[at])
        said.append(f"The nearest is {_one(data, at)}.")
        return " ".join(said)
    said.append("The first of each band, by what they gained of it where they were learned:")
    first_of: dict[int, Place] = {}
    for at in ordered(data)[: int(found.sum())]:
        first_of.setdefault(at[1], at)
    said += [f"{_one(data, at)}{_named(data, at)}." for _, at in sorted(first_of.items())]
    return " ".join([*said, *_worth(data)])


def methods(result: Result) -> str:
    """Return how it was measured."""
    data, about = result.data, result.provenance["discover"]
    n = len(about["held_out"])
    scaled = "divided by its standard deviation" if about["scaling"] == "features" else "taken as it is"
    said = [
        f"Windows of {about['window']} tokens, without the first position, the mean of each window and what "
        f"training windows have in common at each position (their median); each feature {scaled}. "
        "Components are directions whose share of the power of a band is largest beyond their share of all "
        "power, on average over "
        f"{len(about['learned_from'])} documents; everything else is of {n} others.",
        "Excess is tested against zero: a component is expected to have in its band what white noise has "
        "(the same activations in another order) or what the whole site has, whichever is more. Its share of "
        "the band's power is tested against that of a random direction (a rotation of its own for each "
        "document). p by sign flips of signed ranks of documents, q over all layers, bands and components by "
        "the largest statistic and by resampled t.",
        f"Found: both q at most 0.05 and the excess surely more than {result.provenance['minimum_effect']:g}"
        + (
            ", and more than with the tokens of each window in random order."
            if "beyond_shuffled_tokens" in data
            else "."
        ),
        "Bounds are 95 % over documents. Strong moments are those of the largest values in the band; two "
        "within half a period are one.",
    ]
    if "loss_removed" in data:
        said.append(
            "The best found of each band in turn were taken out in their band "
            f"({'causal filter' if about['method'] == 'causal' else 'cosine transform, which looks ahead'}); "
            "the placebo takes the same course out along a random direction of scaled features, one for each "
            "window."
        )
    said += [
        f"Nothing was taken out of {name}: {why}" for name, why in result.provenance["not_taken_out"].items()
    ]
    return " ".join(said)


def views(result: Result) -> list[ViewSpec]:
    """Return excess by layer and band, spectra of the best, text where the best is strong, and heads."""
    data = result.data
    misleads = (
        "a direction that other bands share is not in it, and a component is one direction: what takes two "
        "(a wave that moves through the features) is split."
    )
    made = [
        ViewSpec(
            kind="lines",
            title="What comes back in which band",
            says="Power of the first component in its band beyond what is expected, on documents that it was "
            "not learned from.",
            misleads=misleads,
            variables=("excess",),
            references=tuple(
                name for name in ("excess_shuffled_tokens", "excess_random_weights") if name in data
            ),
            select={"component": 1},
            over="layer",
            series="band",
        )
    ]
    if data.sizes["layer"] > 1 and data.sizes["band"] > 1:
        made.append(
            ViewSpec(
                kind="matrix",
                title="Share of the band's power in its first component",
                says="How much of what the site does in a band is one direction.",
                misleads="a random direction has one over the number of features.",
                variables=("share",),
                select={"component": 1},
            )
        )
    layer, band, component = best(data)
    where = {
        "layer": int(data.layer[layer]),
        "band": str(data.band.values[band]),
        "component": int(data.component[component]),
    }
    made.append(
        ViewSpec(
            kind="lines",
            title=f"Spectra of the components of L{where['layer']} {where['band']}",
            says="Where along frequencies the power of each component lies.",
            misleads="a slope that reaches into a band is no rhythm: a contrast below 1 says so.",
            variables=("spectrum",),
            select={"layer": where["layer"], "band": where["band"]},
            over="frequency",
            series="component",
            x_scale="log",
            y_scale="log",
        )
    )
    made.append(
        ViewSpec(
            kind="token_values",
            title=f"{label(data, best(data))} on the text where it is strongest",
            says="The component in its band, token by token.",
            misleads="it is the strongest window of all: others look less clear.",
            variables=("course",),
        )
    )
    if "head_weight" in data:
        made.append(
            ViewSpec(
                kind="layer_head_map",
                title=f"Heads of the first component, {where['band']}",
                says="Share of the component in each head.",
                misleads="heads that write the same can stand in for each other.",
                variables=("head_weight",),
                select={"band": where["band"], "component": 1},
            )
        )
    return made


def targets(result: Result, k: int = 50) -> list[Target]:
    """Return layers, or heads, of the components that are found."""
    data, site = result.data, result.provenance["discover"]["site"]
    made: list[Target] = []
    seen: set[tuple[int, int | None]] = set()
    for at in ordered(data):
        if not data["found"].values[at]:
            break
        layer = int(data.layer[at[0]])
        head = int(data["head_weight"].values[at].argmax()) if "head_weight" in data else None
        if (layer, head) in seen:
            continue
        seen.add((layer, head))
        made.append(
            Target(
                site=site,
                layer=layer,
                head=head,
                score=float(data["gained"].values[at]),
                reason=f"share that {label(data, at)} gained of its band",
            )
        )
    return made[:k]


def _count(which: NDArray[np.bool_]) -> str:
    n = int(which.sum())
    return f"{n} come back in their bands" if n > 1 else f"{'one' if n else 'none'} comes back in its band"


def _by_band(data: xr.Dataset, name: str) -> str:
    """Return how many components of each band there are."""
    counts = data[name].sum(("layer", "component"))
    if not int(counts.sum()):
        return ""
    return (
        f" ({', '.join(f'{name} {int(n)}' for name, n in zip(data.band.values, counts.values, strict=True))})"
    )


def _one(data: xr.Dataset, at: Place) -> str:
    """Return a component with its excess, share, period and heads."""
    here = data.isel(layer=at[0], band=at[1], component=at[2])
    kind = "" if not float(here["contrast"]) <= 1 else ", a slope and no peak"
    said = (
        f"{label(data, at)} (period about {float(here['period']):.2g} tokens{kind}): excess "
        f"{_bounds(here, 'excess')}, {float(here['share']):.1%} of the band's power"
    )
    if "excess_shuffled_tokens" in data:
        said += f", in shuffled text {float(here['excess_shuffled_tokens']):.2f}"
    if "head_weight" in data:
        weights = here["head_weight"].values
        heads = [f"H{head} {weights[head]:.0%}" for head in np.argsort(-weights)[:NAMED]]
        said += f", mostly {', '.join(heads)}"
    return said


def _named(data: xr.Dataset, at: Place) -> str:
    """Return the words that a component goes by, and its strongest moment."""
    here = data.isel(layer=at[0], band=at[1], component=at[2])
    above, below = str(here["words_above"].item()), str(here["words_below"].item())
    words = [f"{way} at {those}" for way, those in (("above zero", above), ("below", below)) if those]
    moments = [repr(str(text)) for text in here["moment_text"].values[:NAMED] if text]
    return f"; {', '.join([*words, f'strongest at {chr(32).join(moments)}'])}"


def _worth(data: xr.Dataset) -> list[str]:
    """Return what taking components out costs."""
    if "loss_removed" not in data:
        return ["None of them was taken out."]
    said = []
    for at in ordered(data):
        here = data.isel(layer=at[0], band=at[1], component=at[2])
        if bool(here["loss_removed"].notnull()):
            said.append(
                f"{label(data, at)} {_bounds(here, 'loss_removed', '+.4f')} (placebo "
                f"{float(here['loss_placebo']):+.4f}, q {float(here['loss_beyond_q']):.2g})"
            )
    return [
        f"Taking one out of its band adds to the loss of {float(data['loss']):.2f} nats per token: "
        f"{'; '.join(said)}."
    ]


def _bounds(here: xr.Dataset, name: str, form: str = ".2f") -> str:
    value, low, high = (float(here[name + end]) for end in ("", "_low", "_high"))
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"
