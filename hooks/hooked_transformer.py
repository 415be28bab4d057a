"""The adapter of ``HookedTransformer`` (TransformerLens 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from resonance_lens.facts import Facts
from resonance_lens.hooks.adapter import Hook, ModelAdapter
from resonance_lens.hooks.rotary import of_hooked_transformer


class HookedTransformerAdapter(ModelAdapter):
    """Serves a model in TransformerLens's own implementation."""

    @classmethod
    def matches(cls, host: object) -> bool:
        """Return whether ``host`` is a HookedTransformer, which TransformerLens 4 no longer has."""
        return any(c.__name__ == "HookedTransformer" for c in type(host).__mro__)

    @staticmethod
    def read_facts(model: Any) -> Facts:
        """Return what is true of the model."""
        cfg = model.cfg
        rotary = cfg.positional_embedding_type == "rotary"
        n_layers, n_heads = int(cfg.n_layers), int(cfg.n_heads)
        kinds = cfg.attn_types if cfg.use_local_attn else ["global"] * n_layers
        base, dims = float(cfg.rotary_base), int(cfg.rotary_dim or cfg.d_head)
        pairs, frequencies = of_hooked_transformer(model, dims, base) if rotary else (None, None)
        folded = str(cfg.normalization_type or "none")
        return Facts(
            host="hooked_transformer",
            model_name=str(cfg.model_name),
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=int(cfg.n_key_value_heads or n_heads),
            d_model=int(cfg.d_model),
            d_head=int(cfg.d_head),
            d_vocab=int(cfg.d_vocab),
            n_ctx=int(cfg.n_ctx),
            causal=cfg.attention_dir == "causal",
            sliding_windows=tuple(int(cfg.window_size) if kind == "local" else None for kind in kinds),
            positions=str(cfg.positional_embedding_type),
            rotary_base=base if rotary else None,
            rotary_dims=dims if rotary else None,
            rotary_pairs=pairs,
            rotary_frequencies=frequencies,
            parallel=bool(cfg.parallel_attn_mlp),
            normalization=folded.removesuffix("Pre"),
            prepends_bos=bool(cfg.default_prepend_bos),
            bos_token=getattr(model.tokenizer, "bos_token_id", None),
            dtype=str(cfg.dtype).removeprefix("torch."),
            weight_processing="folded_norms" if folded.endswith("Pre") else "none",
        )

    def forward(self, tokens: Tensor, mask: dict[str, Tensor], unembed: bool) -> Tensor:
        """Run the model; without ``unembed`` it stops after the last block."""
        stop = {} if unembed else {"stop_at_layer": self.facts.n_layers}
        # The side on which the host looks for padding matters only together with a mask.
        values: Tensor = self.model(
            tokens, return_type="logits", padding_side="left" if mask else "right", **mask, **stop
        )
        return values

    def forward_from(
        self, tokens: Tensor, mask: dict[str, Tensor], layer: int, residual: Tensor, hooks: Sequence[Hook]
    ) -> Tensor:
        """Run the blocks from ``layer`` on; see `ModelAdapter.resume`."""
        with self.prepared(hooks):
            values: Tensor = self.model(
                residual,
                start_at_layer=layer,
                stop_at_layer=self.facts.n_layers,
                padding_side="left" if mask else "right",
                **mask,
            )
        return values

    def cap(self, logits: Tensor) -> Tensor:
        """Apply the soft cap of the config."""
        cap = float(getattr(self.model.cfg, "output_logits_soft_cap", -1.0) or -1.0)
        return cap * torch.tanh(logits / cap) if cap > 0 else logits
