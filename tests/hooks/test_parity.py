"""Every host gives, at every site, what an independent transformer in double precision gives."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import version
from typing import Any

import pytest
import torch
from torch import Tensor

from resonance_lens.errors import AdapterError
from resonance_lens.facts import SITE_AXES
from resonance_lens.hooks import Adapter, attach
from resonance_lens.signal import Signal
from tests import reference_transformer as reference
from tests.hooks.reading import ROWS, collect
from tests.models import Host, batch_of, cases
from tests.reference_transformer import Architecture

pytestmark = [pytest.mark.host, pytest.mark.parametrize(("host", "arch"), cases(), ids=str)]

TOLERANCE = 1e-5
SQUARE = ("pattern", "scores")

REFUSALS = {
    ("gpt2", "rot_q"): "gpt2 has no 'rot_q': its positions are standard, not rotary, so its queries and keys "
    "do not turn; use 'q' and 'k' instead.",
    ("gpt2", "rot_k"): "gpt2 has no 'rot_k': its positions are standard, not rotary, so its queries and keys "
    "do not turn; use 'q' and 'k' instead.",
    ("neox", "resid_mid"): "neox has no 'resid_mid' at layer 0: attention and MLP run in parallel "
    "from 'resid_pre'; use 'attn_out' and 'mlp_out' instead.",
}
"""What an architecture does not have, and how that is said, on every host."""


@cache
def attached(host: Host, arch: Architecture) -> Adapter:
    """Return an adapter of a model that nobody changes."""
    return attach(host.build(arch))


@cache
def expected(arch: Architecture) -> list[dict[tuple[str, int], Tensor]]:
    """Return what the reference finds for each prompt of ``ROWS``."""
    weights = reference.make_weights(arch)
    return [
        {at: torch.from_numpy(values) for at, values in reference.run(arch, weights, row).items()}
        for row in ROWS
    ]


def assert_equal(got: Tensor, wanted: Tensor) -> None:
    """Check equality within `TOLERANCE`, infinities included."""
    torch.testing.assert_close(got.double(), wanted.double(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("site", SITE_AXES)
def test_a_site_equals_the_reference(host: Host, arch: Architecture, site: str) -> None:
    adapter = attached(host, arch)
    wanted = expected(arch)
    layers = tuple(layer for layer in range(arch.n_layers) if (site, layer) in wanted[0])
    if not layers:
        with pytest.raises(AdapterError, match=f"^{re.escape(REFUSALS[arch.name, site])}$"):
            adapter.layers([site])
        return
    assert adapter.layers([site]) == layers
    for row, values in zip(ROWS, wanted, strict=True):
        found: list[Signal] = []
        adapter.run(batch_of([row]), {layer: [site] for layer in layers}, found.append)
        assert [signal.layer for signal in found] == list(layers)
        for signal, layer in zip(found, layers, strict=True):
            assert (signal.site, signal.axes, signal.lengths) == (site, SITE_AXES[site], None)
            assert_equal(signal.values[0], values[site, layer])
            if len(row) > 1:  # agreement means something only where there is something to agree on
                finite = values[site, layer][values[site, layer].isfinite()]
                assert finite.std() > 0.1


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_nothing(host: Host, arch: Architecture, side: str) -> None:
    adapter = attached(host, arch)
    together = collect(adapter, batch_of(ROWS, side))
    for i, row in enumerate(ROWS):
        alone = collect(adapter, batch_of([row]))
        assert set(alone) == set(together) == set(expected(arch)[i])
        n = len(row)
        for (site, layer), signal in together.items():
            assert signal.lengths is not None and signal.lengths.tolist() == [7, 1, 12, 5]
            values = signal.values[i].clone()
            real = values[:, :n, :n] if site in SQUARE else values[:n]
            assert_equal(real, alone[site, layer].values[0])
            assert_equal(real, expected(arch)[i][site, layer])
            outside = float("-inf") if site == "scores" else 0.0
            real[:] = outside
            assert (values == outside).all()


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_future_is_empty(host: Host, arch: Architecture, side: str) -> None:
    future = torch.ones(12, 12).triu(1).bool()
    for rows in (ROWS, [ROWS[2]]):
        for (site, _), signal in collect(attached(host, arch), batch_of(rows, side)).items():
            if site in SQUARE:
                outside = float("-inf") if site == "scores" else 0.0
                assert (signal.values[..., future] == outside).all()
                assert (signal.values[2 % len(rows), ..., ~future] != outside).all()


def test_readout(host: Host, arch: Architecture) -> None:
    adapter = attached(host, arch)
    found = collect(adapter, batch_of([ROWS[2]]))
    last = arch.n_layers - 1
    assert_equal(adapter.readout(found["resid_post", last].values), found["logits", last].values)
    # Any shape of residual vectors will do.
    residual = found["resid_post", last].values[0, 3]
    assert_equal(adapter.readout(residual), found["logits", last].values[0, 3])
    weights = reference.make_weights(arch)
    for layer in range(arch.n_layers):
        residual = found["resid_pre", layer].values
        wanted = reference.readout(arch, weights, residual[0].double().numpy())
        assert_equal(adapter.readout(residual)[0], torch.from_numpy(wanted))
    if tuple(map(int, version("transformer-lens").split(".")[:2])) >= (4, 2):
        assert_equal(lens(adapter), lens_of_ours(adapter))


def lens(adapter: Any) -> Tensor:
    """Return TransformerLens's logit lens ``[layer, token, vocab]``, of each layer's input and of the end."""
    from transformer_lens.tools.analysis import logit_lens

    values: Tensor = logit_lens(adapter.model, torch.tensor([ROWS[2]]), positions=None).values
    return values[:, 0]


def lens_of_ours(adapter: Adapter) -> Tensor:
    """Return the same through the adapter's readout."""
    found = collect(adapter, batch_of([ROWS[2]]))
    n_layers = adapter.facts.n_layers
    residuals = [found["resid_pre", layer].values for layer in range(n_layers)]
    return adapter.readout(torch.cat([*residuals, found["resid_post", n_layers - 1].values]))


def test_processed_weights(host: Host, arch: Architecture) -> None:
    """Folded norms and centred weights move residuals, never attention; the facts say so."""
    model = host.build(arch)
    if host.name == "transformer_bridge":
        model.enable_compatibility_mode()
    else:
        model.process_weights_()
    adapter = attach(model)
    assert attached(host, arch).facts.weight_processing == "none"
    assert adapter.facts.weight_processing != "none"
    assert adapter.facts.normalization == attached(host, arch).facts.normalization
    found = collect(adapter, batch_of([ROWS[2]]))
    last = arch.n_layers - 1
    for layer in range(arch.n_layers):
        assert_equal(found["pattern", layer].values[0], expected(arch)[2]["pattern", layer])
    assert_equal(adapter.readout(found["resid_post", last].values), found["logits", last].values)
    logits = found["logits", last].values[0].log_softmax(-1)
    assert_equal(logits, expected(arch)[2]["logits", last].log_softmax(-1))
