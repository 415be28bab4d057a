"""A trained ground truth: addition modulo a prime, which a network learns with sines and cosines.

Nanda et al. (2023), "Progress measures for grokking via mechanistic interpretability", took such a
network apart: it represents a number by waves of a few key frequencies over its value, and adds angles. So
it is known what `fourier_features` must find in it; and in its control, trained without weight
decay, which learns its training set by heart, what it must not.

One command trains a network and writes its checkpoints::

    python -m resonance_lens.testbed.modular_addition --out FOLDER
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import xarray as xr
from numpy.typing import NDArray
from tqdm import tqdm

from resonance_lens.analyses.fourier_features import FourierFeatures, logit_numbers
from resonance_lens.engine import run
from resonance_lens.errors import ModelError, ParameterError, ResonanceLensError, unknown, wrong_parameter
from resonance_lens.files import make_folder, write_bytes, write_text
from resonance_lens.stats.streams import stream
from resonance_lens.tasks import Task
from resonance_lens.testbed.building import Shape, build_model
from resonance_lens.testbed.training import Parameters, Recipe, answer_loss, logits_at_the_end, train

MODULUS, TRAIN_SHARE, EPOCHS, CHECKPOINTS = 59, 0.5, 3000, 30
SEED = 2
"""Of the networks that ship: of seeds 0 to 3 the one with which most neurons have one frequency."""

SHIPPED = ("final", "control")

BAD_INPUT, INTERRUPTED = 2, 130


def modular_addition_task(modulus: int = MODULUS, train_share: float = TRAIN_SHARE, seed: int = SEED) -> Task:
    """Return addition modulo a number: prompts ``a b =`` for every pair of inputs.

    Parameters
    ----------
    modulus
        At least 3. Tokens 0 to ``modulus - 1`` are the numbers, token ``modulus`` is the equals sign.
    train_share
        Between 0 and 1: the share of all pairs, chosen at random, that the network learns.
    seed
        Of that choice; that of the networks that ship if not said.

    Raises
    ------
    ParameterError
        If a parameter is out of its range.
    """
    if type(modulus) is not int or modulus < 3:
        requirement = "an integer of at least 3"
        raise ParameterError(wrong_parameter("modular_addition_task", "modulus", requirement, modulus))
    n_train = round(modulus**2 * train_share) if 0 < train_share < 1 else 0
    if not 0 < n_train < modulus**2:
        requirement = "between 0 and 1, so that there are pairs to learn and pairs to test on"
        raise ParameterError(
            wrong_parameter("modular_addition_task", "train_share", requirement, train_share)
        )
    a, b = np.divmod(np.arange(modulus**2), modulus)
    train_mask = np.zeros(modulus**2, dtype=bool)
    train_mask[stream(seed, "modular addition", "split").permutation(modulus**2)[:n_train]] = True
    return Task(
        name=f"addition modulo {modulus}",
        tokens=np.stack([a, b, np.full_like(a, modulus)], axis=1).tolist(),
        values=np.stack([a, b], axis=1),
        inputs=("a", "b"),
        input_positions=np.array([0, 1]),
        n_values=modulus,
        cyclic=True,
        answers=(a + b) % modulus,
        answer_tokens=np.arange(modulus),
        train=train_mask,
    )


def shape_of(modulus: int) -> Shape:
    """Return the network that learns addition: one layer, 4 heads of 32 dimensions, 512 neurons."""
    return Shape(
        n_layers=1, n_heads=4, d_model=128, d_head=32, d_mlp=512, d_vocab=modulus + 1, n_ctx=3,
        activation="relu", positions="learned",
    )  # fmt: skip


def train_series(
    folder: str | Path,
    recipe: Recipe,
    *,
    modulus: int = MODULUS,
    train_share: float = TRAIN_SHARE,
    checkpoints: int = CHECKPOINTS,
    progress: bool = True,
) -> list[Path]:
    """Train a network on modular addition, and write checkpoints at even steps.

    Parameters
    ----------
    folder
        Where to: ``step-00000.safetensors`` and so on, and the last one in half precision as
        ``final.safetensors`` with a card, ``final.json``.
    recipe
        How to train; its seed also chooses the training set.
    modulus, train_share
        Of the task: see `modular_addition_task`.
    checkpoints
        How many there are beside the one before the first step.
    progress
        Whether to show a progress bar on standard error.

    Returns
    -------
    list of Path
        The checkpoints, in order.

    Raises
    ------
    ResonanceLensError
        If a parameter is out of its range, or the folder cannot be written or holds a series already.
    """
    task = modular_addition_task(modulus, train_share, recipe.seed)
    if not 1 <= checkpoints <= recipe.epochs:
        requirement = f"between 1 and the number of epochs ({recipe.epochs})"
        raise ParameterError(wrong_parameter("train_series", "checkpoints", requirement, checkpoints))
    target = make_folder(Path(folder))
    if any(target.glob("step-*.safetensors")):
        raise ParameterError(f"The folder {target} holds a series of checkpoints already: choose another.")
    shape = shape_of(modulus)
    paths: list[Path] = []

    def about(step: int, weights: Parameters) -> dict[str, Any]:
        return {
            "task": "modular addition",
            "modulus": modulus,
            "train_share": train_share,
            "seed": recipe.seed,
            "split_seed": recipe.seed,
            "weight_decay": recipe.weight_decay,
            "step": step,
            **performance(weights, task),
        }

    def keep(step: int, weights: Parameters) -> None:
        paths.append(target / f"step-{step:05d}.safetensors")
        write_bytes(paths[-1], _packed(weights, about(step, weights)))

    steps = frozenset(np.linspace(0, recipe.epochs, checkpoints + 1).round().astype(int).tolist())
    last = train(task, shape, recipe, at=steps, keep=keep, progress=progress)
    rounded = {name: value.half() for name, value in last.items() if ".attn.b_" not in name}
    told = about(recipe.epochs, {name: value.half().float() for name, value in last.items()})
    packed = _packed(rounded, told)
    card = {
        "what": f"One-layer transformer trained on addition modulo {modulus}, weights in float16",
        "command": _command(recipe, modulus, train_share, checkpoints),
        **told,
        "parameters": sum(value.numel() for value in rounded.values()),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "sha256": hashlib.sha256(packed).hexdigest(),
        "source": "Nanda et al. 2023, arXiv:2301.05217",
    }
    write_bytes(target / "final.safetensors", packed)
    write_text(target / "final.json", json.dumps(card, indent=2) + "\n")
    return paths


def performance(weights: Mapping[str, torch.Tensor], task: Task) -> dict[str, float]:
    """Return loss in nats and accuracy over the inputs that were learnt and over the others."""
    tokens, answers = torch.tensor(task.tokens), torch.tensor(task.answer_tokens[task.answers])
    learnt = torch.tensor(task.train)
    with torch.no_grad():
        logits = logits_at_the_end(weights, tokens)
    found = {}
    for name, members in (("train", learnt), ("test", ~learnt)):
        right = logits[members].argmax(-1) == answers[members]
        found[f"{name}_loss"] = float(answer_loss(logits[members], answers[members]))
        found[f"{name}_accuracy"] = float(right.double().mean())
    return found


def load_modular_addition(which: str = "final", *, host: str | None = None, device: str | None = None) -> Any:
    """Return a network that was trained on addition modulo 59; see `modular_addition_task`.

    Parameters
    ----------
    which
        ``final``: trained with weight decay, it adds. ``control``: without weight decay, for as long and from
        the same start; it knows its training set, and nothing but that ``a + b`` is ``b + a``.
    host, device
        As in `resonance_lens.testbed.building.build_model`.

    Raises
    ------
    ModelError
        If there is no such network, or the host is not installed.
    """
    if which not in SHIPPED:
        raise ModelError(unknown("network trained on modular addition called", which, SHIPPED))
    data = (files("resonance_lens.testbed") / "weights" / f"{which}.safetensors").read_bytes()
    return _built(data, f"modular-addition-{which}", host, device)


def load_checkpoint(path: str | Path, *, host: str | None = None, device: str | None = None) -> Any:
    """Return the network of a checkpoint that `train_series` wrote.

    Raises
    ------
    ModelError
        If the file cannot be read or is no such checkpoint, or the host is not installed.
    """
    return _built(_read(Path(path)), f"modular-addition-{Path(path).stem}", host, device)


def checkpoint_facts(path: str | Path) -> dict[str, Any]:
    """Return what a checkpoint says of itself: step, seed, modulus, losses in nats, accuracies.

    Raises
    ------
    ModelError
        If the file cannot be read, or is no checkpoint of `train_series`.
    """
    return _facts(_read(Path(path)), Path(path).name)


def follow(
    folder: str | Path, *, surrogates: int = 19, host: str | None = None, progress: bool = True
) -> xr.Dataset:
    """Measure `fourier_features` at every checkpoint of a series, along ``step``.

    Parameters
    ----------
    folder
        Of `train_series`.
    surrogates
        Of the analysis; few, because a series is read for its course and not for its p.
    host
        As in `resonance_lens.testbed.building.build_model`.
    progress
        Whether to show a progress bar on standard error.

    Returns
    -------
    xarray.Dataset
        The results with the dimension ``step``, in epochs. Beside ``variance_explained``,
        ``excluded_loss`` and ``restricted_loss``, which are about the key frequencies of each checkpoint,
        stand ``variance_explained_last_keys`` and so on, about those of the last: the progress measures
        of Nanda et al., which move before any frequency is key.

    Raises
    ------
    ModelError
        If the folder holds no checkpoint, or a file is none.
    """
    paths = sorted(Path(folder).glob("step-*.safetensors"))
    if not paths:
        raise ModelError(
            f"The folder {folder} holds no checkpoint; make some with "
            "`python -m resonance_lens.testbed.modular_addition --out FOLDER`."
        )
    analysis = FourierFeatures(surrogates=surrogates)
    steps: list[int] = []
    found: list[xr.Dataset] = []
    # The last comes first: its key frequencies are looked for in the others.
    for path in tqdm(paths[::-1], unit="checkpoint", desc="following", disable=not progress):
        told = checkpoint_facts(path)
        task = modular_addition_task(told["modulus"], told["train_share"], told["split_seed"])
        model = load_checkpoint(path, host=host)
        result = run(model, task, analysis, baselines=(), progress=False, check=path == paths[-1])
        data = result[analysis.name].data
        if not found:
            keys = data.cycles.values[data.key_frequencies.sel(category="all").values == 1]
        steps.append(told["step"])
        found.append(data.assign(_at_frequencies(_weights(_read(path), path.name), task, data, keys)))
    step = xr.DataArray(steps[::-1], dims="step", attrs={"long_name": "training step", "units": "epoch"})
    series: xr.Dataset = xr.concat(found[::-1], "step").assign_coords(step=step)
    return series


def _at_frequencies(
    weights: Parameters, task: Task, data: xr.Dataset, keys: NDArray[np.int64]
) -> dict[str, xr.Variable]:
    """Return what of the logits is at some frequencies, as variables like those of a result."""
    with torch.no_grad():
        logits = logits_at_the_end(weights, torch.tensor(task.tokens))[:, torch.tensor(task.answer_tokens)]
    numbers = logit_numbers(logits.double().numpy(), task, np.arange(len(task)), data.cycles.values, keys)
    made = {}
    for name in ("variance_explained", "excluded_loss", "restricted_loss"):
        like = data[name]
        what, *reason = like.attrs["long_name"].split(";")
        about = {**like.attrs, "long_name": ";".join([f"{what}, of the last checkpoint", *reason])}
        made[f"{name}_last_keys"] = xr.Variable(like.dims, numbers[name][None], about)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a network by command, and return the exit code."""
    given = _parser().parse_args(arguments)
    recipe = Recipe(epochs=given.epochs, weight_decay=given.weight_decay, seed=given.seed)
    try:
        paths = train_series(
            given.out,
            recipe,
            modulus=given.modulus,
            train_share=given.train_share,
            checkpoints=given.checkpoints,
            progress=not given.quiet,
        )
    except ResonanceLensError as error:
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return INTERRUPTED
    told = checkpoint_facts(paths[-1])
    sys.stdout.write(
        f"{len(paths)} checkpoints in {given.out}. After {told['step']} epochs: loss "
        f"{told['train_loss']:.2g} nat on the training set and {told['test_loss']:.2g} on the rest, of which "
        f"{told['test_accuracy']:.2%} are right.\n"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m resonance_lens.testbed.modular_addition",
        description="Train a one-layer transformer on addition modulo a number, and write its checkpoints.",
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder for the checkpoints")
    add = parser.add_argument
    add("--modulus", type=_at_least(3), default=MODULUS, metavar="P", help=f"default {MODULUS}")
    add("--train-share", type=float, default=TRAIN_SHARE, metavar="SHARE",
        help=f"share of all pairs that is learnt (default {TRAIN_SHARE})")  # fmt: skip
    add("--weight-decay", type=_decay, default=1.0, metavar="X", help="default 1; 0 makes the control")
    add("--epochs", type=_at_least(1), default=EPOCHS, metavar="N", help=f"default {EPOCHS}")
    add("--seed", type=int, default=SEED, metavar="N",
        help=f"of the initial weights and the choice of the training set (default {SEED})")  # fmt: skip
    add("--checkpoints", type=_at_least(1), default=CHECKPOINTS, metavar="K",
        help=f"how many, beside the one before the first step (default {CHECKPOINTS})")  # fmt: skip
    add("--quiet", action="store_true", help="no progress on standard error")
    return parser


def _at_least(least: int) -> Any:
    def integer(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"must be an integer of at least {least}; got {text!r}")
        return value

    return integer


def _decay(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of at least 0; got {text!r}")
    return value


def _command(recipe: Recipe, modulus: int, train_share: float, checkpoints: int) -> str:
    """Return the command that does the same."""
    options = {
        "--modulus": modulus,
        "--train-share": train_share,
        "--weight-decay": f"{recipe.weight_decay:g}",
        "--epochs": recipe.epochs,
        "--seed": recipe.seed,
        "--checkpoints": checkpoints,
    }
    words = [str(word) for option in options.items() for word in option]
    return shlex.join(["python", "-m", "resonance_lens.testbed.modular_addition", "--out", "FOLDER", *words])


def _packed(weights: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> bytes:
    """Return a safetensors file as bytes: one entry of metadata, for several come in any order."""
    return safetensors.torch.save(dict(weights), {"training": json.dumps(about)})


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ModelError(f"The checkpoint {str(path)!r} cannot be read: {reason}.") from error


def _facts(data: bytes, name: str) -> dict[str, Any]:
    """Read the metadata at the head of a safetensors file: eight bytes of length, then JSON."""
    try:
        size = int.from_bytes(data[:8], "little")
        about: dict[str, Any] = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["training"])
        about["modulus"], about["step"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"The file {name!r} is not a checkpoint of modular addition.") from error
    return about


def _weights(data: bytes, name: str) -> Parameters:
    """Return the weights of a checkpoint in single precision."""
    try:
        return {key: value.float() for key, value in safetensors.torch.load(data).items()}
    except safetensors.SafetensorError as error:
        raise ModelError(f"The checkpoint {name!r} is damaged ({error}).") from error


def _built(data: bytes, name: str, host: str | None, device: str | None) -> Any:
    shape = shape_of(_facts(data, name)["modulus"])
    weights = {key: value.numpy() for key, value in _weights(data, name).items()}
    return build_model(shape, weights, name=name, host=host, device=device)


if __name__ == "__main__":
    sys.exit(main())
