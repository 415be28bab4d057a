"""Frequencies over values, against numpy's two-dimensional Fourier transform and explicit waves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special

from resonance_lens.analyses.fourier_features import (
    FourierFeatures,
    answer_waves,
    frequency_power,
    uniform_shares,
)
from resonance_lens.contract import Planted
from resonance_lens.engine import run
from resonance_lens.errors import AnalysisError
from resonance_lens.planting import attention_facts
from resonance_lens.tasks import Task
from resonance_lens.testing import measure
from resonance_lens.trials import PlantedAdapter, observe, result_of
from tests.models import build
from tests.reference_transformer import GPT2, make_weights, readout
from tests.reference_transformer import run as reference

Floats = NDArray[np.float64]
QUICK = FourierFeatures(surrogates=19)


def power_by_loops(table: Floats) -> Floats:
    """Return the power of each frequency of a table over one or two inputs, component by component."""
    n = len(table)
    spectrum = np.abs(np.fft.fftn(table)) ** 2 / table.size
    found = []
    for k in range(1, n // 2 + 1):
        if table.ndim == 1:
            places: set[tuple[int, ...]] = {(k,), (n - k,)}
        else:
            steps = [(1, 0), (0, 1), (1, 1), (1, -1)]
            places = {(s * k * i % n, s * k * j % n) for i, j in steps for s in (1, -1)}
        found.append(sum(spectrum[place] for place in places))
    return np.array(found)


def addition(n: int, train: bool = True) -> Task:
    a, b = np.divmod(np.arange(n * n), n)
    return Task(
        name="addition", tokens=np.stack([a, b, np.full_like(a, n)], axis=1).tolist(),
        values=np.stack([a, b], axis=1), inputs=("a", "b"), input_positions=np.array([0, 1]), n_values=n,
        cyclic=True, answers=(a + b) % n, answer_tokens=np.arange(n),
        train=np.random.default_rng(n).random(n * n) < 0.5 if train else None,
    )  # fmt: skip


def successor(n: int) -> Task:
    k = np.arange(n)
    return Task(
        name="successor", tokens=k[:, None].tolist(), values=k[:, None], inputs=("k",),
        input_positions=np.array([0]), n_values=n, cyclic=True, answers=(k + 1) % n, answer_tokens=k,
    )  # fmt: skip


def given_by_hand(task: Task, neurons: Floats, embedding: Floats, logits: Floats) -> Planted:
    """Return sites of a model without position, whose residual stream at the end is its logits.

    ``neurons`` are ``[prompt, layer, neuron]``, ``embedding`` ``[value, d_model]``.
    """
    n_layers, d_model = neurons.shape[1], task.n_values + 1
    width = max(map(len, task.tokens))
    rows = np.arange(len(task))
    layers = []
    for layer in range(n_layers):
        pre = np.full((len(task), width, d_model), 7.0)
        active = np.full((len(task), width, neurons.shape[2]), 7.0)
        post = np.full((len(task), width, d_model), 7.0)
        if layer == 0:
            pre[rows[:, None], task.input_positions] = embedding[task.values]
        if layer == n_layers - 1:
            post[rows, task.read_position, : task.n_values] = logits
        active[rows, task.read_position] = neurons[:, layer]
        sites = {"resid_pre": pre, "mlp_post": active, "resid_post": post}
        layers.append({site: torch.as_tensor(values) for site, values in sites.items()})
    facts = attention_facts(n_layers=n_layers, n_heads=1, d_model=d_model, d_vocab=d_model)
    lengths = torch.tensor([len(row) for row in task.tokens])
    return Planted(layers, lengths, facts, lambda data: None, readout=lambda residual: residual, task=task)


def noise(task: Task, seed: int = 0, layers: int = 1, neurons: int = 4) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    return {
        "neurons": rng.normal(0, 1, (len(task), layers, neurons)),
        "embedding": rng.normal(0, 1, (task.n_values, task.n_values + 1)),
        "logits": rng.normal(0, 2, (len(task), task.n_values)),
    }


# --------------------------------------------------------------------------------------- spectra


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 8, 11])
def test_power_is_that_of_the_fourier_transform(n: int) -> None:
    rng = np.random.default_rng(n)
    pairs, single = rng.normal(size=(n, n, 3)), rng.normal(size=(n, 3))
    pairs, single = pairs - pairs.mean((0, 1)), single - single.mean(0)
    for table in (pairs, single):
        expected = np.stack([power_by_loops(table[..., column]) for column in range(3)], axis=-1)
        np.testing.assert_allclose(frequency_power(table, np.arange(n)), expected, rtol=1e-10)


@pytest.mark.parametrize("n", [5, 8])
def test_relabelling_the_waves_is_relabelling_the_values(n: int) -> None:
    rng = np.random.default_rng(n)
    order = rng.permutation(n)
    table = rng.normal(size=(n, n, 2))
    table -= table.mean((0, 1))
    relabelled = np.empty_like(table)
    for a in range(n):
        for b in range(n):
            relabelled[order[a], order[b]] = table[a, b]
    expected = np.stack([power_by_loops(relabelled[..., column]) for column in range(2)], axis=-1)
    np.testing.assert_allclose(frequency_power(table, order), expected, rtol=1e-10)


@pytest.mark.parametrize(("n", "n_inputs"), [(2, 2), (3, 2), (2, 1), (3, 1), (8, 1), (9, 1)])
def test_parseval_where_frequencies_hold_every_component(n: int, n_inputs: int) -> None:
    table = np.random.default_rng(n).normal(size=(*[n] * n_inputs, 4))
    table -= table.mean(tuple(range(n_inputs)))
    total = (table**2).sum(tuple(range(n_inputs)))
    np.testing.assert_allclose(frequency_power(table, np.arange(n)).sum(0), total, rtol=1e-10)
    assert uniform_shares(n, n_inputs).sum() == pytest.approx(1)


@pytest.mark.parametrize(("n", "n_inputs"), [(7, 2), (8, 2), (7, 1), (8, 1)])
def test_uniform_shares_are_the_mean_of_white_noise(n: int, n_inputs: int) -> None:
    table = np.random.default_rng(0).normal(size=(*[n] * n_inputs, 4000))
    over = tuple(range(n_inputs))
    table -= table.mean(over)
    mean = (frequency_power(table, np.arange(n)) / (table**2).sum(over)).mean(-1)
    np.testing.assert_allclose(mean, uniform_shares(n, n_inputs), rtol=0.05)


@given(st.integers(1, 5), st.sampled_from([(1, 0), (0, 1), (1, 1), (1, -1)]), st.floats(0, 6.28))
def test_a_wave_of_one_frequency_has_all_its_power_there(
    k: int, direction: tuple[int, int], phase: float
) -> None:
    a, b = np.divmod(np.arange(121), 11)
    wave = np.cos(2 * np.pi * k * (direction[0] * a + direction[1] * b) / 11 + phase).reshape(11, 11, 1)
    power = frequency_power(wave, np.arange(11))[:, 0]
    assert power[k - 1] == pytest.approx((wave**2).sum())
    assert power.sum() == pytest.approx(power[k - 1])


# ---------------------------------------------------------------------------------- the whole result


@pytest.mark.parametrize("n", [7, 8])
@pytest.mark.parametrize("make", [addition, successor])
def test_shares_of_neurons_and_embeddings(n: int, make: Any) -> None:
    task = make(n)
    numbers = noise(task, layers=2)
    data = measure(QUICK, given_by_hand(task, **numbers)).sel(category="all")
    cells = [n] * len(task.inputs)
    for layer in range(2):
        for neuron in range(4):
            table = np.zeros(cells)
            for row, values in enumerate(task.values):
                table[tuple(values)] = numbers["neurons"][row, layer, neuron]
            table -= table.mean()
            share = power_by_loops(table) / (table**2).sum()
            at = {"layer": layer, "neuron": neuron}
            assert float(data.neuron_share.sel(at)) == pytest.approx(share.max(), rel=1e-6)
            assert float(data.neuron_frequency.sel(at)) == pytest.approx((share.argmax() + 1) / n)
    centred = numbers["embedding"] - numbers["embedding"].mean(0)
    expected = sum(power_by_loops(column) for column in centred.T) / (centred**2).sum()
    for name in task.inputs:
        np.testing.assert_allclose(data.embedding_power.sel(input=name), expected, rtol=1e-6)
    np.testing.assert_allclose(data.frequency, np.arange(1, n // 2 + 1) / n)
    assert data.cycles.values.tolist() == list(range(1, n // 2 + 1))


def losses_by_hand(logits: Floats, answers: NDArray[np.int64]) -> Floats:
    return np.array([-special.log_softmax(row)[answer] for row, answer in zip(logits, answers, strict=True)])


def test_losses_are_those_of_explicit_waves() -> None:
    """Neurons make 2 and 4 the key frequencies; logits hold these, another frequency and noise."""
    n = 11
    task = addition(n)
    assert task.train is not None
    numbers = noise(task)
    a, b = task.values.T
    for neuron, k in enumerate((2, 4, 2)):
        numbers["neurons"][:, 0, neuron] = np.cos(2 * np.pi * k * a / n) + np.sin(2 * np.pi * k * (a + b) / n)
    differences = (a + b)[:, None] - np.arange(n)
    numbers["logits"] += 9 * sum(
        w * np.cos(2 * np.pi * k * differences / n) for k, w in ((2, 1), (4, 1), (3, 0.5))
    )
    data = measure(QUICK, given_by_hand(task, **numbers)).sel(category="all")
    assert data.cycles.values[data.key_frequencies.values == 1].tolist() == [2, 4]
    assert float(data.single_frequency[0]) == 0.75

    logits = numbers["logits"] - numbers["logits"].mean(1, keepdims=True)
    mean = logits.mean(0)
    part = np.zeros_like(logits)
    power = np.zeros(n // 2)
    for k in range(1, n // 2 + 1):
        for wave in (np.cos, np.sin):
            unit = wave(2 * np.pi * k * (a + b) / n) / np.sqrt(n * n / 2)
            mine = np.outer(unit, unit @ logits)
            power[k - 1] += (mine**2).sum() / ((logits - mean) ** 2).sum()
            part += mine if k in (2, 4) else 0
    np.testing.assert_allclose(data.logit_power, power, rtol=1e-6)
    assert float(data.variance_explained) == pytest.approx(power[1] + power[3], rel=1e-6)
    assert float(data.variance_explained_uniform) == pytest.approx(4 / (n * n - 1))
    for name, changed in (
        ("loss", logits),
        ("excluded_loss", logits - part),
        ("restricted_loss", mean + part),
    ):
        each = losses_by_hand(changed, task.answers)
        expected = [each.mean(), each[task.train].mean(), each[~task.train].mean()]
        np.testing.assert_allclose(data[name], expected, rtol=1e-6)
    right = numbers["logits"].argmax(1) == task.answers
    np.testing.assert_allclose(
        data.accuracy, [right.mean(), right[task.train].mean(), right[~task.train].mean()]
    )
    np.testing.assert_allclose(data.loss_uniform, np.log(n))


def test_without_a_key_frequency_nothing_is_taken_away() -> None:
    task = addition(7)
    data = measure(QUICK, given_by_hand(task, **noise(task))).sel(category="all")
    assert not data.key_frequencies.values.any()
    assert float(data.variance_explained) == 0
    np.testing.assert_array_equal(data.excluded_loss, data.loss)


def test_without_a_training_set_there_is_one_loss() -> None:
    task = successor(8)
    result = concluded(task, noise(task))
    assert np.isfinite(result.data.loss.sel(inputs="all")).all()
    assert np.isnan(result.data.loss.sel(inputs=["train", "test"])).all()
    assert "nan" not in result.summary


def concluded(task: Task, numbers: dict[str, Floats], analysis: FourierFeatures = QUICK) -> Any:
    adapter = PlantedAdapter(given_by_hand(task, **numbers))
    return result_of(analysis, adapter, adapter.tokens())


def test_the_successor_is_read_from_waves_of_the_value() -> None:
    n = 9
    task = successor(n)
    k = np.arange(n)
    numbers = noise(task)
    numbers["logits"] = 5 * np.cos(2 * np.pi * 4 * (k[:, None] + 1 - k) / n)
    numbers["neurons"][:, 0, 0] = np.sin(2 * np.pi * 4 * k / n)
    data = measure(QUICK, given_by_hand(task, **numbers)).sel(category="all")
    assert data.cycles.values[data.key_frequencies.values == 1].tolist() == [4]
    assert float(data.variance_explained) == pytest.approx(1)
    assert float(data.restricted_loss[0]) == pytest.approx(float(data.loss[0]), rel=1e-6)
    assert float(data.excluded_loss[0]) == pytest.approx(np.log(n), rel=1e-6)


def test_waves_that_depend_on_each_other_count_once() -> None:
    """Over an even number of values the last sine is zero, and the waves of 1 and n - 1 are the same."""
    task = addition(8)
    assert answer_waves(task, task.answers, np.array([4])).shape[1] == 1
    assert answer_waves(task, task.answers, np.array([1, 7])).shape[1] == 2
    assert answer_waves(task, task.answers, np.array([], dtype=int)).shape[1] == 0


def test_a_neuron_that_does_not_vary_has_no_frequency() -> None:
    task = addition(7)
    numbers = noise(task)
    numbers["neurons"][:, 0, 1] = 0.0
    numbers["neurons"][:, 0, 2] = 3.0 + 1e-8 * numbers["neurons"][:, 0, 2]  # float32 rounding of a constant
    data = measure(QUICK, given_by_hand(task, **numbers)).sel(category="all")
    assert float(data.varying_neurons[0]) == 2
    for name in ("neuron_share", "neuron_frequency", "neuron_share_null", "neuron_share_p", "neuron_share_q"):
        assert np.isnan(data[name].values[0]).tolist() == [False, True, True, False], name
        assert "not-a-number" in data[name].attrs["long_name"]
    numbers["neurons"][:] = 1.0
    data = measure(QUICK, given_by_hand(task, **numbers)).sel(category="all")
    assert float(data.varying_neurons[0]) == 0 and bool(np.isnan(data.single_frequency[0]))
    assert not data.key_frequencies.values.any()


def test_a_table_with_holes_has_no_spectrum() -> None:
    task = addition(5)
    numbers = noise(task)
    chosen = list(range(24))
    part = {name: values[chosen] if name != "embedding" else values for name, values in numbers.items()}
    result = concluded(task.take(chosen), part)
    assert result.summary.startswith("Not every input of the task was measured")
    for name in ("neuron_share", "key_frequencies", "variance_explained", "loss"):
        assert bool(np.isnan(result.data[name]).all()), name
        assert "not-a-number" in result.data[name].attrs["long_name"]
    assert np.isfinite(result.data.embedding_power).all()  # every value of each input was seen


def test_only_categories_that_are_whole_are_measured() -> None:
    task = addition(5)
    adapter = PlantedAdapter(given_by_hand(task, **noise(task)))
    categories = ["even", "odd"] * 12 + ["even"]
    data = result_of(QUICK, adapter, adapter.tokens(), categories=categories).data
    known = data.variance_explained.notnull()
    assert known.values.tolist() == [True, False, False]


def test_the_order_of_the_prompts_does_not_matter() -> None:
    task = addition(5)
    numbers = noise(task)
    order = np.random.default_rng(0).permutation(25)
    mixed = {name: values[order] if name != "embedding" else values for name, values in numbers.items()}
    one = measure(QUICK, given_by_hand(task, **numbers))
    other = measure(QUICK, given_by_hand(task.take(order), **mixed), batch_size=4)
    xr.testing.assert_allclose(one.drop_vars("prompt", errors="ignore"), other, rtol=1e-9)


# ------------------------------------------------------------------------------------------ the null


def test_the_null_is_that_of_relabelled_tables() -> None:
    """Each draw is one permutation for both inputs and all neurons: neurons that are alike stay alike."""
    n = 7
    task = addition(n)
    numbers = noise(task, neurons=3)
    numbers["neurons"][:, 0, 1] = -2 * numbers["neurons"][:, 0, 0]
    seen = accumulated(task, numbers)
    sample = FourierFeatures(surrogates=200).samples(seen)["neuron_share"]["all"]
    assert sample.draws.shape == (200, 1, 3)
    np.testing.assert_allclose(sample.draws[:, 0, 1], sample.draws[:, 0, 0], rtol=1e-9)
    rng = np.random.default_rng(5)
    table = numbers["neurons"][:, 0, 0].reshape(n, n)
    table = table - table.mean()
    by_hand = []
    for _ in range(400):
        order = rng.permutation(n)
        by_hand.append(power_by_loops(table[order][:, order]).max() / (table**2).sum())
    error = np.std(by_hand) * np.sqrt(1 / 400 + 1 / 200)
    assert abs(sample.draws[:, 0, 0].mean() - np.mean(by_hand)) < 4 * error
    assert np.std(sample.draws[:, 0, 0]) == pytest.approx(np.std(by_hand), rel=0.3)


def accumulated(task: Task, numbers: dict[str, Floats]) -> Any:
    from resonance_lens.trials import accumulated as seen_by

    adapter = PlantedAdapter(given_by_hand(task, **numbers))
    (features,) = observe(QUICK, adapter, adapter.tokens())
    return seen_by(QUICK, adapter, features)


@pytest.mark.parametrize("world", ["iid", "persistent", "autocorrelated", "unequal"])
def test_trials_have_a_null_that_is_true_and_plants_that_are_found(world: str) -> None:
    analysis = FourierFeatures(surrogates=99)
    smallest, found = [], []
    for seed in range(16):
        nothing = analysis.trial(np.random.default_rng(seed), world, 0.0)
        assert not nothing.truth["neuron_share"].any()
        smallest.append(float(measure(analysis, nothing).neuron_share_q.min()))
        something = analysis.trial(np.random.default_rng(seed), world, 4.0)
        q = measure(analysis, something).neuron_share_q.sel(category="all").values
        assert q.shape == something.truth["neuron_share"].shape
        found.append((q <= 0.05)[something.truth["neuron_share"]].mean())
    assert sum(q <= 0.05 for q in smallest) <= 4  # 0.8 expected; five or more once in 1,200
    assert np.mean(found) > 0.8  # 0.98 with 499 surrogates: 99 are few for q


# ---------------------------------------------------------------------------------------- on a model


def test_sites_of_a_deep_model_are_read_where_the_docstring_says() -> None:
    n = 5
    a, b = np.divmod(np.arange(n * n), n)
    longer = (a + b) % 2 == 0
    task = Task(
        name="sums", inputs=("a", "b"), values=np.stack([a, b], axis=1), n_values=n, cyclic=True,
        tokens=[[30] * int(more) + [10 + x, 20, 10 + y, 21] for x, y, more in zip(a, b, longer, strict=True)],
        input_positions=np.array([-4, -2]), answers=(a + b) % n, answer_tokens=10 + np.arange(n),
    )  # fmt: skip
    data = run(build(GPT2), task, QUICK, baselines=(), progress=False)["fourier_features"].data.sel(
        category="all"
    )
    weights, last = make_weights(GPT2), GPT2.n_layers - 1
    assert data.layer.values.tolist() == list(range(GPT2.n_layers))
    logits = np.zeros((n * n, n))
    neurons: dict[int, list[Floats]] = {0: [], last: []}
    embedded: dict[tuple[int, int], list[Floats]] = {}
    for row, tokens in enumerate(task.tokens):
        sites = reference(GPT2, weights, list(tokens))
        for layer, values in neurons.items():
            values.append(sites["mlp_post", layer][-1])
        final = readout(GPT2, weights, sites["resid_post", last][-1])
        logits[row] = final[task.answer_tokens]
        for which, place in enumerate(task.input_positions[row]):
            embedded.setdefault((which, int(task.values[row, which])), []).append(
                sites["resid_pre", 0][place]
            )
    for layer, values in neurons.items():
        for neuron, column in enumerate(np.array(values).T):
            pairs = (column - column.mean()).reshape(n, n)
            share = power_by_loops(pairs).max() / (pairs**2).sum()
            assert float(data.neuron_share.sel(layer=layer, neuron=neuron)) == pytest.approx(share, rel=2e-3)
    losses = losses_by_hand(logits, task.answers)
    assert float(data.loss.sel(inputs="all")) == pytest.approx(losses.mean(), rel=1e-4)
    for which in range(2):
        table = np.stack([np.mean(embedded[which, value], axis=0) for value in range(n)])
        table -= table.mean(0)
        expected = sum(power_by_loops(column) for column in table.T) / (table**2).sum()
        np.testing.assert_allclose(data.embedding_power[which], expected, rtol=1e-3)


def test_what_cannot_be_measured_is_refused_in_a_sentence() -> None:
    with pytest.raises(AnalysisError, match="needs a task"):
        run(build(GPT2), [[1, 2, 3]], QUICK, progress=False)
    cube = np.stack(np.unravel_index(np.arange(8), (2, 2, 2)), axis=1)
    task = Task(
        name="three", tokens=cube.tolist(), values=cube, inputs=("a", "b", "c"), n_values=2, cyclic=True,
        input_positions=np.arange(3), answers=cube[:, 0], answer_tokens=np.arange(2),
    )  # fmt: skip
    with pytest.raises(AnalysisError, match="one or two inputs; three has 3"):
        run(build(GPT2), task, QUICK, baselines=(), progress=False)
    planted = given_by_hand(addition(5), **noise(addition(5), layers=2))
    for hidden, kept in ((0, 1), (1, 0)):
        layers = [planted.layers[kept] if layer == kept else {} for layer in range(2)]
        with pytest.raises(AnalysisError, match="one of them was not observed"):
            measure(QUICK, replace(planted, layers=layers))
        assert hidden != kept


def test_the_best_layer_is_named_first() -> None:
    task = addition(7)
    numbers = noise(task, layers=3)
    a = task.values[:, 0]
    for layer, count in ((1, 3), (2, 1)):
        numbers["neurons"][:, layer, :count] = np.cos(2 * np.pi * 2 * a / 7)[:, None]
    targets = concluded(task, numbers).targets(5)
    assert [(t.site, t.layer, t.score) for t in targets] == [("mlp_post", 1, 0.75), ("mlp_post", 2, 0.25)]
