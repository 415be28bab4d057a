"""Operations as hook functions, for a model of TransformerLens that the user runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resonance_lens.errors import AdapterError, ParameterError, RecordError, wrong_parameter
from resonance_lens.facts import Batch, Facts
from resonance_lens.hooks.activation_cache import ActivationCacheAdapter
from resonance_lens.hooks.adapter import Hook, ModelAdapter
from resonance_lens.hooks.attach import attach
from resonance_lens.hooks.writing import write_anywhere
from resonance_lens.patching.asked import kernels_of
from resonance_lens.patching.operations import Operation, Scene, get_operation
from resonance_lens.patching.places import Place, Targets, places_of
from resonance_lens.patching.sweep import at_positions, generator, put, taken
from resonance_lens.result import Result


def operation_hooks(
    model: Any,
    operation: str | Operation,
    targets: Targets,
    *,
    lengths: Tensor | Sequence[int] | None = None,
    donor: Any = None,
    kernels: Any = None,
    seed: int = 0,
    padding_side: str = "right",
) -> list[Hook]:
    """Return an operation at some places as hooks for ``model.run_with_hooks(tokens, fwd_hooks=...)``.

    Parameters
    ----------
    model
        A TransformerBridge or a HookedTransformer.
    operation
        A name of `list_operations`, or an operation with parameters: `get_operation`.
    targets
        As of `resonance_lens.patch`: ``heads``, ``layers``, a site, or targets. All are edited in the same
        pass. ``head_out`` needs ``model.set_use_attn_result(True)``.
    lengths
        Real tokens of each prompt, where some are padded. All prompts of the width of the tokens if not said.
    donor
        What values are taken from: an ``ActivationCache``, or a mapping from hook names, of a run over
        prompts as many and as long. An operation that wants a mean takes it over this run: over all tokens
        but the first, whose mean is its own, and at ``pattern`` over the prompts that reach a query.
    kernels
        A result of `attention_filter`, or attention by lag ``[layer, head, lag]``.
    seed
        Of everything drawn: the same for the same seed, place and row.
    padding_side
        Where padded prompts are padded: ``right`` or ``left``.

    Returns
    -------
    list of tuple
        Names of hook points and functions. They serve any number of passes. Operations that look ahead are
        not refused here; see `Operation.looks_ahead`.

    Raises
    ------
    AdapterError
        If a place cannot be written to, or the donor does not hold it.
    ParameterError
        If the operation or a target does not exist, or the operation cannot be done at the site, or
        lacks what it needs.
    RecordError
        When the hooks are called, if a prompt is too short for the operation or shapes differ.

    Examples
    --------
    >>> import torch
    >>> from resonance_lens import testbed
    >>> from resonance_lens.patching.hooks import operation_hooks
    >>> from resonance_lens.result import Target
    >>> model = testbed.load_circuit("previous_token").model()
    >>> place = Target(site="pattern", layer=0, head=0, score=1.0, reason="an example")
    >>> hooks = operation_hooks(model, "uniform", [place])
    >>> [name for name, _ in hooks]
    ['blocks.0.attn.hook_pattern']
    """
    adapter = attach(model)
    if not isinstance(adapter, ModelAdapter):
        raise AdapterError(
            f"Hooks are for a model, and {adapter.facts.model_name} ({adapter.facts.host}) makes no passes."
        )
    done = get_operation(operation) if isinstance(operation, str) else operation
    counts = None if lengths is None else torch.as_tensor(lengths)
    held = _held(donor)
    table = None if kernels is None else _table(kernels, adapter.facts)
    hooks: list[Hook] = []
    for place in places_of(targets, adapter):
        kernel = None if table is None else table[place.layer]
        kernel = kernel if kernel is None or place.head is None else kernel[place.head]
        maker = _Maker(adapter, done, place, counts, held, kernel, seed, padding_side)
        maker.require()
        hooks += maker.hooks()
    return hooks


def _held(donor: Any) -> Mapping[str, Tensor] | None:
    """Return the values of a run by hook name."""
    if donor is None or isinstance(donor, Mapping):
        return donor
    if ActivationCacheAdapter.matches(donor):
        return ActivationCacheAdapter(donor).held
    raise ParameterError(
        "The 'donor' parameter of operation_hooks must be an ActivationCache or a mapping from hook names; "
        f"got {type(donor).__name__}."
    )


def _table(kernels: Any, facts: Facts) -> Tensor:
    """Return attention by lag, ``[layer, head, lag]``."""
    if isinstance(kernels, Result):
        return kernels_of(kernels, facts)
    table = torch.as_tensor(np.asarray(kernels))
    if table.ndim != 3 or tuple(table.shape[:2]) != (facts.n_layers, facts.n_heads):
        raise ParameterError(
            wrong_parameter(
                "operation_hooks",
                "kernels",
                f"a result of attention_filter, or an array over {facts.n_layers} layers, {facts.n_heads} "
                "heads and lags",
                tuple(table.shape),
            )
        )
    return table


class _Maker:
    """Makes the hooks of one place."""

    def __init__(
        self,
        adapter: ModelAdapter,
        operation: Operation,
        place: Place,
        lengths: Tensor | None,
        held: Mapping[str, Tensor] | None,
        kernel: Tensor | None,
        seed: int,
        padding_side: str,
    ) -> None:
        self.adapter, self.operation, self.place = adapter, operation, place
        self.lengths, self.held, self.kernel = lengths, held, kernel
        self.seed, self.padding_side = seed, padding_side
        self.name = adapter.hook_name(place.site, place.layer)
        self.uses_donor = operation.donor or operation.resamples or "mean" in operation.wants

    def require(self) -> None:
        """Raise before any pass if the operation cannot be done here."""
        given = {"generators"} | ({"kernel"} if self.kernel is not None else set())
        if self.held is not None:
            given |= {"donor", "mean"}
        self.operation.require_at(self.place.site, given)
        if self.uses_donor and self.held is not None and self.name not in self.held:
            raise AdapterError(
                f"The donor holds no {self.name}, which {self.operation.name} takes values from; cache it, "
                "or leave that target out."
            )

    def hooks(self) -> list[Hook]:
        """Return the hooks: one, or as many as the host needs to write at the site."""
        return write_anywhere(
            self.adapter,
            self.place.site,
            self.place.layer,
            self._change,
            lengths=self.lengths,
            padding_side=self.padding_side,
        )

    def _change(self, values: Tensor, batch: Batch) -> Tensor:
        place, wants = self.place, self.operation.wants
        before = taken(values, place)
        donor = mean = None
        if self.uses_donor and self.held is not None:
            donor = self.adapter.common(
                place.site, place.layer, self.held[self.name].to(values.device), batch
            )
            if donor.shape != values.shape:
                raise RecordError(
                    f"The donor holds {tuple(donor.shape)} at {self.name}, and this pass "
                    f"{tuple(values.shape)}; take it from prompts as many and as long."
                )
            donor = taken(donor, place)
        scene = Scene(
            site=place.site,
            layer=place.layer,
            head=place.head,
            facts=self.adapter.facts,
            lengths=batch.lengths.to(values.device),
            donor=donor,
            generators=tuple(
                generator(self.seed, self.operation.label, place, str(row)) for row in batch.prompts
            )
            if "generators" in wants
            else None,
            kernel=self.kernel,
        )
        if "mean" in wants and donor is not None:
            mean = _mean(donor, scene)
            scene = dataclasses.replace(scene, donor=donor if self.operation.donor else None, mean=mean)
        after = self.operation.edit(before, scene)
        if place.positions is not None:
            after = torch.where(at_positions(place, scene.lengths, before), after, before)
        return put(values, after, place)


def _mean(values: Tensor, scene: Scene) -> Tensor:
    """Return the mean of values over rows, as of `Scene.mean`."""
    real = scene.real(values.shape[-2]).to(values.device)  # [row, token]
    counts = real.sum(0).clamp_min(1)  # [token]
    if scene.square:
        return (values.double() * scene.mask(values)).sum(0) / counts[:, None]
    sums = (values.double() * real[:, :, None]).sum(0)  # [token, feature]
    rest = sums[1:].sum(0) / real[:, 1:].sum().clamp_min(1)
    return torch.cat([sums[:1] / counts[0], rest.expand(len(sums) - 1, -1)])
