"""Tiny models with the weights of the reference transformer, on every host that is installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from resonance_lens.facts import Batch
from tests.reference_transformer import ARCHITECTURES, Architecture, Array, Weights, make_weights


@dataclass(frozen=True)
class Host:
    """A kind of model that the installed TransformerLens can run.

    Attributes
    ----------
    name
        Of its adapter.
    build
        Makes a fresh model of an architecture, with weights of the reference.
    """

    name: str
    build: Callable[..., Any]

    def __str__(self) -> str:
        return self.name


def hosts() -> list[Host]:
    """Return the hosts of the installed TransformerLens: the bridge came with 3 and the other left with 4."""
    major = int(version("transformer-lens").split(".")[0])
    found = []
    if major >= 3:
        found.append(Host("transformer_bridge", bridge))
    if major < 4:
        found.append(Host("hooked_transformer", hooked))
    return found


def cases() -> list[tuple[Host, Architecture]]:
    """Return every host that is installed with every architecture, for ``parametrize``."""
    return [(host, architecture) for host in hosts() for architecture in ARCHITECTURES]


def cases_with(turn: Architecture) -> list[tuple[Host, Architecture]]:
    """Return the hosts and architectures that one of many things is tried on, for ``parametrize``.

    Every architecture on a host in the version of TransformerLens that is its home: the bridge in 4, a
    HookedTransformer in 3. The same host in an earlier version gets the one whose turn it is: that its
    signals are the same there is tested with all of them, site by site (tests/hooks).
    """
    major = int(version("transformer-lens").split(".")[0])
    home = "transformer_bridge" if major >= 4 else "hooked_transformer" if major == 3 else None
    return [(host, arch) for host, arch in cases() if host.name == home or arch is turn]


def build(architecture: Architecture, **kwargs: Any) -> Any:
    """Return a fresh model on the first host that is installed."""
    return hosts()[0].build(architecture, **kwargs)


@cache
def tokenizer() -> Any:
    """Return a tokenizer of the words ``w0`` ... ``w50``, with a padding and a beginning token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    words = ["<pad>", "<bos>", *(f"w{i}" for i in range(51))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<bos>"
    )
    # TransformerLens loads a tokenizer anew from where it came from.
    folder = TemporaryDirectory()
    _kept.append(folder)
    made.save_pretrained(folder.name)
    return AutoTokenizer.from_pretrained(folder.name)


_kept: list[TemporaryDirectory[str]] = []


def bridge(
    arch: Architecture, *, seed: int = 0, dtype: torch.dtype = torch.float32, text: bool = False
) -> Any:
    """Return a TransformerBridge around a Hugging Face model made in memory.

    Parameters
    ----------
    arch
        The architecture.
    seed
        Of the weights.
    dtype
        Of the weights.
    text
        Whether to give it a tokenizer.
    """
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    model = _hugging_face(arch)
    weights = {
        name: torch.tensor(value, dtype=torch.float32)
        for name, value in _hugging_face_weights(arch, make_weights(arch, seed)).items()
    }
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model = model.to(dtype).eval()
    return build_bridge_from_module(
        model,
        type(model).__name__,
        hf_config=model.config,
        tokenizer=tokenizer() if text else None,
        model_name=arch.name,
    )


def hooked(
    arch: Architecture, *, seed: int = 0, dtype: torch.dtype = torch.float32, text: bool = False
) -> Any:
    """Return a HookedTransformer with raw weights; the parameters are those of `bridge`."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    rotary = arch.rotary_dims is not None
    config = HookedTransformerConfig(
        model_name=arch.name,
        n_layers=arch.n_layers,
        d_model=arch.d_model,
        n_ctx=arch.n_ctx,
        d_head=arch.d_head,
        n_heads=arch.n_heads,
        n_key_value_heads=arch.n_kv_heads if arch.n_kv_heads != arch.n_heads else None,
        d_mlp=arch.d_mlp,
        d_vocab=arch.d_vocab,
        act_fn=arch.activation,
        eps=arch.eps,
        gated_mlp=arch.gated,
        normalization_type="RMS" if arch.rms else "LN",
        final_rms=arch.rms,
        positional_embedding_type="rotary" if rotary else "standard",
        rotary_dim=arch.rotary_dims,
        rotary_base=int(arch.rotary_base or 10000),
        parallel_attn_mlp=arch.parallel,
        default_prepend_bos=not arch.parallel,
        dtype=dtype,
        device="cpu",
        init_weights=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "HookedTransformer is deprecated", DeprecationWarning)
        model = HookedTransformer(config, tokenizer=tokenizer() if text else None)
    state = dict.fromkeys(model.state_dict(), None)
    weights = _hooked_weights(arch, make_weights(arch, seed))
    buffers = {name for name, _ in model.named_buffers()}
    for name, value in model.state_dict().items():
        if name in buffers:
            state[name] = value
        elif name in weights:
            state[name] = torch.tensor(weights[name], dtype=dtype)
        else:  # biases that the architecture does not have
            assert ".b_" in name or "._b_" in name, name
            state[name] = torch.zeros_like(value)
    assert set(weights) <= set(state), set(weights) - set(state)
    model.load_state_dict(state)
    return model.eval()


@cache
def smollm2() -> Any:
    """Return SmolLM2-135M, loaded once in each process: 0.5 GiB, which no test may change."""
    import resonance_lens as rl

    return rl.load_model("smollm2-135m", progress=False)


def prompts(seed: int = 0, lengths: tuple[int, ...] = (7, 1, 12, 5)) -> list[list[int]]:
    """Return prompts of tokens drawn at random, never the padding token."""
    rng = np.random.default_rng(seed)
    return [[int(token) for token in rng.integers(1, 53, size=length)] for length in lengths]


def batch_of(rows: list[list[int]], side: str = "right") -> Batch:
    """Return prompts as one batch, padded at ``side`` with token 0."""
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for i, row in enumerate(rows):
        start = 0 if side == "right" else tokens.shape[1] - len(row)
        tokens[i, start : start + len(row)] = torch.tensor(row)
    return Batch(tokens, lengths, tuple(range(len(rows))), side)


def _hugging_face(arch: Architecture) -> Any:
    import transformers

    common: dict[str, Any] = dict(
        vocab_size=arch.d_vocab,
        attn_implementation="eager",
        tie_word_embeddings=arch.tied,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    if arch.name == "gpt2":
        return transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                n_embd=arch.d_model,
                n_layer=arch.n_layers,
                n_head=arch.n_heads,
                n_inner=arch.d_mlp,
                n_positions=arch.n_ctx,
                activation_function=arch.activation,
                layer_norm_epsilon=arch.eps,
                **common,
            )
        )
    common |= dict(
        hidden_size=arch.d_model,
        intermediate_size=arch.d_mlp,
        num_hidden_layers=arch.n_layers,
        num_attention_heads=arch.n_heads,
        max_position_embeddings=arch.n_ctx,
        hidden_act=arch.activation,
    )
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": arch.rotary_base}
    if arch.name == "llama":
        return transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                num_key_value_heads=arch.n_kv_heads,
                head_dim=arch.d_head,
                rms_norm_eps=arch.eps,
                rope_parameters=rope,
                **common,
            )
        )
    assert arch.name == "neox" and arch.rotary_dims is not None
    rope["partial_rotary_factor"] = arch.rotary_dims / arch.d_head
    return transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(
            use_parallel_residual=arch.parallel,
            layer_norm_eps=arch.eps,
            rope_parameters=rope,
            **common,
        )
    )


def _hugging_face_weights(arch: Architecture, weights: Weights) -> Weights:
    """Return the reference's weights under the names and in the layout of Hugging Face."""

    def rows(block: Weights, name: str) -> Array:
        """Return a map of heads as ``[head * d_head, d_model]``."""
        matrix: Array = block[f"W_{name}"].transpose(0, 2, 1).reshape(-1, arch.d_model)
        return matrix

    def norm(target: str, source: str, block: Weights) -> Weights:
        found = {f"{target}.weight": block[f"{source}.w"]}
        return found if arch.rms else found | {f"{target}.bias": block[f"{source}.b"]}

    out: Weights = {}
    if arch.name == "gpt2":
        root, final = "transformer.h", "transformer.ln_f"
        out["transformer.wte.weight"] = weights["embed"]
        out["transformer.wpe.weight"] = weights["positions"]
    elif arch.name == "llama":
        root, final = "model.layers", "model.norm"
        out["model.embed_tokens.weight"] = weights["embed"]
        out["lm_head.weight"] = weights["unembed"].T
    else:
        root, final = "gpt_neox.layers", "gpt_neox.final_layer_norm"
        out["gpt_neox.embed_in.weight"] = weights["embed"]
        out["lm_head.weight"] = weights["unembed"].T
    out |= norm(final, "final", weights)
    for layer in range(arch.n_layers):
        block = {
            name.removeprefix(f"{layer}."): value
            for name, value in weights.items()
            if name.startswith(f"{layer}.")
        }
        at = f"{root}.{layer}"
        output = block["W_O"].reshape(-1, arch.d_model)  # [head * d_head, d_model]
        if arch.name == "gpt2":  # its Conv1D maps hold [in, out]
            out |= norm(f"{at}.ln_1", "ln1", block) | norm(f"{at}.ln_2", "ln2", block)
            out[f"{at}.attn.c_attn.weight"] = np.concatenate([rows(block, name).T for name in "QKV"], axis=1)
            out[f"{at}.attn.c_attn.bias"] = np.concatenate([block[f"b_{name}"].reshape(-1) for name in "QKV"])
            out[f"{at}.attn.c_proj.weight"] = output
            out[f"{at}.attn.c_proj.bias"] = block["b_O"]
            for target, source in (("c_fc", "in"), ("c_proj", "out")):
                out[f"{at}.mlp.{target}.weight"] = block[f"W_{source}"]
                out[f"{at}.mlp.{target}.bias"] = block[f"b_{source}"]
        elif arch.name == "llama":
            out |= norm(f"{at}.input_layernorm", "ln1", block)
            out |= norm(f"{at}.post_attention_layernorm", "ln2", block)
            for name in "QKV":
                out[f"{at}.self_attn.{name.lower()}_proj.weight"] = rows(block, name)
            out[f"{at}.self_attn.o_proj.weight"] = output.T
            for target, source in (("gate", "gate"), ("up", "in"), ("down", "out")):
                out[f"{at}.mlp.{target}_proj.weight"] = block[f"W_{source}"].T
        else:
            out |= norm(f"{at}.input_layernorm", "ln1", block)
            out |= norm(f"{at}.post_attention_layernorm", "ln2", block)
            # Rows are ordered by head, and within a head by query, key, value.
            out[f"{at}.attention.query_key_value.weight"] = np.stack(
                [block[f"W_{name}"].transpose(0, 2, 1) for name in "QKV"], axis=1
            ).reshape(-1, arch.d_model)
            out[f"{at}.attention.query_key_value.bias"] = np.stack(
                [block[f"b_{name}"] for name in "QKV"], axis=1
            ).reshape(-1)
            out[f"{at}.attention.dense.weight"] = output.T
            out[f"{at}.attention.dense.bias"] = block["b_O"]
            for target, source in (("dense_h_to_4h", "in"), ("dense_4h_to_h", "out")):
                out[f"{at}.mlp.{target}.weight"] = block[f"W_{source}"].T
                out[f"{at}.mlp.{target}.bias"] = block[f"b_{source}"]
    return out


def _hooked_weights(arch: Architecture, weights: Weights) -> Weights:
    """Return the reference's weights under the names of TransformerLens."""
    names = {
        "embed": "embed.W_E",
        "positions": "pos_embed.W_pos",
        "unembed": "unembed.W_U",
        "final.w": "ln_final.w",
        "final.b": "ln_final.b",
    }
    grouped = arch.n_kv_heads != arch.n_heads
    out: Weights = {}
    for name, value in weights.items():
        if name in names:
            out[names[name]] = value
            continue
        layer, _, rest = name.partition(".")
        kind = rest.removeprefix("W_").removeprefix("b_")
        if kind in ("Q", "K", "V", "O"):
            rest = f"attn._{rest}" if grouped and kind in ("K", "V") else f"attn.{rest}"
        elif kind in ("in", "out", "gate"):
            rest = f"mlp.{rest}"
        out[f"blocks.{layer}.{rest}"] = value
    return out
