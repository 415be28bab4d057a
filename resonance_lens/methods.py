"""One sentence of methods for every claim, and one of findings: generated, so that they cannot differ
from what was done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resonance_lens.counts import SAID, Count, claims_of, counts
from resonance_lens.result import Result
from resonance_lens.stats.inference import EXACT_UNITS, FLIPS, LEVEL, RESAMPLES, places_at_floor

UNITS = {"prompt": "prompts", "group": "jackknife groups of prompts", "draw": "surrogates"}

READINGS = {
    ("first_position", "drop"): "first position left out",
    ("first_position", "keep"): "with the first position",
}


def methods(result: Result) -> str:
    """Return how the claims of a result were tested, and which baselines stand beside them."""
    sentences = [_method(result, claim) for claim in claims_of(result)]
    if not sentences:
        over = bounds_over(result, str(result.provenance.get("headline")))
        sentences = [f"Nothing is claimed with a p; bounds are 95 % intervals over {over}."]
    made = [SAID[name] for name in result.provenance.get("conditions", ())]
    if made:
        sentences.append(f"Baselines from passes of their own: {' and '.join(made)}, on the same prompts.")
    missing = result.provenance.get("baselines_missing", {})
    sentences += [f"Without {SAID[name]}: {why}" for name, why in missing.items()]
    return " ".join(sentences)


def findings(result: Result) -> str:
    """Return how many places differ from their nulls after correction, and from the baselines."""
    return " ".join(_finding(result, claim) for claim in claims_of(result))


def bounds_over(result: Result, name: str) -> str:
    """Return what the bounds of a variable are over, which is prompts where they do not say it."""
    low = result.data.get(f"{name}_low")
    return "prompts" if low is None else str(low.attrs.get("over", "prompts"))


def _method(result: Result, claim: Mapping[str, Any]) -> str:
    about = result.provenance["tests"][claim["variable"]]["all"]
    n, places = about["units"], counts(result, claim)[0].places
    lead = f"{_capital(claim['long_name'])} was compared with {claim['against']}"
    if about["refused"]:
        return f"{lead}, and not tested: {about['refused']}."
    if about["unit"] == "draw":
        test = f", with {n:,} surrogates that are the same draw for all {claim['places']}"
    else:
        flips = f"all {2**n:,} sign flips" if n <= EXACT_UNITS else f"{FLIPS:,} random sign flips"
        test = f" over {n} {UNITS[about['unit']]}, with {flips} of the differences"
    if claim["correction"] == "maximum":
        over = "" if about["unit"] == "draw" else f" over the flips, and over {RESAMPLES:,} resamples,"
        correction = f"q is corrected by the largest studentised statistic{over} in a family of {places}"
    else:
        floor = places_at_floor(places, about["smallest"])
        correction = f"q is Benjamini and Hochberg's over a family of {places}"
        if floor > 1:
            correction += f", which finds nothing unless {floor} are at the smallest p"
    return (
        f"{lead}{test} (smallest p attainable {about['smallest']:.2g}); {correction} {claim['places']}"
        f"{_reading(claim)}. The smallest effect that counts is {claim['minimum_effect']:g}"
        f"{_units(claim)}, said beforehand."
    )


def _finding(result: Result, claim: Mapping[str, Any]) -> str:
    what = f"{claim['long_name']} against {claim['against']}{_reading(claim)}"
    about = result.provenance["tests"][claim["variable"]]["all"]
    if about["refused"]:
        return f"No claim is made of {what}: {about['refused']}."
    model, *others = counts(result, claim)
    counted = f"{claim['minimum_effect']:g}{_units(claim)}"
    text = (
        f"{_capital(what)}: {_share(model)} {claim['places']} differ (q <= {LEVEL}), {model.matter} of them "
        f"by more than {counted}"
    )
    if "random_weights" in model.beyond:
        text += f", {model.beyond['random_weights']} by more than {counted} beyond {SAID['random_weights']}"
    if "shuffled_tokens" in model.beyond:
        text += f", {model.beyond['shuffled_tokens']} beyond {SAID['shuffled_tokens']}"
    for other in others:
        text += f"; in {SAID[other.condition]} {other.differ} differ, {other.matter} by that much"
    return f"{text}."


def _share(count: Count) -> str:
    return f"{count.differ} of {count.places}"


def _reading(claim: Mapping[str, Any]) -> str:
    words = [READINGS.get((dim, value), f"{dim} {value}") for dim, value in claim["reading"]]
    return f" ({', '.join(words)})" if words else ""


def _units(claim: Mapping[str, Any]) -> str:
    units = str(claim["units"])
    return "" if units == "1" else " " + (units.removesuffix("s") if claim["minimum_effect"] == 1 else units)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
