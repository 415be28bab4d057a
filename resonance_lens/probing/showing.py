"""What there is to see of a probe's result, as data."""

from __future__ import annotations

import xarray as xr

from resonance_lens.result import ViewSpec
from resonance_lens.text_labels import Kind

REFERENCES = (
    "score_majority",
    "score_shuffled",
    "score_control_task",
    "score_random_features",
    "score_random_weights",
)


def views(data: xr.Dataset, kind: Kind) -> list[ViewSpec]:
    """Return what to draw: scores by band and layer, selectivity, and the learning curve."""
    unit = "accuracy" if kind == "classes" else "R squared"
    references = tuple(name for name in REFERENCES if name in data)
    made = []
    for probe in data["probe"].values.tolist():
        here = data["score"].sel(probe=probe)
        bands = [b for b in data["band"].values.tolist() if bool(here.sel(band=b).notnull().any())]
        if len(bands) == data.sizes["band"] > 1 and data.sizes["layer"] > 1:
            made += [
                ViewSpec(
                    kind="matrix",
                    title=f"{probe}: {unit} by band and layer",
                    says="What a probe reads of the label on documents that it has not seen, in each band.",
                    misleads="bands differ in how much noise they hold, and a probe that reads the words "
                    "themselves does well: see selectivity and random features.",
                    variables=("score",),
                    select={"probe": probe},
                ),
                ViewSpec(
                    kind="matrix",
                    title=f"{probe}: selectivity by band and layer",
                    says="The same, less what the probe scores on labels that mean nothing.",
                    misleads="a control task is harder for some labels than for others.",
                    variables=("selectivity",),
                    colours="diverging",
                    select={"probe": probe},
                ),
            ]
        if data.sizes["layer"] > 1:
            made += [
                ViewSpec(
                    kind="lines",
                    title=f"{probe}: {unit} over depth, {band}",
                    says="The score beside those of labels that mean nothing and of features that know the "
                    "word alone.",
                    misleads="layers are not independent: what the stream hands on can be read again.",
                    variables=("score",),
                    references=references,
                    select={"probe": probe, "band": band},
                )
                for band in bands[:1]
            ]
    made.append(
        ViewSpec(
            kind="lines",
            title="Learning curve",
            says="The score on validation at the best place, for a growing share of the training documents.",
            misleads="a curve that still rises says that more documents would read more.",
            variables=("learning_curve",),
            over="fraction",
            series="probe",
        )
    )
    return made
