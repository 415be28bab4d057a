"""What every adapter does: facts, signals in one form whatever the host, passes that leave no trace.

The form is the same everywhere: float32 or float64, real tokens first (a left-padded batch is
moved), padding and everything above a causal diagonal set to zero (attention scores: to minus
infinity), grouped keys and values repeated for the query heads that share them.
"""

from __future__ import annotations

import abc
import warnings
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from resonance_lens.errors import AdapterError, unknown
from resonance_lens.facts import SITE_AXES, Batch, Facts
from resonance_lens.signal import Signal
from resonance_lens.token_counts import token_rarity
from resonance_lens.token_labels import token_labels

Wanted = Mapping[int, Collection[str]]
"""Sites wanted at each layer."""

Receive = Callable[[Signal], None]

Hook = tuple[str, Callable[..., Any]]
"""Name of a hook point and a function of its value and itself, as TransformerLens takes them."""

HOOK_NAMES: dict[str, str] = {
    "pattern": "attn.hook_pattern",
    "scores": "attn.hook_attn_scores",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "z": "attn.hook_z",
    "rot_q": "attn.hook_rot_q",
    "rot_k": "attn.hook_rot_k",
    "head_out": "attn.hook_result",
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "mlp_post": "mlp.hook_post",
}
"""The legacy hook name of each site below ``blocks.<layer>.``: every TransformerLens resolves these."""

CLOSE = {"float16": 2e-2, "bfloat16": 1e-1}
"""How far, relative to its largest value, a resumed pass may be from a whole one: 1e-4 in full precision."""

GROUPED_SITES = ("k", "v", "rot_k")
SQUARE_SITES = ("pattern", "scores")


class Adapter(abc.ABC):
    """Serves the sites of one host as `Signal` objects.

    Attributes
    ----------
    facts
        What is true of the model.
    tokenizer
        The host's tokenizer, or ``None``.
    runs
        Whether passes can be made; a cache holds one pass and can make no other.
    """

    facts: Facts
    tokenizer: Any = None
    runs: bool = True

    @classmethod
    @abc.abstractmethod
    def matches(cls, host: object) -> bool:
        """Return whether ``host`` is one that this adapter serves."""

    @abc.abstractmethod
    def why_not(self, site: str, layer: int) -> str | None:
        """Return why a site cannot be served at a layer, or ``None`` if it can."""

    @abc.abstractmethod
    def run(self, batch: Batch, wanted: Wanted, receive: Receive) -> None:
        """Make one pass over ``batch`` and hand each wanted signal to ``receive`` as it arises.

        Signals come in the order in which the model computes them, each valid only during the call.
        """

    @abc.abstractmethod
    def readout(self, residual: Tensor) -> Tensor:
        """Return the logits ``[..., d_vocab]`` of residual vectors ``[..., d_model]``.

        The model's final norm is applied, once, then its unembedding with bias and soft cap.
        """

    def why_not_drive(self, site: str, layer: int) -> str | None:
        """Return why nothing can be added at a site of the residual stream, or ``None`` if it can."""
        return (
            f"Nothing can be driven in {self.facts.model_name} ({self.facts.host}): it makes no passes; "
            "give a model."
        )

    def drive(
        self,
        batch: Batch,
        site: str,
        layer: int,
        added: Tensor,
        residual: Tensor,
        wanted: Wanted,
        receive: Receive,
    ) -> None:
        """Make one pass from a layer on with something added at a site of it, and hand out signals.

        Parameters
        ----------
        batch
            The prompts, padded on the right.
        site, layer
            Where: a site of the residual stream, or of what is written to it.
        added
            ``[batch, token, d_model]``.
        residual
            What enters the layer without it: ``resid_pre`` in the common form.
        wanted, receive
            As in `run`; no layer is before ``layer``.

        Raises
        ------
        AdapterError
            If it cannot be driven: see `why_not_drive`.
        """
        raise AdapterError(str(self.why_not_drive(site, layer)))

    def ov_alignment(self, layer: int) -> Tensor:
        """Return the cosines ``[head, head]`` between the matrices ``W_V W_O`` of the heads of a layer.

        Raises
        ------
        AdapterError
            If the host does not give its weights.
        """
        raise AdapterError(
            f"{self.facts.model_name} ({self.facts.host}) does not give the weights of its heads."
        )

    def token_rarity(self, corpus: str, tokens: Tensor) -> Tensor:
        """Return how rare each of the tokens ``[batch, token]`` is by a corpus: see `Where`.

        Raises
        ------
        AdapterError
            If the host has no tokenizer to count with.
        """
        if self.tokenizer is None:
            raise AdapterError(
                f"{self.facts.model_name} ({self.facts.host}) has no tokenizer to count tokens with; set "
                "model.tokenizer, or leave out what asks how rare tokens are."
            )
        return torch.from_numpy(np.stack(token_rarity(self.tokenizer, corpus, tokens.tolist())))

    def token_labels(self, rule: str, tokens: Tensor) -> Tensor:
        """Return the class of each of the tokens ``[batch, token]`` by a rule: see `Where`.

        Raises
        ------
        AdapterError
            If the host has no tokenizer, to know what the tokens spell.
        """
        if self.tokenizer is None:
            raise AdapterError(
                f"{self.facts.model_name} ({self.facts.host}) has no tokenizer to label tokens with; set "
                "model.tokenizer, or leave out what asks for their classes."
            )
        return torch.from_numpy(np.stack(token_labels(self.tokenizer, rule, tokens.tolist())))

    def layers(self, sites: Collection[str]) -> tuple[int, ...]:
        """Return the layers that serve every one of ``sites``.

        Raises
        ------
        AdapterError
            If a site is unknown, or no layer serves them all: why.
        """
        for site in sites:
            if site not in SITE_AXES:
                raise AdapterError(unknown("site", site, SITE_AXES))
        reasons = {
            layer: next((why for site in sites if (why := self.why_not(site, layer))), None)
            for layer in range(self.facts.n_layers)
        }
        served = tuple(layer for layer, why in reasons.items() if why is None)
        if not served:
            raise AdapterError(str(reasons[self.facts.n_layers - 1 if "logits" in sites else 0]))
        return served

    def common(self, site: str, layer: int, values: Tensor, batch: Batch) -> Tensor:
        """Return what the host gave at a site in the common form, grouped keys and values not repeated."""
        facts = self.facts
        values = _full(values)
        axes = SITE_AXES[site]
        if site in ("q", "k", "v", "z") and values.ndim == 3:
            values = values.unflatten(-1, (-1, facts.d_head))  # [batch, token, head, d_head]
        if values.ndim != len(axes):
            raise AdapterError(
                f"Site {site!r} of layer {layer} has axes ({', '.join(axes)}), but the host gave a "
                f"tensor of shape {tuple(values.shape)}."
            )
        square = site in SQUARE_SITES
        # Without padding a softmax leaves exact zeros above the diagonal, which the proof of the
        # adapter checks; scores hold whatever the host masks with.
        ahead = square and facts.causal and (batch.padded or site == "scores")
        if not (batch.padded or ahead):
            return values
        lengths = batch.lengths.to(values.device)
        if batch.padded and batch.padding_side == "left":
            for dim in (2, 3) if square else (1,):
                values = _to_front(values, lengths, dim)
        steps = torch.arange(values.shape[-1 if square else 1], device=values.device)
        hidden = torch.zeros((), dtype=torch.bool, device=values.device)
        if batch.padded:
            beyond = steps >= lengths[:, None]  # [batch, token]
            if square:
                hidden = beyond[:, None, :, None] | beyond[:, None, None, :]  # [batch, 1, query, key]
            else:
                hidden = beyond.reshape(*beyond.shape, *[1] * (values.ndim - 2))
        if ahead:
            hidden = hidden | (steps[:, None] < steps)  # [query, key]
        return values.masked_fill(hidden, float("-inf") if site == "scores" else 0.0)

    def signal(self, site: str, layer: int, values: Tensor, batch: Batch) -> Signal:
        """Return what the host gave at a site as a signal of the common form."""
        facts = self.facts
        values = self.common(site, layer, values, batch)
        if site in GROUPED_SITES and values.shape[2] == facts.n_kv_heads != facts.n_heads:
            values = values.repeat_interleave(facts.n_heads // facts.n_kv_heads, dim=2)
        lengths = batch.lengths.to(values.device) if batch.padded else None
        return Signal(values, SITE_AXES[site], lengths=lengths, site=site, layer=layer)


class ModelAdapter(Adapter):
    """What the adapters of models that TransformerLens runs have in common.

    Parameters
    ----------
    model
        The model; it is not changed.

    Attributes
    ----------
    resumed
        Layers at which it has been shown that a pass can be resumed: see `resumes`.
    """

    derived: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Hook points, below ``blocks.<layer>.``, from which `derive` makes a site whose own is silent."""

    bypassed: ClassVar[tuple[str, ...]] = ()
    """Sites of the residual stream whose hook point lies on a branch: what a hook puts there is not in the
    stream itself, and has to be added to it at the end of the block."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.tokenizer = getattr(model, "tokenizer", None)
        self.facts = self.read_facts(model)
        self._firing: frozenset[str] | None = None
        self._ov_alignment: dict[int, Tensor] = {}
        self.resumed: set[int] = set()

    @staticmethod
    @abc.abstractmethod
    def read_facts(model: Any) -> Facts:
        """Return what is true of the model."""

    @property
    def device(self) -> torch.device:
        """Where the model's inputs go."""
        return torch.device(str(self.model.cfg.device or "cpu"))

    @property
    def firing(self) -> frozenset[str]:
        """Names of the hook points that fire, of all that sites are read from.

        Hosts have hook points that exist and never fire, so the first call makes a pass over two
        tokens.
        """
        if self._firing is None:
            self._firing = self._listen()
        return self._firing

    @staticmethod
    def hook_name(site: str, layer: int) -> str:
        """Return the name of the hook point that serves ``site`` at ``layer``."""
        return f"blocks.{layer}.{HOOK_NAMES[site]}"

    def sources(self, site: str, layer: int, present: Container[str]) -> tuple[str, ...]:
        """Return the hook points that a site is read from: its own, or those that it derives from.

        Parameters
        ----------
        site, layer
            What is wanted.
        present
            Names of the hook points that can be read.
        """
        own = self.hook_name(site, layer)
        others = tuple(f"blocks.{layer}.{name}" for name in self.derived.get(site, ()))
        if own not in present and others and all(name in present for name in others):
            return others
        return (own,)

    def derive(self, site: str, values: Sequence[Tensor]) -> Tensor:
        """Return what is found at a site, given the values of its `sources`."""
        return values[0]

    def why_not(self, site: str, layer: int) -> str | None:
        """Return why a site cannot be served at a layer, or ``None`` if it can."""
        if site == "logits":
            return None if layer == self.facts.n_layers - 1 else "Logits belong to the last layer."
        if all(name in self.firing for name in self.sources(site, layer, self.firing)):
            return None
        facts, name = self.facts, self.hook_name(site, layer)
        if site == "resid_mid" and facts.parallel:
            return (
                f"{facts.model_name} has no 'resid_mid' at layer {layer}: attention and MLP run in "
                "parallel from 'resid_pre'; use 'attn_out' and 'mlp_out' instead."
            )
        if site in ("rot_q", "rot_k") and facts.rotary_dims is None:
            return (
                f"{facts.model_name} has no {site!r}: its positions are {facts.positions}, not rotary, so "
                "its queries and keys do not turn; use 'q' and 'k' instead."
            )
        return (
            f"{facts.model_name} does not serve {site!r} at layer {layer}: on this host "
            f"({facts.host}) the hook point {name} does not exist or does not fire."
        )

    def run(self, batch: Batch, wanted: Wanted, receive: Receive) -> None:
        """Make one pass and hand out signals; see `Adapter.run`."""
        hooks: list[Hook] = []
        for layer, sites in wanted.items():
            for site in sites:
                if site != "logits":
                    hooks += self.listeners(site, layer, batch, receive)
        unembed = any("logits" in sites for sites in wanted.values())
        output = self._forward(batch, hooks, unembed=unembed)
        if unembed:
            receive(self.signal("logits", self.facts.n_layers - 1, output.detach(), batch))

    def why_not_drive(self, site: str, layer: int) -> str | None:
        """Return why nothing can be added at a site; see `Adapter.why_not_drive`."""
        from resonance_lens.hooks.writing import why_not_write

        return why_not_write(self, site, layer)

    def drive(
        self,
        batch: Batch,
        site: str,
        layer: int,
        added: Tensor,
        residual: Tensor,
        wanted: Wanted,
        receive: Receive,
    ) -> None:
        """Resume a pass at a layer with something added; see `Adapter.drive`."""
        from resonance_lens.hooks.writing import write

        hooks = write(self, site, layer, batch, lambda values: values + added.to(values))
        for at, sites in wanted.items():
            for each in sites:
                if each != "logits":
                    hooks += self.listeners(each, at, batch, receive)
        end = self.resume(batch, layer, residual, hooks)
        if any("logits" in sites for sites in wanted.values()):
            receive(self.signal("logits", self.facts.n_layers - 1, self.readout(end), batch))

    def logits(self, batch: Batch, hooks: Sequence[Hook] = ()) -> Tensor:
        """Return the model's logits ``[batch, token, d_vocab]``, as the host gives them.

        Parameters
        ----------
        batch
            The prompts.
        hooks
            Hook names with functions of the value and the hook point, as TransformerLens takes them;
            what a function returns replaces the value.
        """
        return self._forward(batch, hooks, unembed=True)

    def look(self, batch: Batch, hooks: Sequence[Hook]) -> None:
        """Make a pass for the sake of its hooks, without logits; see `logits`."""
        self._forward(batch, hooks, unembed=False)

    def forward(self, tokens: Tensor, mask: dict[str, Tensor], unembed: bool) -> Tensor:
        """Run the model; without ``unembed`` the logits are not needed and may be skipped."""
        values: Tensor = self.model(tokens, return_type="logits", **mask)
        return values

    def resume(self, batch: Batch, layer: int, residual: Tensor, hooks: Sequence[Hook] = ()) -> Tensor:
        """Return the residual stream ``[batch, token, d_model]`` after the last layer of a pass cut short.

        Parameters
        ----------
        batch
            The prompts.
        layer
            The first layer that is run.
        residual
            What enters it, as ``resid_pre`` of that layer is found in a pass over the same prompts; on the
            side of the padding that the host has it on.
        hooks
            As in `logits`, at this layer and later ones.

        Notes
        -----
        Logits are `readout` of it, at the positions where they are wanted.
        """
        dtype = next(iter(self.model.parameters())).dtype
        return self.forward_from(
            batch.tokens.to(self.device), self._mask(batch), layer, residual.to(self.device, dtype), hooks
        )

    def resumes(self, batch: Batch, layer: int, residual: Tensor, end: Tensor) -> bool:
        """Return whether a pass that begins at a layer ends like the whole one.

        Some architectures hand more from block to block than the residual stream.

        Parameters
        ----------
        batch, layer, residual
            As of `resume`.
        end
            What leaves the last layer in a whole pass, in the common form.
        """
        again = self.resume(batch, layer, residual)
        real = batch.attention_mask().bool()
        expected = end[real]
        got = self.common("resid_post", self.facts.n_layers - 1, again, batch)[real]
        tolerance = CLOSE.get(self.facts.dtype, 1e-4) * float(expected.abs().max())
        return float((got - expected).abs().max()) <= tolerance

    @abc.abstractmethod
    def forward_from(
        self, tokens: Tensor, mask: dict[str, Tensor], layer: int, residual: Tensor, hooks: Sequence[Hook]
    ) -> Tensor:
        """Run the blocks from ``layer`` on; see `resume`."""

    def modules(self) -> Iterator[torch.nn.Module]:
        """Yield every module of the model; some may come twice."""
        yield from self.model.modules()

    def readout(self, residual: Tensor) -> Tensor:
        """Return logits through the model's own final norm and unembedding; see `Adapter.readout`."""
        dtype = next(iter(self.model.parameters())).dtype
        flat = residual.reshape(1, -1, residual.shape[-1]).to(self.device, dtype)
        with torch.no_grad(), self._evaluating():
            norm = getattr(self.model, "ln_final", None)
            logits = self.cap(self.model.unembed(flat if norm is None else norm(flat)))
        return _full(logits).reshape(*residual.shape[:-1], -1)

    def cap(self, logits: Tensor) -> Tensor:
        """Apply the soft cap or scale that the model puts on its logits, if it has one."""
        return logits

    def ov_alignment(self, layer: int) -> Tensor:
        """Return the cosines between what heads write for what they read; see `Adapter.ov_alignment`.

        The inner product of two of the matrices is the sum over the entries of two small ones,
        ``W_V^T W_V'`` times ``W_O W_O'^T``, so that no matrix as wide as the residual stream is made. They
        are the weights as the host has them: a norm before them that is not folded in is not in them. What
        a layer has is worked out once.
        """
        if layer not in self._ov_alignment:
            attn = self.model.blocks[layer].attn
            try:
                # A HookedTransformer repeats the values that query heads share; kept apart they are fewer.
                read = attn._W_V if hasattr(attn, "_W_V") else attn.W_V
                write = attn.W_O
            except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
                raise AdapterError(
                    f"{self.facts.model_name} ({self.facts.host}) does not give the weights of the heads of "
                    f"layer {layer}: {error}"
                ) from error
            self._ov_alignment[layer] = _alignment(_full(read.detach()), _full(write.detach()))
        return self._ov_alignment[layer]

    def listeners(self, site: str, layer: int, batch: Batch, receive: Receive) -> list[Hook]:
        """Return hooks that make a signal of a site once all its sources have fired."""
        names = self.sources(site, layer, self.firing)
        found: dict[str, Tensor] = {}

        def listen(values: Tensor, hook: Any, name: str) -> None:
            found[name] = values.detach()
            if len(found) == len(names):
                values = self.derive(site, [found.pop(name) for name in names])
                receive(self.signal(site, layer, values, batch))

        return [(name, partial(listen, name=name)) for name in names]

    def _listen(self) -> frozenset[str]:
        names = {
            f"blocks.{layer}.{name}"
            for layer in range(self.facts.n_layers)
            for names in (HOOK_NAMES.values(), *self.derived.values())
            for name in names
        }
        names &= set(self.model.hook_dict)
        batch = Batch(torch.arange(2)[None, :] % self.facts.d_vocab, torch.tensor([2]), (0,))
        heard: set[str] = set()

        def listen(values: Tensor, hook: Any, name: str) -> None:
            heard.add(name)

        def hear(names: Collection[str]) -> None:
            hooks = [(name, partial(listen, name=name)) for name in names]
            self._forward(batch, hooks, unembed=False)

        try:
            hear(names)
        except NotImplementedError:  # no attention of this model can give each head's own output
            hear([name for name in names if not name.endswith(HOOK_NAMES["head_out"])])
        return frozenset(heard)

    def _forward(self, batch: Batch, hooks: Sequence[Hook], *, unembed: bool) -> Tensor:
        with self.prepared(hooks):
            return self.forward(batch.tokens.to(self.device), self._mask(batch), unembed)

    def _mask(self, batch: Batch) -> dict[str, Tensor]:
        # A causal model with padding on the right needs no mask, and hosts that are given one
        # take a slower way through attention.
        masked = batch.padded and (batch.padding_side == "left" or not self.facts.causal)
        return {"attention_mask": batch.attention_mask().to(self.device)} if masked else {}

    @contextmanager
    def prepared(self, hooks: Sequence[Hook]) -> Iterator[None]:
        """Have the model ready for a pass with hooks, and leave it as it was."""
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(self._evaluating())
            if any(name.endswith(HOOK_NAMES["head_out"]) for name, _ in hooks):
                stack.enter_context(self._per_head_output())
            stack.enter_context(self.model.hooks(fwd_hooks=list(hooks)))
            yield

    @contextmanager
    def _per_head_output(self) -> Iterator[None]:
        """Have the host compute each head's own output for the time of the block."""
        before = bool(self.model.cfg.use_attn_result)
        try:
            with warnings.catch_warnings():
                # That some layers cannot is no news: `why_not` says so where it is asked.
                warnings.simplefilter("ignore")
                self.model.set_use_attn_result(True)
            yield
        finally:
            self.model.set_use_attn_result(before)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Keep the model in evaluation mode for the time of the block, then every module as it was."""
        training = [module for module in self.modules() if module.training]
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True


def _alignment(read: Tensor, write: Tensor) -> Tensor:
    """Return the cosines ``[head, head]`` between products of ``[kv_head, d_model, d_head]`` and
    ``[head, d_head, d_model]``; a head whose product is zero has none with any."""
    n_heads, d_head, _ = write.shape
    shared = n_heads // len(read)
    columns = read.permute(1, 0, 2).flatten(1)  # [d_model, kv_head * d_head]
    of_read = (columns.T @ columns).unflatten(0, (-1, d_head)).unflatten(-1, (-1, d_head))
    of_read = of_read.repeat_interleave(shared, 0).repeat_interleave(shared, 2)
    rows = write.flatten(0, 1)  # [head * d_head, d_model]
    of_write = (rows @ rows.T).unflatten(0, (-1, d_head)).unflatten(-1, (-1, d_head))
    inner = (of_read * of_write).sum((1, 3), dtype=torch.float64)  # [head, head]
    size = inner.diagonal().clamp_min(0).sqrt()
    cosines: Tensor = inner / (size[:, None] * size).clamp_min(torch.finfo(torch.float64).tiny)
    return cosines


def _full(values: Tensor) -> Tensor:
    """Return values in single precision, or in double precision if they have it."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def _to_front(values: Tensor, lengths: Tensor, dim: int) -> Tensor:
    """Move each row's last ``lengths`` entries along ``dim`` to its beginning."""
    width = values.shape[dim]
    index = torch.arange(width, device=values.device) + (width - lengths[:, None])  # [batch, width]
    index = index.clamp(max=width - 1)
    shape = [1] * values.ndim
    shape[0], shape[dim] = values.shape[0], width
    return values.gather(dim, index.reshape(shape).expand_as(values))
