"""Building small transformers from weights that are given, for whichever host is installed.

There is no normalisation, so that what is planted is exact: a residual stream is the sum of what was
written to it, and attention scores are the inner products that the weights say.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from resonance_lens.errors import ModelError, ParameterError, unknown, wrong_parameter
from resonance_lens.loading import transformer_lens_version

if TYPE_CHECKING:
    import torch

Host = Literal["transformer_bridge", "hooked_transformer"]
HOSTS: tuple[Host, ...] = ("transformer_bridge", "hooked_transformer")

Array = NDArray[np.float64]
Weights = dict[str, Array]
"""Arrays by their names in a HookedTransformer; see `weight_shapes`."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a small transformer is, apart from its weights.

    Attributes
    ----------
    n_layers, n_heads, d_model, d_head, d_vocab
        Sizes, at least 1.
    n_ctx
        The longest prompt, in tokens.
    d_mlp
        Neurons of each layer's MLP; ``None`` for attention only.
    activation
        ``relu``, ``gelu`` or ``silu``.
    positions
        ``learned``: a vector is added at each position. ``rotary``: queries and keys are rotated by
        position.
    rotary_dims, rotary_base
        Rotary positions only: dimensions ``2k`` and ``2k + 1`` of each query and key, k below
        ``rotary_dims / 2``, turn by ``rotary_base ** (-2 k / rotary_dims)`` radians per token;
        the other dimensions do not turn. All of them turn if ``rotary_dims`` is ``None``.

    Raises
    ------
    ParameterError
        If a size is out of its range.
    """

    n_layers: int
    n_heads: int
    d_model: int
    d_head: int
    d_vocab: int
    n_ctx: int = 64
    d_mlp: int | None = None
    activation: str = "relu"
    positions: Literal["learned", "rotary"] = "learned"
    rotary_dims: int | None = None
    rotary_base: int = 10000

    def __post_init__(self) -> None:
        sizes = {
            name: getattr(self, name)
            for name in ("n_layers", "n_heads", "d_model", "d_head", "d_vocab", "n_ctx")
        }
        if self.d_mlp is not None:
            sizes["d_mlp"] = self.d_mlp
        for name, size in sizes.items():
            if not (isinstance(size, int) and size >= 1):
                raise ParameterError(wrong_parameter("Shape", name, "a whole number of at least 1", size))
        for name, allowed in (
            ("activation", ("relu", "gelu", "silu")),
            ("positions", ("learned", "rotary")),
        ):
            if getattr(self, name) not in allowed:
                requirement = "one of " + ", ".join(map(repr, allowed))
                raise ParameterError(wrong_parameter("Shape", name, requirement, getattr(self, name)))
        if self.positions == "rotary":
            dims = self.turning_dims
            if dims < 2 or dims % 2 or dims > self.d_head:
                requirement = f"an even number from 2 to d_head ({self.d_head})"
                raise ParameterError(wrong_parameter("Shape", "rotary_dims", requirement, dims))
            if not (isinstance(self.rotary_base, int) and self.rotary_base >= 2):
                # Some hosts cut a fraction off without a word.
                requirement = "a whole number of at least 2"
                raise ParameterError(wrong_parameter("Shape", "rotary_base", requirement, self.rotary_base))

    @property
    def turning_dims(self) -> int:
        """How many dimensions of each query and key turn; 0 without rotary positions."""
        if self.positions != "rotary":
            return 0
        return self.d_head if self.rotary_dims is None else self.rotary_dims

    @property
    def rotary_frequencies(self) -> Array:
        """Radians per token of each rotary pair, the fastest first; empty without rotary positions."""
        dims = self.turning_dims
        return np.asarray(float(self.rotary_base) ** (-np.arange(0, dims, 2) / max(dims, 1)))


def weight_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return the name and the size of every weight of a model.

    The names are those of a HookedTransformer: ``embed.W_E`` [vocab, d_model], ``pos_embed.W_pos``
    [position, d_model], ``blocks.0.attn.W_Q``, ``W_K`` and ``W_V`` [head, d_model, d_head] with
    ``b_Q``, ``b_K`` and ``b_V`` [head, d_head], ``blocks.0.attn.W_O`` [head, d_head, d_model] with
    ``b_O``, ``blocks.0.mlp.W_in`` [d_model, d_mlp] with ``b_in``, ``blocks.0.mlp.W_out`` with ``b_out``,
    and ``unembed.W_U`` [d_model, vocab].
    """
    heads, d_model, d_head = shape.n_heads, shape.d_model, shape.d_head
    found: dict[str, tuple[int, ...]] = {"embed.W_E": (shape.d_vocab, d_model)}
    if shape.positions == "learned":
        found["pos_embed.W_pos"] = (shape.n_ctx, d_model)
    for layer in range(shape.n_layers):
        at = f"blocks.{layer}"
        for name in "QKV":
            found[f"{at}.attn.W_{name}"] = (heads, d_model, d_head)
            found[f"{at}.attn.b_{name}"] = (heads, d_head)
        found[f"{at}.attn.W_O"] = (heads, d_head, d_model)
        found[f"{at}.attn.b_O"] = (d_model,)
        if shape.d_mlp is not None:
            found[f"{at}.mlp.W_in"] = (d_model, shape.d_mlp)
            found[f"{at}.mlp.b_in"] = (shape.d_mlp,)
            found[f"{at}.mlp.W_out"] = (shape.d_mlp, d_model)
            found[f"{at}.mlp.b_out"] = (d_model,)
    found["unembed.W_U"] = (d_model, shape.d_vocab)
    return found


def empty_weights(shape: Shape) -> Weights:
    """Return zeros for every weight of a model: a start for filling in what is planted."""
    return {name: np.zeros(size) for name, size in weight_shapes(shape).items()}


def build_model(
    shape: Shape,
    weights: Mapping[str, NDArray[Any]],
    *,
    name: str,
    host: str | None = None,
    tokenizer: Any = None,
    device: str | torch.device | None = None,
) -> Any:
    """Return a model with the weights that are given, in evaluation mode and single precision.

    Parameters
    ----------
    shape
        What it is, apart from its weights.
    weights
        Arrays by name; see `weight_shapes`. Biases that are missing are zero.
    name
        What the host calls the model.
    host
        ``transformer_bridge`` (TransformerLens 3 and 4) or ``hooked_transformer`` (TransformerLens 2 and 3);
        the first of these that is installed, if not said.
    tokenizer
        A tokenizer of transformers, or ``None``: prompts are then given as token ids.
    device
        Where the model runs; the CPU if not said.

    Returns
    -------
    TransformerBridge or HookedTransformer
        The model. Building it draws nothing from the global random state.

    Raises
    ------
    ModelError
        If the host is not installed, or a weight is missing, unknown, of the wrong size or infinite.
    """
    import torch

    chosen = _installed_host(host)
    arrays = _checked(shape, weights, name)
    tensors = {key: torch.tensor(value, dtype=torch.float32) for key, value in arrays.items()}
    place = str(device or "cpu")
    # Making modules draws initial weights, which are then overwritten.
    with torch.random.fork_rng(devices=[]):
        if chosen == "transformer_bridge":
            from resonance_lens.testbed.bridge import build_bridge

            model: Any = build_bridge(shape, tensors, name, tokenizer, place)
        else:
            model = _build_hooked(shape, tensors, name, tokenizer, place)
    return model.eval()


def _installed_host(host: str | None) -> Host:
    """Return the host to build for, or say which ones there are."""
    version = transformer_lens_version()
    if version is None:
        raise ModelError(
            "TransformerLens, which runs every model, is not installed: run `pip install transformer-lens`."
        )
    major = int(version.split(".")[0])
    present: dict[str, bool] = {
        "transformer_bridge": major >= 4 or (major == 3 and _has_native_bridge()),
        "hooked_transformer": major < 4,
    }
    if host is None:
        host = next(known for known in HOSTS if present[known])
    if host not in present:
        raise ModelError(unknown("host", host, HOSTS))
    if not present[host]:
        others = " and ".join(repr(known) for known in HOSTS if present[known])
        raise ModelError(
            f"The host {host!r} is not part of the installed TransformerLens {version}: use {others}, or "
            "leave the host out."
        )
    return host  # type: ignore[return-value]


def _has_native_bridge() -> bool:
    """Return whether this TransformerLens builds bridges without a Hugging Face model: early 3.x does not."""
    from transformer_lens.model_bridge import TransformerBridge

    return hasattr(TransformerBridge, "boot_native")


def _checked(shape: Shape, weights: Mapping[str, NDArray[Any]], name: str) -> Weights:
    """Return every weight of a model, or say which one is wrong."""
    wanted = weight_shapes(shape)
    for key in weights:
        if key not in wanted:
            raise ModelError(unknown(f"weight of the model {name!r} called", key, wanted))
    found: Weights = {}
    for key, size in wanted.items():
        if key not in weights and ".b_" not in key:
            raise ModelError(f"The model {name!r} needs the weight {key!r} of size {size}, which is missing.")
        value = np.asarray(weights.get(key, np.zeros(size)), dtype=np.float64)
        if value.shape != size:
            raise ModelError(f"The weight {key!r} of the model {name!r} has size {value.shape}, not {size}.")
        if not np.isfinite(value).all():
            raise ModelError(f"The weight {key!r} of the model {name!r} holds values that are not finite.")
        found[key] = value
    return found


def settings_of(shape: Shape, name: str) -> dict[str, Any]:
    """Return what the configs of all hosts have in common."""
    rotary = shape.positions == "rotary"
    return dict(
        model_name=name,
        n_layers=shape.n_layers,
        d_model=shape.d_model,
        n_ctx=shape.n_ctx,
        d_head=shape.d_head,
        n_heads=shape.n_heads,
        d_mlp=shape.d_mlp,
        attn_only=shape.d_mlp is None,
        d_vocab=shape.d_vocab,
        act_fn=shape.activation,
        normalization_type=None,
        positional_embedding_type="rotary" if rotary else "standard",
        rotary_dim=shape.turning_dims if rotary else None,
        rotary_base=shape.rotary_base,
        default_prepend_bos=False,
        init_weights=False,
    )


def _build_hooked(
    shape: Shape, tensors: Mapping[str, torch.Tensor], name: str, tokenizer: Any, device: str
) -> Any:
    """Return a HookedTransformer with these weights."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(**settings_of(shape, name), rotary_adjacent_pairs=True, device=device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "HookedTransformer is deprecated", DeprecationWarning)
        model: Any = HookedTransformer(config, tokenizer=tokenizer)
    # The mask, and what rotary positions need, are buffers that the host has made.
    state = {key: value for key, value in model.state_dict().items() if key not in tensors}
    zero = {key: value * 0 for key, value in state.items() if key == "unembed.b_U"}
    model.load_state_dict({**state, **zero, **tensors})
    return model
