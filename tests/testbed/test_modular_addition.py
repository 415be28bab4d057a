"""The trained ground truth: training to the digit, what ships, and what is found in it."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from resonance_lens.analyses.fourier_features import FourierFeatures
from resonance_lens.engine import run
from resonance_lens.errors import ModelError, ParameterError, ResultError
from resonance_lens.loading import transformer_lens_version
from resonance_lens.testbed import modular_addition as ma
from resonance_lens.testbed.training import Recipe, initial_weights, logits_at_the_end, train

WEIGHTS = files("resonance_lens.testbed") / "weights"
SHORT = Recipe(epochs=12)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("series")
    ma.train_series(folder, SHORT, modulus=7, checkpoints=3, progress=False)
    return folder


def card(which: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((WEIGHTS / f"{which}.json").read_text())
    return told


@pytest.fixture(scope="module")
def found() -> dict[str, xr.Dataset]:
    """Return what `fourier_features` finds in the networks that ship."""
    analysis = FourierFeatures(surrogates=19)
    data = {}
    for which in ma.SHIPPED:
        told = card(which)
        task = ma.modular_addition_task(told["modulus"], told["train_share"], told["split_seed"])
        model = ma.load_modular_addition(which)
        result = run(model, task, analysis, baselines=(), progress=False)["fourier_features"]
        data[which] = result.data.sel(category="all")
    return data


# ------------------------------------------------------------------------------------------ training


def test_the_task_is_addition() -> None:
    task = ma.modular_addition_task(7, 0.4, seed=3)
    assert task.complete() and len(task) == 49 and task.train is not None
    for row, answer in zip(task.tokens, task.answers, strict=True):
        a, b, equals = row
        assert answer == (a + b) % 7 and equals == 7
    assert task.train.sum() == round(49 * 0.4)
    other = ma.modular_addition_task(7, 0.4, seed=4)
    assert other.train is not None and (task.train != other.train).any()


def test_the_same_seed_gives_the_same_files(series: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # as many as the user likes: training takes one
    try:
        ma.train_series(tmp_path, SHORT, modulus=7, checkpoints=3, progress=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    names = sorted(path.name for path in series.iterdir())
    assert names == ["final.json", "final.safetensors", *(f"step-{n:05d}.safetensors" for n in (0, 4, 8, 12))]
    for name in names:
        assert (tmp_path / name).read_bytes() == (series / name).read_bytes(), name


def test_another_seed_and_no_decay_give_other_weights() -> None:
    task, shape = ma.modular_addition_task(7), ma.shape_of(7)
    plain, other, control = (
        train(task, shape, recipe, progress=False)["embed.W_E"]
        for recipe in (SHORT, Recipe(epochs=12, seed=1), Recipe(epochs=12, weight_decay=0.0))
    )
    assert not torch.equal(plain, other) and not torch.equal(plain, control)
    assert float(plain.norm()) < float(control.norm())


def test_the_random_state_of_the_user_is_left_alone() -> None:
    before = torch.get_rng_state()
    train(ma.modular_addition_task(5), ma.shape_of(5), Recipe(epochs=1), progress=False)
    assert torch.equal(before, torch.get_rng_state())


def test_the_first_step_is_that_of_adamw() -> None:
    """Adam's first step is the sign of the gradient; the decay is taken off the weight itself."""
    task, shape = ma.modular_addition_task(5), ma.shape_of(5)
    start = initial_weights(shape, 0)
    weights = {name: value.double().requires_grad_() for name, value in start.items()}
    learnt = torch.tensor(task.train)
    logits = logits_at_the_end(weights, torch.tensor(task.tokens)[learnt])
    answers = torch.tensor(task.answers)[learnt]
    torch.nn.functional.cross_entropy(logits, answers).backward()
    after = train(task, shape, Recipe(epochs=1, weight_decay=2.0), progress=False)
    rate = 1e-3 / 10  # the first of ten steps of warm-up
    for name, value in start.items():
        gradient = weights[name].grad
        if ".attn.b_" in name or gradient is None:
            assert torch.equal(after[name], value), name
            continue
        clear = gradient.abs() > 1e-6  # Adam's epsilon is 1e-8
        expected = value.double() * (1 - rate * 2.0) - rate * gradient / (gradient.abs() + 1e-8)
        np.testing.assert_allclose(after[name][clear], expected[clear], atol=3e-6)
        assert bool(clear.any()), name


def hosts() -> list[str]:
    major, minor = (int(part) for part in str(transformer_lens_version()).split(".")[:2])
    present = {"transformer_bridge": (major, minor) >= (3, 6), "hooked_transformer": major < 4}
    return [host for host, there in present.items() if there]


@pytest.mark.host
@pytest.mark.parametrize("host", hosts())
def test_hosts_compute_what_was_trained(host: str, series: Path) -> None:
    task = ma.modular_addition_task(7)
    tokens = torch.tensor(task.tokens)
    for name in ("step-00012.safetensors", "final.safetensors"):
        model = ma.load_checkpoint(series / name, host=host)
        with torch.no_grad():
            theirs = model(tokens, return_type="logits")[:, -1]
        weights = {key: value for key, value in model_weights(series / name).items()}
        np.testing.assert_allclose(logits_at_the_end(weights, tokens), theirs, atol=2e-5)


def model_weights(path: Path) -> dict[str, torch.Tensor]:
    import safetensors.torch

    weights = initial_weights(ma.shape_of(7), 0)
    zero = {name: value * 0 for name, value in weights.items() if ".attn.b_" in name}
    return zero | {name: value.float() for name, value in safetensors.torch.load_file(path).items()}


def test_checkpoints_say_what_they_are(series: Path) -> None:
    told = ma.checkpoint_facts(series / "step-00008.safetensors")
    assert (told["step"], told["seed"], told["modulus"], told["weight_decay"]) == (8, 0, 7, 1.0)
    first, last = (ma.checkpoint_facts(series / f"step-{n:05d}.safetensors") for n in (0, 12))
    assert last["train_loss"] < first["train_loss"]
    weights = model_weights(series / "step-00012.safetensors")
    task = ma.modular_addition_task(7, seed=0)
    learnt = torch.tensor(task.train)
    logits = logits_at_the_end(weights, torch.tensor(task.tokens)).double()
    for name, members in (("train", learnt), ("test", ~learnt)):
        answers = torch.tensor(task.answers)[members]
        loss = torch.nn.functional.cross_entropy(logits[members], answers)
        assert last[f"{name}_loss"] == pytest.approx(float(loss), rel=1e-6)
        right = (logits[members].argmax(-1) == answers).double().mean()
        assert last[f"{name}_accuracy"] == pytest.approx(float(right))
    half = json.loads((series / "final.json").read_text())
    assert half["sha256"] == hashlib.sha256((series / "final.safetensors").read_bytes()).hexdigest()
    assert half["train_loss"] == pytest.approx(last["train_loss"], rel=0.01)


def test_following_a_series_gives_results_along_steps(series: Path) -> None:
    data = ma.follow(series, progress=False)
    assert data.step.values.tolist() == [0, 4, 8, 12]
    for step in data.step.values:
        told = ma.checkpoint_facts(series / f"step-{step:05d}.safetensors")
        here = data.sel(step=step, category="all")
        # Ours is over the answers alone, that of the training over the equals sign too.
        assert float(here.loss.sel(inputs="train")) == pytest.approx(told["train_loss"], rel=0.2)
        assert float(here.loss.sel(inputs="train")) < told["train_loss"]
        assert float(here.accuracy.sel(inputs="test")) >= told["test_accuracy"]
    last = data.isel(step=-1, drop=True)
    for name in ("variance_explained", "excluded_loss", "restricted_loss"):
        assert data[f"{name}_last_keys"].dims == data[name].dims
        np.testing.assert_allclose(last[f"{name}_last_keys"], last[name], rtol=1e-4)


# ------------------------------------------------------------------------------------- what is refused


def test_what_cannot_be_trained_or_read_is_refused_in_a_sentence(series: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="holds a series of checkpoints already"):
        ma.train_series(series, SHORT, modulus=7, checkpoints=3, progress=False)
    with pytest.raises(ParameterError, match=r"'checkpoints' .* between 1 and the number of epochs \(12\)"):
        ma.train_series(tmp_path, SHORT, checkpoints=13)
    for modulus, share, named in ((2, 0.5, "modulus"), (7, 1.0, "train_share"), (3, 0.01, "train_share")):
        with pytest.raises(ParameterError, match=named):
            ma.modular_addition_task(modulus, share)
    for changed in ({"epochs": 0}, {"epochs": 1, "weight_decay": -1.0}):
        with pytest.raises(ParameterError, match="parameter of Recipe"):
            Recipe(**changed)
    with pytest.raises(ModelError, match="Did you mean 'control'"):
        ma.load_modular_addition("contrl")
    with pytest.raises(ModelError, match="cannot be read"):
        ma.load_checkpoint(tmp_path / "nowhere.safetensors")
    (tmp_path / "odd.safetensors").write_bytes(b"no such thing")
    with pytest.raises(ModelError, match="'odd.safetensors' is not a checkpoint"):
        ma.checkpoint_facts(tmp_path / "odd.safetensors")
    whole = (series / "step-00000.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ModelError, match="'modular-addition-cut' is damaged"):
        ma.load_checkpoint(tmp_path / "cut.safetensors")
    with pytest.raises(ModelError, match="holds no checkpoint"):
        ma.follow(tmp_path / "nothing")


def test_the_command_trains_and_says_what_came_of_it(tmp_path: Path, capsys: Any) -> None:
    words = f"--out {tmp_path}/run --modulus 5 --epochs 4 --checkpoints 2 --weight-decay 0 --seed 7 --quiet"
    assert ma.main(words.split()) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"3 checkpoints in {tmp_path}/run. After 4 epochs: loss ") and said.err == ""
    told = json.loads((tmp_path / "run" / "final.json").read_text())
    assert (told["seed"], told["weight_decay"], told["modulus"]) == (7, 0.0, 5)
    again = told["command"].replace("FOLDER", f"{tmp_path}/again").split()[3:]
    assert ma.main([*again, "--quiet"]) == 0
    for name in ("final.safetensors", "step-00002.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert ma.main(words.split()) == ma.BAD_INPUT
    assert "holds a series of checkpoints already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--modulus 2", "must be an integer of at least 3; got '2'"),
        ("--epochs many", "must be an integer of at least 1; got 'many'"),
        ("--weight-decay -1", "must be a number of at least 0; got '-1'"),
        ("--weight-decay nan", "must be a number of at least 0; got 'nan'"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(option: str, sentence: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as end:
        ma.main(["--out", "nowhere", *option.split()])
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot be made"):
        ma.train_series(tmp_path / "file", SHORT, modulus=5, checkpoints=1, progress=False)


# ----------------------------------------------------------------------------------------- what ships


def test_what_ships_is_small_and_is_what_its_cards_say() -> None:
    sizes = [
        (WEIGHTS / f"{which}.{kind}").read_bytes() for which in ma.SHIPPED for kind in ("safetensors", "json")
    ]
    assert sum(map(len, sizes)) < 2_000_000
    for which in ma.SHIPPED:
        told = card(which)
        assert told["sha256"] == hashlib.sha256((WEIGHTS / f"{which}.safetensors").read_bytes()).hexdigest()
        model = ma.load_modular_addition(which)
        task = ma.modular_addition_task(told["modulus"], told["train_share"], told["split_seed"])
        with torch.no_grad():
            logits = model(torch.tensor(task.tokens), return_type="logits")[:, -1].double()
        learnt = torch.tensor(task.train)
        for name, members in (("train", learnt), ("test", ~learnt)):
            answers = torch.tensor(task.answers)[members]
            right = (logits[members].argmax(-1) == answers).double().mean()
            assert float(right) == pytest.approx(told[f"{name}_accuracy"], abs=1e-3)
            loss = float(torch.nn.functional.cross_entropy(logits[members], answers))
            assert loss == pytest.approx(told[f"{name}_loss"], rel=0.02)


def test_the_trained_network_adds_with_a_few_waves(found: dict[str, xr.Dataset]) -> None:
    data = found["final"]
    told = card("final")
    guessing = np.log(told["modulus"])
    keys = data.cycles.values[data.key_frequencies.values == 1].tolist()
    assert 3 <= len(keys) <= 6
    assert float(data.accuracy.sel(inputs="test")) > 0.999
    assert float(data.variance_explained) > 0.9
    assert float(data.restricted_loss.sel(inputs="all")) < 0.1 * float(data.loss.sel(inputs="all"))
    assert float(data.excluded_loss.sel(inputs="train")) > guessing
    assert float(data.single_frequency.sel(layer=0)) > 0.5
    at_keys = data.embedding_power.sel(frequency=np.array(keys) / told["modulus"]).sum("frequency")
    assert bool((at_keys > 0.85).all())


def test_the_control_is_flat(found: dict[str, xr.Dataset]) -> None:
    data = found["control"]
    assert not data.key_frequencies.values.any()
    assert float(data.variance_explained) == 0
    assert float(data.single_frequency.sel(layer=0)) < 0.05
    assert float(data.loss.sel(inputs="train")) < 1e-6  # it knows its training set
    assert float(data.loss.sel(inputs="test")) > float(data.loss_uniform.sel(inputs="test"))
    assert float(data.excluded_loss.sel(inputs="train")) == float(data.loss.sel(inputs="train"))


def test_the_control_knows_only_mirror_images() -> None:
    """Some answers outside the training set are right: those of (a, b) where (b, a) was learnt."""
    told = card("control")
    task = ma.modular_addition_task(told["modulus"], told["train_share"], told["split_seed"])
    assert task.train is not None
    p = told["modulus"]
    mirrored = task.train.reshape(p, p).T.ravel()
    model = ma.load_modular_addition("control")
    with torch.no_grad():
        logits = model(torch.tensor(task.tokens), return_type="logits")[:, -1]
    right = logits.argmax(-1).numpy() == task.answers
    assert right[~task.train & mirrored].mean() > 0.75
    assert right[~task.train & ~mirrored].mean() < 0.2
