"""The random-weight twin of a model: the same architecture as it was before it learned anything.

A measurement on the twin is the baseline that says how much of a number is the architecture's own:
its positions, its mask, its norms. The twin starts as the architecture's own code has it start.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from resonance_lens.errors import AdapterError
from resonance_lens.hooks.adapter import Adapter, ModelAdapter
from resonance_lens.hooks.hooked_transformer import HookedTransformerAdapter
from resonance_lens.hooks.transformer_bridge import TransformerBridgeAdapter

TIED = 0.99
HALF_PRECISION = 2**-7
"""Relative: what a model in bfloat16 may have lost of its rotary frequencies, and its twin not."""

N_TOKENS = 4096


def random_twin(adapter: Adapter, seed: int) -> ModelAdapter:
    """Return an adapter of the model's random-weight twin.

    Parameters
    ----------
    adapter
        Attached to the model. The model, its hooks and its mode stay as they are, and so do all
        random states.
    seed
        Of the twin's weights: the same seed gives the same weights, whatever the device.

    Returns
    -------
    ModelAdapter
        Around a second model with the first one's config, tokenizer, device and precision, in
        evaluation mode. Its facts are those of the model, but ``model_name`` says what it is:
        ``"gpt2 (random weights, seed 0)"``. It takes as much memory as the model.

    Raises
    ------
    AdapterError
        If there can be no twin: the host is no model in memory (a cache, planted signals, another
        package's host), its weights are quantised, or its architecture does not say how all of its
        parameters start.

    Notes
    -----
    Behind a bridge the twin is what the class of the wrapped network makes of its config; a model
    native to TransformerLens starts as ``boot_native`` has it. A HookedTransformer is initialised
    by its own ``init_weights``, with ``cfg.init_mode`` and ``cfg.initializer_range``; TransformerLens
    unties embeddings, and a twin's are tied again where the model's were.

    Folding does nothing to a norm that has yet to learn, so a HookedTransformer with folded norms
    has a twin without their parameters, as it is itself; its weights are not centred, which norms
    and softmax do not see. The twin of a bridge in compatibility mode is put into that mode with
    the default processing, or with none if the model has none.

    Hooks that were added to the model for good are not on the twin.
    """
    facts = adapter.facts
    make = _make_of(adapter)
    if make is None or not isinstance(adapter, ModelAdapter):
        raise AdapterError(
            f"{facts.model_name} has no random-weight twin on this host ({facts.host}): only a "
            "TransformerBridge or a HookedTransformer can be made anew; give the model itself, or leave "
            "this baseline out."
        )
    _require_plain_weights(adapter)
    try:
        # Without a device the fork would also touch, and start, every accelerator.
        # TransformerLens prints where it moves a model to.
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
            torch.default_generator.manual_seed(seed)
            model = make(adapter.model)
    except AdapterError:
        raise
    except Exception as error:  # whatever an architecture's own code raises
        raise AdapterError(
            f"{facts.model_name} has no random-weight twin: making it anew from its config fails "
            f"({type(error).__name__}: {error}); leave this baseline out."
        ) from error
    model.cfg.model_name = f"{facts.model_name} (random weights, seed {seed})"
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise AdapterError(
                f"{facts.model_name} has no random-weight twin: its architecture does not say how the "
                f"parameter {name.replace('._original_component', '')} starts; leave this baseline out."
            )
    twin = type(adapter)(model)
    found, wanted = (asdict(replace(each.facts, model_name="")) for each in (twin, adapter))
    differing = [name for name in wanted if not _alike(found[name], wanted[name])]
    if differing:
        raise AdapterError(
            f"{facts.model_name} has no random-weight twin: made anew from its config, it differs in "
            f"{', '.join(differing)}; leave this baseline out."
        )
    return twin


def _alike(one: object, other: object) -> bool:
    """Return whether two facts are the same; numbers of a tuple up to `HALF_PRECISION`."""
    if isinstance(one, tuple) and isinstance(other, tuple) and one and isinstance(one[0], float):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(math.isclose(a, b, rel_tol=HALF_PRECISION) for a, b in pairs)
    return one == other


def _make_of(adapter: Adapter) -> Callable[[Any], Any] | None:
    """Return what makes a twin of a model of this host, given the model, or ``None``."""
    if isinstance(adapter, TransformerBridgeAdapter):
        native = adapter.model.cfg.architecture == "TransformerLensNative"
        return _native_bridge if native else _bridge
    return _hooked_transformer if isinstance(adapter, HookedTransformerAdapter) else None


def _require_plain_weights(adapter: ModelAdapter) -> None:
    """Refuse a model whose weights are packed, absent, or spread by someone else over devices."""
    name, model = adapter.facts.model_name, adapter.model
    network = getattr(model, "original_model", model)
    packed = not all(parameter.is_floating_point() for parameter in network.parameters())
    if packed or getattr(getattr(network, "config", None), "quantization_config", None):
        raise AdapterError(
            f"{name} has no random-weight twin: its weights are quantised, and random ones would have to "
            "be quantised in the same way; load it unquantised, or leave this baseline out."
        )
    devices = {parameter.device for parameter in network.parameters()}
    # A HookedTransformer spreads itself, as its config says.
    if torch.device("meta") in devices or (network is not model and len(devices) > 1):
        raise AdapterError(
            f"{name} has no random-weight twin: its weights are spread over several devices or are not "
            "in memory; load it on one device, or leave this baseline out."
        )


@contextmanager
def _initialising(like: Tensor) -> Iterator[None]:
    """Have new modules made on the processor, and hold not-a-number until they are initialised.

    They have the precision of ``like``. All of that is torch's state as a whole, which is after the
    block as it was before.
    """
    precision = torch.get_default_dtype()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        with torch.device("cpu"):
            torch.set_default_dtype(like.dtype)
            torch.use_deterministic_algorithms(True)  # fills what is empty with not-a-number
            yield
    finally:
        torch.set_default_dtype(precision)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def _bridge(model: Any) -> Any:
    """Return a bridge around a network that its class makes from its config."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    trained = model.original_model
    if getattr(trained, "config", None) is None:
        raise AdapterError(
            f"{model.cfg.model_name} has no random-weight twin: a {type(trained).__name__} has no config "
            "to be made from; leave this baseline out."
        )
    parameter = next(trained.parameters())
    with _initialising(parameter):
        network = type(trained)(copy.deepcopy(trained.config)).eval()
    network.to(parameter.device)
    twin = build_bridge_from_module(network, model.cfg.architecture, hf_config=network.config)
    _share_tokenizer(model, twin)
    if model.compatibility_mode:
        processed = getattr(model, "_weights_processed", True)
        twin.enable_compatibility_mode(disable_warnings=True, no_processing=not processed)
    return twin


def _native_bridge(model: Any) -> Any:
    """Return a bridge around TransformerLens's own network, initialised by its own code."""
    cfg = copy.deepcopy(model.cfg)
    cfg.init_weights, cfg.seed = True, None  # it draws from the state that is forked, which has our seed
    parameter = next(model.parameters())
    with _initialising(parameter):
        twin = type(model).boot_native(cfg).eval()
    twin.to(parameter.device)
    twin.cfg.device = model.cfg.device
    _share_tokenizer(model, twin)
    return twin


def _share_tokenizer(model: Any, twin: Any) -> None:
    """Give a twin the tokenizer of the model; TransformerLens would load another one."""
    twin.tokenizer = model.tokenizer
    for name in ("default_prepend_bos", "tokenizer_prepends_bos", "tokenizer_appends_eos"):
        setattr(twin.cfg, name, getattr(model.cfg, name))


def _hooked_transformer(model: Any) -> Any:
    """Return a HookedTransformer that initialised itself."""
    from transformer_lens import HookedTransformer

    cfg = copy.deepcopy(model.cfg)
    # A seed of the config would be given to torch as a whole; the state that is forked has ours.
    cfg.init_weights, cfg.seed, cfg.tokenizer_name = True, None, None
    with warnings.catch_warnings(), _initialising(model.embed.W_E):
        warnings.filterwarnings("ignore", "HookedTransformer is deprecated", DeprecationWarning)
        twin = HookedTransformer(cfg, move_to_device=False).eval()
    twin.move_model_modules_to_device()
    twin.tokenizer, twin.cfg.tokenizer_name = model.tokenizer, model.cfg.tokenizer_name
    if _tied(model.embed.W_E, model.unembed.W_U):
        with torch.no_grad():
            twin.unembed.W_U.copy_(twin.embed.W_E.T)
    return twin


def _tied(embed: Tensor, unembed: Tensor) -> bool:
    """Return whether an unembedding was made from the embedding.

    Folding a norm multiplies each coordinate, and centring subtracts: neither changes much how the
    two correlate over tokens, which is near 1 where they are tied and near 0 where they are not.

    Parameters
    ----------
    embed, unembed
        Shapes ``[d_vocab, d_model]`` and ``[d_model, d_vocab]``.
    """
    if embed.shape != unembed.T.shape:
        return False
    first, second = (values[:N_TOKENS].detach().float() for values in (embed, unembed.T))
    first, second = first - first.mean(0), second - second.mean(0)  # [token, d_model]
    correlation = torch.nn.functional.cosine_similarity(first, second.to(first.device), dim=0)
    return float(correlation.abs().median()) > TIED
