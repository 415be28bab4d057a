"""What analyses cost beside wider models: ``python -m tests.benchmarks.width [--pairs 7] [ANALYSIS ...]``.

The time of a layer of a model grows with the square of its width, that of an analysis of its activations
with the width. Models of four layers with random weights, of the shapes of SmolLM2-135M, of a model of
half a billion parameters and of Llama 3.2 1B, read the tokens of SmolLM2.
"""

from __future__ import annotations

import argparse
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tests.benchmarks.__main__ import load, ratios, row, sample
from tests.benchmarks.tasks import SIGNALS, bare, engine

SHAPES = {576: (1536, 9, 3), 1024: (2816, 16, 8), 2048: (8192, 32, 8)}
"""Of the width: that of an MLP, heads, and heads of keys and values."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.width", description=__doc__)
    parser.add_argument("analyses", nargs="*", default=SIGNALS, metavar="ANALYSIS", help="names")
    parser.add_argument("--tokens", type=int, default=512, help="length of the prompt")
    parser.add_argument("--pairs", type=int, default=7, help="timed pairs of the pass and the bare pass")
    parser.add_argument("--layers", type=int, default=4, help="layers of each model")
    options = parser.parse_args()
    names = tuple(options.analyses)
    small = load("smollm2-135m")
    tokens = sample(small, options.tokens)
    print(f"1 prompt of {options.tokens} tokens, {options.layers} layers, {torch.get_num_threads()} threads")
    print(f"{'d_model':28}{'ms':>8}{'ratio':>8}   95 % interval")
    for width in SHAPES:
        model = random_llama(width, options.layers, small.tokenizer)
        print(row(str(width), *ratios(bare(model), engine(model, names), tokens, options.pairs)), flush=True)


def random_llama(width: int, n_layers: int, tokenizer: Any) -> Any:
    """Return a TransformerBridge of a Llama of that width with random weights."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import LlamaConfig, LlamaForCausalLM

    mlp, heads, shared = SHAPES[width]
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=n_layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        vocab_size=len(tokenizer),
    )
    with TemporaryDirectory() as folder:
        LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, device="cpu")


if __name__ == "__main__":
    main()
