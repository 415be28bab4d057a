"""One prompt, driven: its response under every intervention, and with each place held alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens.carrying.interventions import Intervention, Known, holding, hooks_of
from resonance_lens.design import Drive
from resonance_lens.driving import added_by, median_norms
from resonance_lens.dsp.excitation import Timing
from resonance_lens.dsp.identification import at_lines
from resonance_lens.errors import ActivationError
from resonance_lens.facts import Batch
from resonance_lens.hooks.adapter import Hook, ModelAdapter
from resonance_lens.hooks.writing import read, write
from resonance_lens.patching.ground import Spot
from resonance_lens.patching.places import Place

Complex = NDArray[np.complex64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """What is measured on every prompt.

    Attributes
    ----------
    drives
        One for each direction, all before one layer.
    interventions
        The plain pass first.
    places
        Held one at a time: heads at ``z``, and what attention or MLP of a layer writes.
    heard
        Layer at which responses with one place held are listened to; those under interventions are at every
        layer from the driven one on.
    seed
        Of directions and phases.
    batch_tokens
        Tokens of one pass.
    """

    drives: tuple[Drive, ...]
    interventions: tuple[Intervention, ...]
    places: tuple[Place, ...]
    heard: int
    seed: int
    batch_tokens: int

    @property
    def layer(self) -> int:
        """The layer before which the drive enters."""
        return self.drives[0].layer

    @property
    def timing(self) -> Timing:
        """When is driven and listened to."""
        return self.drives[0].timing

    @property
    def lines(self) -> tuple[int, ...]:
        """Frequencies that are driven, in waves per period."""
        return self.drives[0].lines

    def layers(self, n_layers: int) -> range:
        """Return the layers that a drive reaches."""
        return range(self.layer, n_layers)

    def passes(self, width: int) -> Iterator[tuple[int, list[tuple[Place, int]]]]:
        """Yield, for each pass over a prompt of so many tokens, its layer and what its rows hold.

        A row is a place with the number of a direction.
        """
        at_once = max(1, self.batch_tokens // width)
        for layer in sorted({place.layer for place in self.places}):
            rows = [
                (place, number)
                for place in self.places
                if place.layer == layer
                for number in range(len(self.drives))
            ]
            for start in range(0, len(rows), at_once):
                yield layer, rows[start : start + at_once]


@dataclass(frozen=True, eq=False)
class Responses:
    """What a prompt answers at the lines that are driven, over what went in there.

    Attributes
    ----------
    under
        ``[intervention, layer, direction, line, d_model]``, layers from the driven one on.
    held
        ``[place, direction, line, d_model]`` at the layer that is heard.
    """

    under: Complex
    held: Complex


def measure(
    setup: Setup,
    adapter: ModelAdapter,
    tokens: Sequence[int],
    prompt: int,
    known: Known,
    progress: Callable[[int], object],
) -> Responses:
    """Return the responses of one prompt.

    Parameters
    ----------
    setup
        What is measured.
    adapter
        Of the model or of its twin.
    tokens
        Ids of the prompt.
    prompt
        Its number, by which its phases are drawn.
    known
        What operations may need of other prompts.
    progress
        Called with the number of rows of each pass.

    Raises
    ------
    ActivationError
        If a response is not finite.
    """
    pass_of = _Prompt(setup, adapter, tokens, prompt, known)
    under: list[Complex] = []
    plain: Found = {}
    for intervention in setup.interventions:
        spots = {(place.site, place.layer) for place in setup.places} if not under else set()
        found = pass_of.under(intervention, spots)
        plain = plain or found
        layers = setup.layers(adapter.facts.n_layers)
        under.append(np.stack([pass_of.listen(_beyond(found["resid_post", at]), at) for at in layers]))
        progress(1 + len(setup.drives))
    held = np.zeros((len(setup.places), *under[0].shape[1:]), dtype=np.complex64)
    index = {place: number for number, place in enumerate(setup.places)}
    for layer, rows in setup.passes(len(tokens)):
        for (place, direction), response in zip(rows, pass_of.held(layer, rows, plain), strict=True):
            held[index[place], direction] = response
        progress(len(rows))
    return Responses(np.stack(under), held)


Found = dict[tuple[str, int], Tensor]
"""Values by site and layer: the undriven row, and behind it the driven ones."""


class _Prompt:
    """The passes over one prompt."""

    def __init__(
        self, setup: Setup, adapter: ModelAdapter, tokens: Sequence[int], prompt: int, known: Known
    ) -> None:
        self.setup, self.adapter, self.known = setup, adapter, known
        self.ids = torch.tensor([list(tokens)])
        one = self.rows(1)
        found: Found = {}
        adapter.look(one, [self.record("resid_pre", setup.layer, one, found)])
        base = found["resid_pre", setup.layer]  # [1, token, d_model]
        norms = median_norms(base, one.lengths)
        added = torch.cat([added_by(drive, norms, base, (prompt,), setup.seed) for drive in setup.drives])
        self.entering = torch.cat([base, base + added])
        went_in = [
            at_lines(drive.signal(setup.seed, prompt)[:, None], setup.timing, setup.lines)[:, 0]
            * (drive.amplitude * float(norms[0]))
            for drive in setup.drives
        ]
        self.went_in = torch.stack(went_in)[..., None]  # [direction, line, 1]

    def rows(self, count: int) -> Batch:
        """Return copies of the prompt."""
        lengths = torch.full((count,), self.ids.shape[1])
        return Batch(self.ids.repeat(count, 1), lengths, tuple(range(count)))

    def record(self, site: str, layer: int, batch: Batch, into: Found) -> Hook:
        """Return a hook that keeps the values of a site."""
        return read(
            self.adapter, site, layer, batch, lambda values: into.update({(site, layer): values.clone()})
        )

    def under(self, intervention: Intervention, spots: Collection[Spot]) -> Found:
        """Return what is after each layer under an intervention, and at other sites that are asked for."""
        batch = self.rows(len(self.entering))
        found: Found = {}
        layers = self.setup.layers(self.adapter.facts.n_layers)
        listened = [("resid_post", layer) for layer in layers]
        hooks = hooks_of(intervention, self.adapter, batch, self.known)
        hooks += [self.record(site, layer, batch, found) for site, layer in [*listened, *sorted(spots)]]
        self.adapter.resume(batch, self.setup.layer, self.entering, hooks)
        return found

    def held(self, layer: int, rows: Sequence[tuple[Place, int]], plain: Found) -> Complex:
        """Return responses ``[row, line, d_model]`` with one place of a layer held in each row."""
        setup = self.setup
        batch = self.rows(len(rows))
        places, directions = [place for place, _ in rows], [number for _, number in rows]
        source = self.entering if layer == setup.layer else plain["resid_post", layer - 1]
        hooks = [
            hook
            for site in dict.fromkeys(place.site for place in places)
            for hook in write(self.adapter, site, layer, batch, holding(places, site, plain[site, layer][:1]))
        ]
        found: Found = {}
        hooks.append(self.record("resid_post", setup.heard, batch, found))
        self.adapter.resume(batch, layer, source[[1 + number for number in directions]], hooks)
        (end,) = found.values()
        return self.listen(end - plain["resid_post", setup.heard][:1], setup.heard, directions)

    def listen(self, response: Tensor, layer: int, directions: Sequence[int] | None = None) -> Complex:
        """Return what responses ``[row, token, d_model]`` are at the lines, over what went in there.

        Rows are the directions in their order, unless it is said of which each is.
        """
        if not bool(torch.isfinite(response).all()):
            raise ActivationError(f"The response at layer {layer} holds values that are not finite.")
        went_in = self.went_in if directions is None else self.went_in[list(directions)]
        h = at_lines(response.double(), self.setup.timing, self.setup.lines).cpu() / went_in
        return np.asarray(h.numpy(), dtype=np.complex64)


def _beyond(values: Tensor) -> Tensor:
    """Return driven rows minus the undriven one."""
    return values[1:] - values[:1]
