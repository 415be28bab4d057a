"""The adapter of an ``ActivationCache`` that the user already has: signals without another pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from resonance_lens.errors import AdapterError
from resonance_lens.facts import Batch
from resonance_lens.hooks.adapter import HOOK_NAMES, Adapter, ModelAdapter, Receive, Wanted


class ActivationCacheAdapter(Adapter):
    """Serves what a cache holds, under the names that the model's own adapter asks for.

    Parameters
    ----------
    cache
        A TransformerLens ``ActivationCache`` of one forward pass.
    """

    runs = False

    def __init__(self, cache: Any) -> None:
        from resonance_lens.hooks.attach import attach

        model = getattr(cache, "model", None)
        owner = None if model is None else attach(model)
        if not isinstance(owner, ModelAdapter):
            raise AdapterError(
                "This ActivationCache does not know the model that made it; make it with "
                "model.run_with_cache."
            )
        # A hook point goes by several names on a bridge; a cache holds those that were asked for.
        self.held: dict[str, Tensor] = {
            name: cache.cache_dict[point.name].detach()
            for name, point in owner.model.hook_dict.items()
            if point.name in cache.cache_dict
        }
        self.held |= {name: values.detach() for name, values in cache.cache_dict.items()}
        if not cache.has_batch_dim:
            self.held = {name: values[None] for name, values in self.held.items()}
        self.owner = owner
        self.tokenizer = owner.tokenizer
        self.facts = replace(owner.facts, host="activation_cache")

    @classmethod
    def matches(cls, host: object) -> bool:
        """Return whether ``host`` is an activation cache."""
        return any(c.__name__ == "ActivationCache" for c in type(host).__mro__)

    def why_not(self, site: str, layer: int) -> str | None:
        """Return why a site cannot be served at a layer, or ``None`` if it can."""
        if site == "logits" and layer != self.facts.n_layers - 1:
            return "Logits belong to the last layer."
        missing = [name for name in self._sources(site, layer) if name not in self.held]
        if not missing:
            return None
        setting = " and call model.set_use_attn_result(True) first" if site == "head_out" else ""
        return (
            f"The cache holds no {missing[0]}, which serves {site!r} at layer {layer}; add that name to "
            f"the names_filter of run_with_cache{setting}."
        )

    def run(self, batch: Batch, wanted: Wanted, receive: Receive) -> None:
        """Hand out what the cache holds, layer by layer; ``batch`` says what is padding."""
        if self.shape() != tuple(batch.tokens.shape):
            raise AdapterError(
                "The cache holds {} prompts of {} tokens, but the tokens given are {} prompts of {}; "
                "give those of the cached pass.".format(*self.shape(), *batch.tokens.shape)
            )
        for layer in sorted(wanted):
            for site in wanted[layer]:
                receive(self.signal(site, layer, self._read(site, layer), batch))

    def shape(self) -> tuple[int, int]:
        """Return the number of prompts and of tokens, padding included, of the cached pass.

        Raises
        ------
        AdapterError
            If the cache holds nothing at any site that it could be read from.
        """
        for layer in range(self.facts.n_layers):
            for site in HOOK_NAMES:
                if self.why_not(site, layer) is None:
                    values = self._read(site, layer)
                    return values.shape[0], values.shape[2 if site in ("pattern", "scores") else 1]
        raise AdapterError(
            "This ActivationCache holds nothing at any site; make it with run_with_cache without a "
            "names_filter, or with one that names what is to be measured."
        )

    def readout(self, residual: Tensor) -> Tensor:
        """Return logits through the final norm and unembedding of the model that was cached."""
        return self.owner.readout(residual)

    def token_rarity(self, corpus: str, tokens: Tensor) -> Tensor:
        """Return how rare the tokens of the cached pass are; see `Adapter.token_rarity`."""
        _require_ids(tokens)
        return super().token_rarity(corpus, tokens)

    def token_labels(self, rule: str, tokens: Tensor) -> Tensor:
        """Return the classes of the tokens of the cached pass; see `Adapter.token_labels`."""
        _require_ids(tokens)
        return super().token_labels(rule, tokens)

    def ov_alignment(self, layer: int) -> Tensor:
        """Return the cosines between what the heads of the model that was cached write."""
        return self.owner.ov_alignment(layer)

    def _sources(self, site: str, layer: int) -> tuple[str, ...]:
        # What a host caches as logits differs between hosts; the last residual does not.
        site = "resid_post" if site == "logits" else site
        return self.owner.sources(site, layer, self.held)

    def _read(self, site: str, layer: int) -> Tensor:
        values = [self.held[name] for name in self._sources(site, layer)]
        return self.readout(values[0]) if site == "logits" else self.owner.derive(site, values)


def _require_ids(tokens: Tensor) -> None:
    """Raise `AdapterError` where the tokens of a cache were not given: they are all zero then."""
    if not bool(tokens.any()):
        raise AdapterError(
            "A cache does not hold the ids of its tokens; give them to analyze as tokens=, those of the "
            "cached pass."
        )
