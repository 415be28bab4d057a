"""The result of a sweep. Nothing here loads torch, so that reading one back does not either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resonance_lens.result import Result


@dataclass(frozen=True, eq=False)
class PatchResult(Result):
    """What patching did to a model's answers: a `Result` with the name ``patch``.

    Its dataset has the dimensions ``operation``, ``target`` and ``pair``. Metric and effects are in the units
    of the metric.

    ``metric[operation, target, pair]``
        The metric after the operation at the target; ``metric_base[pair]`` without it, ``metric_clean`` and
        ``metric_corrupted`` for the two prompts of the pair.
    ``effect[operation, target]``
        Mean over pairs of ``metric`` minus ``metric_base``, with ``effect_low`` and ``effect_high`` (95 %
        over pairs), ``effect_p`` and ``effect_q`` (sign flips of pairs; q over the targets of one operation).
    ``normalized[operation, target]``
        Effect as a share of the mean difference between donor and base run; not-a-number without a donor.
    ``others``, ``placebo``, ``complement``
        The effect of the same operation at other targets of the same kind and layer, of a change of the same
        size in a random direction, and of the operation on everything that this one leaves alone; with
        bounds.
    ``effect_beyond[operation, target]``
        Effect minus that of the placebo, paired, with bounds, p and q: what is claimed.
    ``effect_map[operation, layer, head]``, ``effect_by_layer[operation, layer]``
        The same numbers in the shape of the model, where all heads or all layers were patched.

    Coordinates along ``target``: ``site``, ``target_layer``, ``target_head`` (-1 for a whole layer) and
    ``position`` (``all``, or the positions as text); along ``operation``: ``looks_ahead``.
    """

    def patching_result(self) -> Any:
        """Return the sweep as TransformerLens's ``PatchingResult``; before 4.2 as ours of the same shape."""
        from resonance_lens.patching.patching_result import patching_result

        return patching_result(self.data, str(self.provenance["patch"]["metric"]))
