"""From responses to the result: dataset, and with it what is said, shown and worth patching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from resonance_lens.carrying import estimating
from resonance_lens.carrying.asked import PARTS, Asked
from resonance_lens.carrying.estimating import Spread
from resonance_lens.carrying.interventions import CHAIN, KERNELS, PATTERNS, UNIFORM, WORDS
from resonance_lens.carrying.measuring import Responses
from resonance_lens.carrying.telling import methods, summary, targets, views
from resonance_lens.dsp.excitation import Timing
from resonance_lens.result import Result
from resonance_lens.stats.intervals import bootstrap_mean
from resonance_lens.stats.streams import stream

NAME, TITLE, VERSION = "frequency_carriers", "Who carries waves along the tokens", "1"
MINIMUM_EFFECT = 0.01
"""Share of the response: less carried by a head counts as nothing."""

UNTOUCHED = "untouched"
CHAINS = {KERNELS: "mlps_alive", UNIFORM: "uniform", PATTERNS: "own_patterns", UNTOUCHED: "untouched"}
"""What `kernel_chain` is held against: the end of its name, by intervention."""

NO_COHERENCE = "not-a-number: no coherent response surely above zero"
TWIN = "_random_weights"

Floats = NDArray[np.float64]


def conclude(
    what: Asked,
    responses: Sequence[Responses],
    twin: Sequence[Responses] | None,
    record: Mapping[str, Any],
) -> Result:
    """Return the result.

    Parameters
    ----------
    what
        What was measured.
    responses, twin
        Of each prompt, in the model and in its random-weight twin.
    record
        What the result is made of.
    """
    made = _Made(what)
    made.of_interventions(responses)
    made.of_places(responses)
    if twin is not None:
        made.of_interventions(twin, TWIN)
        made.of_places(twin, TWIN)
    setup = what.setup
    provenance = {
        **record,
        "analysis": NAME,
        "version": VERSION,
        "title": TITLE,
        "headline": "carried" if "carried" in made.variables else "carried_by",
        "evidence": "measured",
        "minimum_effect": MINIMUM_EFFECT,
        "claims": [],
        "tests": {},
        "nulls": [],
        "baselines": ["untouched_stream", "uniform_attention", *what.baselines],
        "source": "SCIENCE 2b; activation patching of a driven run with values of the undriven one",
        "parameters": {
            "layer": setup.layer,
            "heard": setup.heard,
            "epsilon": what.epsilon,
            "directions": what.directions,
            "period": setup.timing.period,
            "targets": what.targets,
            "kernels": record["carriers"]["kernels"],
        },
    }
    bare = Result(name=NAME, data=made.dataset(), provenance=provenance)
    bare = replace(bare, ranked=tuple(targets(bare)))
    return replace(bare, summary=summary(bare), methods=methods(bare), views=tuple(views(bare)))


def bands_of(timing: Timing, lines: Sequence[int]) -> list[list[int]]:
    """Return the indices of lines in octaves of frequency, the slowest waves first; none is empty."""
    octaves = np.floor(np.log2(np.asarray(lines))).astype(int)
    return [np.flatnonzero(octaves == octave).tolist() for octave in np.unique(octaves)]


class _Made:
    """Variables as they are made."""

    def __init__(self, what: Asked) -> None:
        self.what = what
        self.variables: dict[str, Any] = {}
        setup, facts = what.setup, what.adapter.facts
        timing, lines = setup.timing, setup.lines
        self.bands = bands_of(timing, lines)
        frequencies = timing.frequencies(lines).numpy()
        lowest = [2.0 ** np.floor(np.log2(lines[band[0]])) / timing.period for band in self.bands]
        self.layers = list(setup.layers(facts.n_layers))
        self.names = [each.name for each in setup.interventions]
        ids = [one.prompt.id for one in what.prompts]
        categories = [one.prompt.category or "" for one in what.prompts]

        def axis(dim: str, values: Any, long_name: str, units: str = "1") -> Any:
            return (dim, np.asarray(values), {"long_name": long_name, "units": units})

        self.coords: dict[str, Any] = {
            "intervention": ("intervention", self.names, {"long_name": "what is held"}),
            "what": ("intervention", [WORDS[name] for name in self.names], {"long_name": "what is held"}),
            "layer": ("layer", self.layers, {"long_name": "layer"}),
            "head": ("head", np.arange(facts.n_heads), {"long_name": "head"}),
            "part": ("part", list(PARTS), {"long_name": "written by"}),
            "frequency": axis("frequency", frequencies, "frequency", "cycles per token"),
            "band": (
                "band",
                [f"{1 / (2 * low):g}-{1 / low:g}" for low in lowest],
                {"long_name": "waves of so many tokens"},
            ),
            "band_low": axis("band", lowest, "lowest frequency of the band", "cycles per token"),
            "band_high": axis("band", 2 * np.array(lowest), "frequency above the band", "cycles per token"),
            "prompt": ("prompt", ids),
        }
        if any(categories):
            self.coords["prompt_category"] = ("prompt", categories)

    def dataset(self) -> xr.Dataset:
        """Return the dataset, with the coordinates that its variables use."""
        used = {dim for dims, *_ in self.variables.values() for dim in dims}
        coords = {name: each for name, each in self.coords.items() if each[0] in used}
        timing, setup = self.what.setup.timing, self.what.setup
        about = {name: getattr(timing, name) for name in ("onset", "settle", "period", "periods")}
        about |= {"driven": setup.layer, "heard": setup.heard, "epsilon": self.what.epsilon}
        return xr.Dataset(self.variables, coords=coords, attrs={**about, "directions": self.what.directions})

    def add(self, name: str, dims: Sequence[str], values: Any, long_name: str) -> None:
        """Add a variable without a unit."""
        self.variables[name] = (tuple(dims), np.asarray(values), {"long_name": long_name, "units": "1"})

    def add_mean(
        self, name: str, dims: Sequence[str], rows: Floats, words: str, twin: str, *, by_prompt: bool = False
    ) -> None:
        """Add the mean over prompts of rows ``[prompt, *dims]`` with its bounds; of a twin the mean alone."""
        rng = stream(self.what.setup.seed, NAME, name)
        mean, low, high = bootstrap_mean(rows, rng, n_resamples=1 if twin else 1999)
        what, mark, undefined = words.partition(";")
        if twin:
            self.add(name + twin, dims, mean, f"{what}, random weights{mark}{undefined}")
            return
        self.add(name, dims, mean, words)
        self.add(f"{name}_low", dims, low, f"{what}, lower 95 % bound{mark}{undefined}")
        self.add(f"{name}_high", dims, high, f"{what}, upper 95 % bound{mark}{undefined}")
        if by_prompt:
            each = rows.astype(np.float32)
            self.add(f"{name}_prompt", ("prompt", *dims), each, f"{what} of each prompt{mark}{undefined}")

    def add_spread(self, name: str, dims: Sequence[str], found: Spread, words: str, twin: str) -> None:
        """Add an estimate over all prompts with its bounds; of a twin the estimate alone."""
        what, mark, undefined = words.partition(";")
        if twin:
            self.add(name + twin, dims, found.value, f"{what}, random weights{mark}{undefined}")
            return
        self.add(name, dims, found.value, words)
        self.add(f"{name}_low", dims, found.low, f"{what}, lower 95 % bound{mark}{undefined}")
        self.add(f"{name}_high", dims, found.high, f"{what}, upper 95 % bound{mark}{undefined}")

    # ------------------------------------------------------------------------------------------

    def of_interventions(self, responses: Sequence[Responses], twin: str = "") -> None:
        """Add gains under interventions, and what a chain of kernels explains."""
        setup, facts = self.what.setup, self.what.adapter.facts
        v = np.stack([drive.unit(facts.d_model, setup.seed).numpy() for drive in setup.drives])
        found = estimating.under(responses, v.astype(np.complex128))
        dims, n = ("intervention", "layer", "frequency"), len(self.names)
        self.add_mean("carried_by", dims, found.gain[:, :n], "root mean square gain", twin, by_prompt=True)
        self.add_mean(
            "explained",
            dims,
            found.explained[:, :n],
            "share of each prompt's own response that is still there",
            twin,
        )

        def part(spread: Spread, which: Any) -> Spread:
            return Spread(spread.value[which], spread.low[which], spread.high[which])

        self.add_spread(
            "carried_by_coherent",
            dims,
            part(found.coherent, slice(n)),
            "coherent gain; below zero: chance alone, not-a-number: of one prompt",
            twin,
        )
        self.add_spread(
            "chain_share",
            dims[:2],
            part(found.whole, slice(n)),
            f"share of the coherent response explained, all frequencies together; {NO_COHERENCE}",
            twin,
        )
        if CHAIN not in self.names:
            return
        places = {name: index for index, name in enumerate((*self.names, UNTOUCHED))}
        self.add_spread(
            "kernel_chain",
            dims[1:],
            part(found.common, places[CHAIN]),
            f"share of the coherent response that the chain of kernels explains; {NO_COHERENCE}",
            twin,
        )
        if PATTERNS in self.names:
            of_patterns = estimating.instead(responses, places[PATTERNS], places[CHAIN])
            words = "that its kernels explain, of a chain of a prompt's own patterns"
            self.add_mean(
                "kernels_of_patterns",
                dims[1:],
                of_patterns.explained,
                f"share of each prompt's response {words}",
                twin,
            )
            self.add_spread(
                "kernels_of_patterns_coherent",
                dims[1:2],
                of_patterns.common,
                f"share of the coherent response, all frequencies together, {words}; {NO_COHERENCE}",
                twin,
            )
            if not twin:
                alone = estimating.instead(responses, places[PATTERNS], v.astype(np.complex128))
                ours = "that a stream explains that nothing is written to"
                self.add(
                    "kernels_of_patterns_untouched",
                    dims[1:],
                    alone.explained.mean(0),
                    f"share of each prompt's response {ours}, of a chain of a prompt's own patterns",
                )
                self.add(
                    "kernels_of_patterns_coherent_untouched",
                    dims[1:2],
                    alone.common.value,
                    f"share of the coherent response {ours}, of a chain of a prompt's own patterns; "
                    f"{NO_COHERENCE}",
                )
        words = "share of the coherent response that it explains"
        for name, end in CHAINS.items():
            if name not in places:
                continue
            what = WORDS.get(name, "a stream that nothing is written to")
            value = found.common.value[places[name]]
            if not twin:
                self.add(f"kernel_chain_{end}", dims[1:], value, f"{what}: {words}; {NO_COHERENCE}")
        if not twin:
            self.add(
                "chain_share_untouched",
                dims[1:2],
                found.whole.value[places[UNTOUCHED]],
                f"share of the coherent response that a stream explains that nothing is written to; "
                f"{NO_COHERENCE}",
            )

    def of_places(self, responses: Sequence[Responses], twin: str = "") -> None:
        """Add what places carry that were held one at a time."""
        setup, facts = self.what.setup, self.what.adapter.facts
        if not setup.places:
            return
        found = estimating.held(responses, setup.heard - setup.layer, self.bands)
        n_prompts, _, n_bands = found.carried.shape
        shapes = {
            "head": (len(self.layers), facts.n_heads, n_bands),
            "part": (len(PARTS), len(self.layers), n_bands),
        }
        at = {"head": [], "part": []}  # type: dict[str, list[tuple[int, int, int]]]
        for number, place in enumerate(setup.places):
            layer = place.layer - setup.layer
            if place.head is None:
                at["part"].append((number, PARTS.index(place.site), layer))
            else:
                at["head"].append((number, layer, place.head))

        def placed(kind: str, values: Floats) -> Floats:
            """Return values ``[..., place, band]`` in the shape of the model."""
            lead = values.shape[:-2]
            out = np.full((*lead, *shapes[kind]), np.nan)
            for number, first, second in at[kind]:
                out[..., first, second, :] = values[..., number, :]
            return out

        for kind, end, dims in (
            ("head", "", ("layer", "head", "band")),
            ("part", "_by_layer", ("part", "layer", "band")),
        ):
            if not at[kind]:
                continue
            unheld = "not-a-number: not held"
            rows = placed(kind, found.carried)
            self.add_mean(
                f"carried{end}",
                dims,
                rows,
                f"share of the response gone when held; {unheld}",
                twin,
                by_prompt=True,
            )
            self.add_mean(
                f"through{end}",
                dims,
                placed(kind, found.through),
                f"part of the response that comes through; {unheld}",
                twin,
            )
            spread = (placed(kind, getattr(found.coherent, each)) for each in ("value", "low", "high"))
            self.add_spread(
                f"carried{end}_coherent",
                dims,
                Spread(*spread),
                f"share of the coherent gain gone when held; {unheld}, or no coherent gain surely above zero",
                twin,
            )
            if kind == "head" and not twin:
                self._add_others(rows.mean(0))

    def _add_others(self, carried: Floats) -> None:
        """Add, for each head, the mean of the other heads of its layer."""
        known = ~np.isnan(carried)
        count = known.sum(1, keepdims=True) - known
        total = np.nansum(carried, axis=1, keepdims=True) - np.nan_to_num(carried)
        others = np.where(known & (count > 0), total / np.maximum(count, 1), np.nan)
        self.add(
            "carried_others",
            ("layer", "head", "band"),
            others,
            "mean share of the response gone when another head of the layer is held; not-a-number: "
            "not held, or there is no other",
        )
