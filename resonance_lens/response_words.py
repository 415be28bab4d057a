"""What a frequency response says in sentences: how much comes out, and what of it is a filter's."""

from __future__ import annotations

import math

import xarray as xr

SHARES = ("time_invariant", "time_varying", "nonlinear")

LEAST_CHANGE = 0.01
"""Share of a gain that a change with amplitude is, at least, to be spoken of."""


def said_of_response(data: xr.Dataset) -> str:
    """Return sentences on the variables of `frequency_response`, one drive after the other."""
    said = []
    for driven in data.driven.values.tolist():
        last = data.sel(driven=driven).isel(layer=-1)
        last = last.mean("head", keep_attrs=True) if "head" in last.dims else last
        gain = last.gain_rms.sel(category="all")
        slow, fast = (f"{float(gain[end]):.2g}" for end in (0, -1))
        longest, shortest = (f"{1 / float(data.frequency[end]):.3g}" for end in (0, -1))
        where = "" if data.listen == "resid_post" else f" at {data.listen!r}"
        where += " (mean over heads)" if "head" in data.dims else ""
        entered = "before" if data.site == "resid_pre" else f"at {data.site!r} of"
        said.append(
            f"A wave of {longest} tokens that enters {entered} layer {driven} comes out of the last layer"
            f"{where} {slow} times as large (root mean square), one of {shortest} tokens {fast} times."
        )
        said += _of_shares(last)
        said += _of_amplitudes(data.sel(driven=driven))
    if float(data.before_onset.max()) > 0:
        said.append(
            "Something is heard before the drive begins, up to "
            f"{float(data.before_onset.max()):.2g}: causality does not hold in this model, so that a "
            "phase is no delay."
        )
    return " ".join(said)


def _of_shares(last: xr.Dataset) -> list[str]:
    """Say how much of the response is a filter's."""
    if "time_invariant" not in last:
        return []
    filtered, moved, rest = (float(last[name]) for name in SHARES)
    if math.isnan(filtered):
        return ["One prompt cannot tell a filter from its own text."]
    said = [
        f"Of the response to all frequencies {filtered:.0%} is what a filter would give, {moved:.0%} is "
        f"linear but differs from text to text or moves to other frequencies, {rest:.1%} is not linear."
    ]
    if "harmonic_growth" in last and bool(last.harmonic_growth.notnull().all()):
        grown = " and ".join(
            f"{float(last.harmonic_growth.sel(order=order)):.1f}" for order in last.order.values.tolist()
        )
        said.append(
            "Beside the fundamental the second and third harmonic of a tone grow as its amplitude to the "
            f"power of {grown}: 1 and 2 would be distortion, 0 what a linear system moves."
        )
    return said


def _of_amplitudes(data: xr.Dataset) -> list[str]:
    """Say at which layers gain depends on amplitude beyond its interval over prompts."""
    if "describing" not in data or data.sizes["prompt"] < 2:
        return []
    gain, low, high = (data[f"describing{end}"].sel(category="all") for end in ("", "_low", "_high"))
    middle = {"amplitude": data.sizes["amplitude"] // 2}
    base = gain.isel(middle)
    moved = ((gain < low.isel(middle)) | (gain > high.isel(middle))) & (
        abs(gain - base) > LEAST_CHANGE * base
    )
    by_layer = moved.any([dim for dim in moved.dims if dim != "layer"])
    ends = f"{float(data.amplitude[0]):g} to {float(data.amplitude[-1]):g} median norms"
    n_layers, heard = (
        int(by_layer.sum()),
        int(base.notnull().any([d for d in base.dims if d != "layer"]).sum()),
    )
    if not n_layers:
        return [f"From {ends} no gain moves beyond its interval over prompts."]
    most = float(abs(gain / base - 1).where(moved).max())
    return [
        f"From {ends} gain depends on amplitude beyond its interval at {n_layers} of {heard} layers, by up "
        f"to {most:.0%}: there the describing function stands in place of a gain."
    ]
