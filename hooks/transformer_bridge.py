"""The adapter of ``TransformerBridge`` (TransformerLens 3 and 4)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from resonance_lens.facts import Batch, Facts
from resonance_lens.hooks.adapter import Hook, ModelAdapter
from resonance_lens.hooks.rotary import of_bridge


class _Finished(Exception):
    """All that is wanted of a pass has been computed."""


class TransformerBridgeAdapter(ModelAdapter):
    """Serves a Hugging Face model behind a TransformerLens bridge."""

    # Attention over a fused projection of queries, keys and values (GPT-NeoX, Phi-3, Falcon) rotates
    # without a hook of its own. It tells what goes in; the rotation is the same for all of them.
    derived = {
        "rot_q": ("attn.hook_q", "attn.hook_cos", "attn.hook_sin"),
        "rot_k": ("attn.hook_k", "attn.hook_cos", "attn.hook_sin"),
    }

    # A bridge shows the stream between attention and MLP where the norm before the MLP takes it in.
    bypassed = ("resid_mid",)

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        accepted = inspect.signature(model.original_model.forward).parameters
        # One pass needs no keys and values for a next one, and often no logits.
        self._always = {"use_cache": False} if "use_cache" in accepted else {}
        self._without_logits = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._gives_tuples: bool | None = None

    @classmethod
    def matches(cls, host: object) -> bool:
        """Return whether ``host`` is a bridge, without importing TransformerLens."""
        return any(c.__name__ == "TransformerBridge" for c in type(host).__mro__)

    @staticmethod
    def read_facts(model: Any) -> Facts:
        """Return what is true of the model; rotary facts come from the Hugging Face config."""
        cfg = model.cfg
        config: Any = getattr(model.original_model, "config", None)
        if hasattr(config, "get_text_config"):  # a model of text and images keeps text apart
            config = config.get_text_config()
        rotary = cfg.positional_embedding_type == "rotary"
        base, fraction = _rotary(config)
        base = base or float(cfg.rotary_base)
        dims = int(cfg.rotary_dim or int(cfg.d_head * fraction))
        pairs, frequencies = of_bridge(model, dims, base) if rotary else (None, None)
        n_heads = int(cfg.n_heads)
        return Facts(
            host="transformer_bridge",
            model_name=str(cfg.model_name),
            n_layers=int(cfg.n_layers),
            n_heads=n_heads,
            n_kv_heads=int(cfg.n_key_value_heads or n_heads),
            d_model=int(cfg.d_model),
            d_head=int(cfg.d_head),
            d_vocab=int(cfg.d_vocab),
            n_ctx=int(cfg.n_ctx),
            causal=cfg.attention_dir == "causal",
            sliding_windows=_sliding_windows(config, int(cfg.n_layers)),
            positions=str(cfg.positional_embedding_type),
            rotary_base=base if rotary else None,
            rotary_dims=dims if rotary else None,
            rotary_pairs=pairs,
            rotary_frequencies=frequencies,
            parallel=bool(cfg.parallel_attn_mlp),
            normalization=str(cfg.normalization_type),
            prepends_bos=bool(cfg.default_prepend_bos),
            bos_token=getattr(model.tokenizer, "bos_token_id", None),
            dtype=str(cfg.dtype).removeprefix("torch."),
            weight_processing="compatibility_mode" if model.compatibility_mode else "none",
        )

    def forward(self, tokens: Tensor, mask: dict[str, Tensor], unembed: bool) -> Tensor:
        """Run the model; without ``unembed`` only the last position's logits are computed."""
        options: dict[str, Any] = {**self._always, **({} if unembed else self._without_logits)}
        values: Tensor = self.model(tokens, return_type="logits", **mask, **options)
        return values

    def forward_from(
        self, tokens: Tensor, mask: dict[str, Tensor], layer: int, residual: Tensor, hooks: Sequence[Hook]
    ) -> Tensor:
        """Run the blocks from ``layer`` on; see `ModelAdapter.resume`.

        ``start_at_layer`` of TransformerLens 4.3 gives the same, but runs the earlier blocks all the same,
        and earlier versions have none. So these blocks hand on what they are given for the time of the pass.
        """
        found: list[Tensor] = []

        def enter(values: Tensor, hook: Any) -> Tensor:
            return residual

        def leave(values: Tensor, hook: Any) -> None:
            found.append(values)
            raise _Finished

        first = (self.hook_name("resid_pre", layer), enter)
        last = (self.hook_name("resid_post", self.facts.n_layers - 1), leave)
        with self._skipping(layer), self.prepared([first, *hooks, last]):
            try:
                self.forward(tokens, mask, unembed=False)
            except _Finished:
                pass
        return found[0]

    @contextmanager
    def _skipping(self, layer: int) -> Iterator[None]:
        """Have the blocks before a layer return what they are given for the time of the block."""
        tuples = self._block_gives_tuples() if layer else False

        def hand_on(*args: Any, **kwargs: Any) -> Any:
            values = args[0] if args else kwargs["hidden_states"]
            return (values,) if tuples else values

        blocks = list(self.model.blocks)[:layer]
        try:
            for block in blocks:
                # Not `block.forward = ...`: a bridge hands attributes on to what it bridges.
                object.__setattr__(block, "forward", hand_on)
            yield
        finally:
            for block in blocks:
                if "forward" in vars(block):
                    object.__delattr__(block, "forward")

    def _block_gives_tuples(self) -> bool:
        """Return whether blocks return tuples, which depends on the model that is bridged."""
        if self._gives_tuples is None:
            given: list[bool] = []
            handle = self.model.blocks[0].register_forward_hook(
                lambda module, inputs, output: given.append(isinstance(output, tuple))
            )
            try:
                self._forward(
                    Batch(torch.zeros(1, 1, dtype=torch.long), torch.ones(1), (0,)), (), unembed=False
                )
            finally:
                handle.remove()
            self._gives_tuples = given[0]
        return self._gives_tuples

    def modules(self) -> Iterator[torch.nn.Module]:
        """Yield every module, those of the Hugging Face model that the bridge leaves alone included."""
        yield from self.model.modules()
        yield from self.model.original_model.modules()

    def derive(self, site: str, values: Sequence[Tensor]) -> Tensor:
        """Rotate queries or keys, where the host gives them before rotation only."""
        if len(values) == 1:
            return values[0]
        before, cos, sin = values
        cos, sin = cos[:, :, None], sin[:, :, None]  # [1 or batch, token, 1, rotary_dims]
        turned, rest = before.split([cos.shape[-1], before.shape[-1] - cos.shape[-1]], dim=-1)
        first, second = turned.chunk(2, dim=-1)
        turned = turned * cos + torch.cat([-second, first], dim=-1) * sin
        return torch.cat([turned, rest], dim=-1)

    def cap(self, logits: Tensor) -> Tensor:
        """Apply what the architecture puts on its logits, where TransformerLens says so."""
        transform = getattr(self.model.adapter, "apply_output_logits_transform", None)
        return logits if transform is None else transform(logits)


def _rotary(config: Any) -> tuple[float | None, float]:
    """Return the rotary base and the rotated share of each head, as the Hugging Face config says."""
    parameters = getattr(config, "rope_parameters", None) or {}
    base = parameters.get("rope_theta") or getattr(config, "rope_theta", None)
    base = base or getattr(config, "rotary_emb_base", None)
    fraction = parameters.get("partial_rotary_factor") or getattr(config, "rotary_pct", None)
    fraction = fraction or getattr(config, "partial_rotary_factor", None)
    return (float(base) if base else None), float(fraction or 1.0)


def _sliding_windows(config: Any, n_layers: int) -> tuple[int | None, ...]:
    """Return how far back each layer sees, as the Hugging Face config says; GPT-Neo has its own words."""
    window = getattr(config, "sliding_window", None) or getattr(config, "window_size", None)
    if not window or getattr(config, "use_sliding_window", True) is False:
        return (None,) * n_layers
    kinds = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    return tuple(
        int(window) if kind in ("sliding_attention", "local") else None
        for kind in kinds or ["local"] * n_layers
    )
