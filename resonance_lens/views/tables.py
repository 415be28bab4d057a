"""The words and numbers of a report around its figures, from results and provenance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from resonance_lens.counts import SAID, Count, claims_of, counts, differing, read_off
from resonance_lens.methods import READINGS
from resonance_lens.result import Result
from resonance_lens.stats.inference import LEVEL
from resonance_lens.views.content import array, long_name, units
from resonance_lens.views.marks import BASELINES
from resonance_lens.views.means import mean_over_heads
from resonance_lens.views.text import amount, duration, given, listing, number, words

if TYPE_CHECKING:
    from resonance_lens.runs import Run


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text: ``groups`` are the headings above the headings, with their widths."""

    caption: str
    groups: tuple[tuple[str, int], ...]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Found:
    """How many places a claim finds, in the model and under the baselines.

    Attributes
    ----------
    title
        What is counted, against what.
    header
        Of the columns after the first.
    rows
        What the numbers are of, and the numbers; instead of numbers, one sentence on why there are none.
    refused
        Why there is no table, or an empty string.
    sentence
        Which part is architecture, which is learned, and which depends on the order of words.
    """

    title: str
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, tuple[str, ...] | str], ...] = ()
    refused: str = ""
    sentence: str = ""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place worth patching, and every analysis that names it."""

    label: str
    site: str
    named: tuple[tuple[str, int, str, str], ...]


def facts(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what was run, on what, as ``(term, text)``; what is not known is left out."""
    model = _mapping(provenance.get("model"))
    prompts = _mapping(provenance.get("prompts"))
    categories = _mapping(prompts.get("categories"))
    versions = _mapping(provenance.get("versions"))
    seconds = provenance.get("seconds")
    started = str(provenance.get("started", ""))[:16].replace("T", " ")
    took = "" if seconds is None else f"took {duration(float(seconds))}"
    shape = [
        f"{model[key]} {text}"
        for key, text in (("n_layers", "layers"), ("n_heads", "heads"), ("d_model", "dimensions"))
        if key in model
    ]
    weights = [
        str(text)
        for text in (
            model.get("dtype"),
            _after("digest ", _short(provenance.get("weights_fingerprint"))),
            _after("processing: ", model.get("weight_processing")),
        )
        if text
    ]
    counted = [
        f"{prompts[key]} {text}"
        for key, text in (("count", "prompts"), ("tokens", "tokens"))
        if key in prompts
    ]
    rows = [
        ("Model", ", ".join([str(model.get("model_name", "")), *shape]).strip(", ")),
        ("Weights", ", ".join(weights)),
        ("Host", words(str(model.get("host", "")))),
        ("Device", ", ".join(str(provenance[k]) for k in ("device", "dtype") if k in provenance)),
        ("Prompts", ", ".join(counted)),
        ("Prompt digest", str(_short(prompts.get("digest")) or "")),
        ("Categories", ", ".join(f"{name} {count}" for name, count in categories.items())),
        ("Seed", str(provenance.get("seed", ""))),
        ("Started", ", ".join(part for part in (started, took) if part)),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    return [(term, text) for term, text in rows if text]


def places(run: Run, most: int = 12, of_each: int = 10) -> list[Place]:
    """Return the first targets of each analysis, those first that most analyses name.

    Scores of different analyses are on different scales, so they are never added or compared.
    """
    named: dict[tuple[str, str], list[tuple[str, int, str, str]]] = {}
    for name, result in run.results.items():
        for rank, target in enumerate(result.targets(of_each), start=1):
            entry = (name, rank, number(float(target.score)), target.reason)
            named.setdefault((target.label, target.site), []).append(entry)
    ordered = sorted(named.items(), key=lambda item: (-len(item[1]), min(e[1] for e in item[1])))
    return [Place(label=label, site=site, named=tuple(entries)) for (label, site), entries in ordered[:most]]


def declared(result: Result) -> list[tuple[str, str]]:
    """Return what a result is compared with, as ``(term, text)``: baselines and nulls apart."""
    about = result.provenance
    minimum = about.get("minimum_effect")
    headline = words(str(about.get("headline", "")))
    claims = claims_of(result)
    nulls = [f"{words(c['null'])}, for {given(str(c['long_name']))}" for c in claims]
    sizes = [f"{given(str(c['long_name']))} {amount(c)}" for c in claims]
    if minimum is not None and not any(c["variable"] == about.get("headline") for c in claims):
        sizes.append(f"{headline} {minimum:g}".strip())
    return [
        ("Nulls: a test, with p and q", "; ".join(nulls) or _names(about.get("nulls")) or "none"),
        ("Baselines: an effect, no p", _names(about.get("baselines")) or "none"),
        ("Smallest effect that counts", "; ".join(sizes) or "not stated"),
    ]


def method(result: Result) -> str:
    """Return one paragraph that says which version and parameters made the numbers, and their definition."""
    about = result.provenance
    parameters = _mapping(about.get("parameters"))
    said = [f"{result.name}, version {about.get('version', 'not stated')}"]
    if parameters:
        said.append("with " + listing([f"{k} = {_plain(v)}" for k, v in parameters.items()]))
    sentences = [
        " ".join(said) + ".",
        "Bounds are 95 % over prompts, for one place at a time; they are not corrected for the number of "
        "places.",
    ]
    if about.get("source"):
        sentences.append(f"Definition: {str(about['source']).rstrip('.')}.")
    return " ".join(sentences)


def found(result: Result) -> tuple[Found, ...]:
    """Return how many places each claim of a result finds."""
    return tuple(_found(result, claim) for claim in claims_of(result))


def _found(result: Result, claim: Mapping[str, Any]) -> Found:
    reading = "".join(f", {READINGS.get((d, v), f'{words(d)} {v}')}" for d, v in claim["reading"])
    title = f"{_capital(given(str(claim['long_name'])))} against {claim['against']}{reading}"
    refused = result.provenance["tests"][claim["variable"]]["all"]["refused"]
    if refused:
        return Found(
            title=title, refused=f"No {claim['places']} are counted, and nothing is claimed: {refused}."
        )
    by_condition = {count.condition: count for count in counts(result, claim)}
    model = by_condition["plain"]
    compared = [name for name in BASELINES if name in model.beyond]
    rows: list[tuple[str, tuple[str, ...] | str]] = []
    for name in ("plain", *reversed(BASELINES)):
        said = _capital(SAID[name])
        if name in by_condition:
            count = by_condition[name]
            beyond = [str(model.beyond[c]) if name == "plain" else "" for c in compared]
            rows.append((said, (str(count.places), str(count.differ), str(count.matter), *beyond)))
        elif name in result.provenance.get("baselines", ()):
            rows.append((said, f"not run: {_why(result, name)}"))
    size = amount(claim)
    return Found(
        title=title,
        header=(
            claim["places"],
            f"differ from their null (q\u00a0\u2264\u00a0{LEVEL})",
            f"and surely by more than {size}",
            *(f"differ, and exceed {SAID[name]} by that much" for name in compared),
        ),
        rows=tuple(rows),
        sentence=_parts(result, claim, by_condition),
    )


def _parts(result: Result, claim: Mapping[str, Any], by_condition: Mapping[str, Count]) -> str:
    """Return which part of a claim is architecture, learned, or due to the order of words."""
    model, twin = by_condition["plain"], by_condition.get("random_weights")
    places, size = str(claim["places"]), amount(claim)
    if not model.differ:
        return f"None of the {model.places} {places} differs from its null, so there is nothing to divide."
    lead = f"Of the {model.differ} {places} that differ in the model, "
    parts = []
    if twin is None:
        parts.append("it is not known how many are architecture, because the random-weight twin was not run")
    else:
        data = read_off(result.data, claim)
        shared = int((differing(data, claim) & differing(data, claim, "random_weights")).sum())
        parts.append(
            f"{shared} differ in the random-weight twin as well, which is architecture "
            f"({twin.matter} of all {twin.places} differ there by more than {size})"
        )
    for name, means in (
        ("random_weights", "which is learned"),
        ("shuffled_tokens", "which depends on the order of the words"),
    ):
        if name in model.beyond:
            parts.append(f"{model.beyond[name]} exceed {SAID[name]} by more than {size}, {means}")
    if "shuffled_tokens" not in by_condition:
        parts.append("without shuffled text the part of the order of the words is not known")
    return lead + "; ".join(parts) + "."


def _why(result: Result, condition: str) -> str:
    missing = result.provenance.get("baselines_missing") or {}
    return str(missing.get(condition, "this run was made without it")).rstrip(".") + "."


def calibration(result: Result) -> tuple[str, str] | None:
    """Return whether the nulls of a result are calibrated and why: ``(state, sentence)``.

    `None` for a result that claims nothing with a p, whose nulls there are none to calibrate.
    """
    if not claims_of(result):
        return None
    known = _mapping(result.provenance.get("calibrated"))
    if not known:
        return "calibration not known", "Nobody has recorded whether the p of this analysis are calibrated."
    why = str(known.get("why") or "").rstrip(".")
    if known.get("calibrated"):
        return "calibrated", f"Its p are calibrated{': ' if why else ''}{why}."
    return "uncalibrated", f"Do not trust the p of this analysis: {why or 'they have not been calibrated'}."


def by_layer(result: Result) -> Table | None:
    """Return the headline at every layer: for all prompts, then for each category."""
    headline = str(result.provenance.get("headline", ""))
    if headline not in result.data or "layer" not in result.data[headline].dims:
        return None
    variable = result.data[headline]
    columns: list[tuple[str, str, list[str]]] = []
    positions = [""]
    if _has(variable, "first_position"):
        positions = [str(v) for v in variable["first_position"].values]
    for position in positions:
        group = f"first position: {position}" if position else "all prompts"
        columns += _columns(result, headline, group, first_position=position)
    for category in _categories(variable):
        cut = _cut(variable, category=category, first_position=positions[-1])
        group = "by category" + (f", first position: {positions[-1]}" if positions[-1] else "")
        columns.append((group, category, _texts(cut)))
    groups: list[tuple[str, int]] = [("", 1)]
    for group, _, _ in columns:
        if groups[-1][0] == group:
            groups[-1] = (group, groups[-1][1] + 1)
        else:
            groups.append((group, 1))
    layers = [str(value) for value in variable["layer"].values]
    averaged = ", mean over heads" if "head" in variable.dims else ""
    return Table(
        caption=f"{long_name(variable)}{averaged} ({units(variable)})",
        groups=tuple(groups),
        header=("layer", *(name for _, name, _ in columns)),
        rows=tuple((layer, *(texts[i] for _, _, texts in columns)) for i, layer in enumerate(layers)),
    )


def provenance_json(provenance: Mapping[str, Any]) -> str:
    """Return a provenance record as indented JSON."""
    return json.dumps(dict(provenance), indent=2, ensure_ascii=False, default=str)


def _columns(
    result: Result, headline: str, group: str, *, first_position: str
) -> list[tuple[str, str, list[str]]]:
    variable = result.data[headline]
    value = _cut(variable, first_position=first_position)
    columns = [(group, "value", _texts(value))]
    if "head" in variable.dims:
        low, high = np.fmin.reduce(value, axis=1), np.fmax.reduce(value, axis=1)
        columns.append((group, "heads from, to", _ranges(low, high)))
    elif f"{headline}_low" in result.data and f"{headline}_high" in result.data:
        low, high = (
            _cut(result.data[f"{headline}_{end}"], first_position=first_position) for end in ("low", "high")
        )
        columns.append((group, "interval", _ranges(low, high)))
    for name in _references(result, headline):
        reference = result.data[name]
        cut = _cut(reference, first_position=first_position)
        columns.append((group, long_name(reference), _texts(cut)))
    return columns


def _references(result: Result, headline: str) -> list[str]:
    """Return the baselines and nulls that stand beside the headline, as the views name them."""
    named = [r for view in result.views if headline in view.variables for r in view.references]
    beside = [f"{headline}_null", f"{headline}_effect"]
    return [
        name
        for name in dict.fromkeys([*named, *beside])
        if name.startswith(f"{headline}_") and name in result.data and "layer" in result.data[name].dims
    ]


def _categories(variable: xr.DataArray) -> list[str]:
    if not _has(variable, "category"):
        return []
    return [str(v) for v in variable["category"].values if str(v) != "all"]


def _cut(variable: xr.DataArray, *, category: str = "all", first_position: str = "") -> Any:
    """Return values ``[layer]`` or ``[layer, head]``; other dimensions at their first coordinate."""
    wanted = {"category": category, "first_position": first_position}
    for dimension in map(str, variable.dims):
        if dimension not in ("layer", "head"):
            values = [str(v) for v in variable[dimension].values]
            at = values.index(wanted[dimension]) if wanted.get(dimension) in values else 0
            variable = variable.isel({dimension: at})
    return array(variable, *(d for d in ("layer", "head") if d in variable.dims))


def _texts(values: Any) -> list[str]:
    means = mean_over_heads(values) if values.ndim == 2 else values
    return aligned([float(value) for value in means])


def _ranges(low: Any, high: Any) -> list[str]:
    texts = aligned([float(value) for value in (*low, *high)])
    return [f"{a} to {b}" for a, b in zip(texts[: len(low)], texts[len(low) :], strict=True)]


def aligned(values: list[float]) -> list[str]:
    """Return the numbers of a column with as many decimals as its largest needs for three digits.

    Examples
    --------
    >>> aligned([0.5, 12.25])
    ['0.5', '12.2']
    """
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if largest == 0 or not 1e-3 <= largest < 1e6:
        return [number(value) for value in values]
    decimals = max(0, 2 - math.floor(math.log10(largest)))
    return [
        f"{value:.{decimals}f}".replace("-", "\u2212") if math.isfinite(value) else number(value)
        for value in values
    ]


def _has(variable: xr.DataArray, dimension: str) -> bool:
    return dimension in variable.dims


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _short(digest: Any) -> str | None:
    """Return enough of a digest to tell two apart; the whole one is in the provenance."""
    return None if digest is None else str(digest)[:12]


def _after(label: str, value: Any) -> str:
    return "" if value is None else f"{label}{value}"


def _names(names: Any) -> str:
    return ", ".join(words(str(name)) for name in names or ())


def _plain(value: Any) -> str:
    return words(value) if isinstance(value, str) else json.dumps(value, default=str)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
