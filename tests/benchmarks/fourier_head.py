"""Print the toy table of the Fourier head: ``python -m tests.benchmarks.fourier_head --folder FOLDER``.

A small network learns the distribution of z given x and y, all in bins, with a linear head and with Fourier
heads (Gillman et al. 2024, arXiv 2410.22269, section 4). All members of a head (data sets, seeds, penalties)
are trained at once. Stopped after ``--minutes``, or killed, it goes on from its folder.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from resonance_lens.nn import FourierHead, LinearHead, smoothness
from resonance_lens.nn.fourier import bin_centres

N_BINS, N_SAMPLES, N_TEST, BATCH = 50, 5000, 1000, 32
SPREAD = 0.1  # standard deviation of every Gaussian: a variance of 0.01
HIDDEN = (64, 32)
Values = NDArray[np.float64]


# Data ------------------------------------------------------------------------------------------


def gaussian(rng: np.random.Generator, n: int) -> Values:
    """Return ``[sample, (x, y, z)]``: x even in +-0.8, y normal about x, z normal about y."""
    x = rng.uniform(-0.8, 0.8, n)
    y = rng.normal(x, SPREAD)
    return np.stack([x, y, rng.normal(y, SPREAD)], axis=1)


def mixture(rng: np.random.Generator, n: int) -> Values:
    """Return x and y even in +-0.8, z normal about either, each as often."""
    x, y = rng.uniform(-0.8, 0.8, (2, n))
    return np.stack([x, y, rng.normal(np.where(rng.random(n) < 0.5, x, y), SPREAD)], axis=1)


def beta(rng: np.random.Generator, n: int) -> Values:
    """Return x even in +-0.8, y normal about x, z of Beta(100 abs(x), 100 abs(y)) with a random sign."""
    x = rng.uniform(-0.8, 0.8, n)
    y = rng.normal(x, SPREAD)
    return np.stack([x, y, rng.choice([-1, 1], n) * rng.beta(100 * abs(x), 100 * abs(y))], axis=1)


def gaussian_truth(xy: Values, centres: Values) -> Values:
    """Return the density of z ``[sample, bin]`` at the centres of bins, up to a factor."""
    return np.asarray(stats.norm.pdf(centres, xy[:, 1:], SPREAD))


def mixture_truth(xy: Values, centres: Values) -> Values:
    """Return the density of z, both parts made to sum to one before they are added."""
    parts = [stats.norm.pdf(centres, xy[:, [column]], SPREAD) for column in (0, 1)]
    return np.asarray(sum(part / part.sum(1, keepdims=True) for part in parts))


def beta_truth(xy: Values, centres: Values) -> Values:
    """Return the density of z, the same on both sides of 0."""
    return np.asarray(stats.beta.pdf(abs(centres), *(100 * abs(xy[:, [column]]) for column in (0, 1))))


Draw = Callable[[np.random.Generator, int], Values]
Truth = Callable[[Values, Values], Values]
DATA: dict[str, tuple[Draw, Truth]] = {
    "gaussian": (gaussian, gaussian_truth),
    "mixture": (mixture, mixture_truth),
    "beta": (beta, beta_truth),
}

PUBLISHED = {  # KL divergence and smoothness, linear and Fourier of 12 frequencies
    "gaussian": {"kl": (0.129, 0.087), "smoothness": (0.114, 0.055)},
    "mixture": {"kl": (0.238, 0.172), "smoothness": (0.070, 0.035)},
    "beta": {"kl": (0.276, 0.190), "smoothness": (0.129, 0.077)},
}


def binned(values: Values) -> NDArray[np.int64]:
    """Return the bin of each value; what lies outside goes to the last bin on its side."""
    return np.clip(np.floor((values + 1) * N_BINS / 2), 0, N_BINS - 1).astype(np.int64)


def member_data(name: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return bins of x and y as numbers ``[sample, 2]``, of z ``[sample]``, and the truth of the tests."""
    draw, truth = DATA[name]
    values = draw(np.random.default_rng(seed), N_SAMPLES)
    bins = binned(values)
    density = truth(values[-N_TEST:, :2], bin_centres(N_BINS, torch.float64).numpy())
    density = density / density.sum(1, keepdims=True)
    return torch.tensor(bins[:, :2]).float(), torch.tensor(bins[:, 2]), torch.tensor(density)


# Training --------------------------------------------------------------------------------------


class Network(nn.Module):
    """Two hidden layers and a head."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        first, second = HIDDEN
        self.body = nn.Sequential(nn.Linear(2, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU())
        self.head = head

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and the penalty for a gamma of 1."""
        hidden = self.body(x)
        penalty = (
            self.head.regularisation(hidden) if isinstance(self.head, FourierHead) else hidden.new_zeros(())
        )
        return self.head(hidden), penalty


def head_of(kind: str, options: argparse.Namespace, seed: int) -> nn.Module:
    if kind == "linear":
        return LinearHead(HIDDEN[1], N_BINS, seed=seed)
    fourier = FourierHead(HIDDEN[1], N_BINS, options.frequencies, gamma=1.0, start=options.start, seed=seed)
    return fourier if kind == "fourier" else LinearHead.as_large_as(fourier, seed=seed)


Member = tuple[str, int, float]
"""Data set, seed, gamma."""


class Ensemble:
    """Networks of one kind of head, trained side by side, and where they stand."""

    def __init__(self, kind: str, members: list[Member], options: argparse.Namespace) -> None:
        self.kind, self.members = kind, members
        networks = []
        for _, seed, _ in members:
            torch.manual_seed(seed)
            networks.append(Network(head_of(kind, options, seed)))
        stacked, _ = stack_module_state(networks)
        self.parameters = {name: value.detach().requires_grad_() for name, value in stacked.items()}
        self.adam = torch.optim.Adam(self.parameters.values(), lr=1e-3, fused=True)
        self.order = torch.Generator().manual_seed(0)
        self.epoch = 0
        self.history: list[dict[str, Any]] = []
        self.path = options.folder / f"{kind}.pt"
        data = [member_data(name, seed) for name, seed, _ in members]
        self.inputs, self.targets, self.truth = (torch.stack([d[i] for d in data]) for i in range(3))
        self.gammas = torch.tensor([gamma for _, _, gamma in members])
        self.run = vmap(lambda parameters, x: functional_call(networks[0], parameters, (x,)))

    def one_epoch(self) -> None:
        """Go once over the training data, each member in an order of its own."""
        rows = torch.arange(len(self.members))[:, None]
        order = torch.rand(len(self.members), N_SAMPLES - N_TEST, generator=self.order).argsort(1)
        for at in order.split(BATCH, dim=1):
            logits, penalty = self.run(self.parameters, self.inputs[rows, at])
            wrong = nn.functional.cross_entropy(
                logits.flatten(0, 1), self.targets[rows, at].flatten(), reduction="none"
            )
            self.adam.zero_grad()
            (wrong.view_as(at).mean(1) + self.gammas * penalty).sum().backward()
            self.adam.step()
        self.epoch += 1

    def measure(self) -> None:
        """Keep the divergence from the truth, and the smoothness, of what is predicted for the test data."""
        with torch.no_grad():
            logits, _ = self.run(self.parameters, self.inputs[:, N_SAMPLES - N_TEST :])
        found = logits.double().softmax(-1)
        divergence = torch.xlogy(self.truth, self.truth) - self.truth * (found + 1e-10).log()
        for (name, seed, gamma), kl, rough in zip(
            self.members, divergence.sum(-1).mean(-1), smoothness(found).mean(-1), strict=True
        ):
            cell = {"data": name, "head": self.kind, "gamma": gamma, "seed": seed, "epoch": self.epoch}
            self.history.append(cell | {"kl": float(kl), "smoothness": float(rough)})

    def save(self) -> None:
        state = {
            "parameters": self.parameters,
            "adam": self.adam.state_dict(),
            "order": self.order.get_state(),
            "epoch": self.epoch,
            "history": self.history,
        }
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.path)

    def resume(self) -> None:
        state = torch.load(self.path)
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(state["parameters"][name])
        self.adam.load_state_dict(state["adam"])
        self.order.set_state(state["order"])
        self.epoch, self.history = state["epoch"], state["history"]


# Report ----------------------------------------------------------------------------------------


def summary(history: list[dict[str, Any]], epoch: int) -> str:
    """Return the table for one epoch: mean and standard deviation over seeds, and the published figure."""
    lines = [f"epoch {epoch}: mean +- standard deviation over seeds (published; distance in deviations)"]
    here = [h for h in history if h["epoch"] == epoch]
    cells = {(list(DATA).index(h["data"]), h["data"], h["head"], h["gamma"]) for h in here}
    for _, name, kind, gamma in sorted(cells):
        text = f"{name:9}{f'{kind}, gamma {gamma:g}':22}"
        cell = [h for h in here if (h["data"], h["head"], h["gamma"]) == (name, kind, gamma)]
        for measure in ("kl", "smoothness"):
            values = np.array([h[measure] for h in cell])
            published = PUBLISHED[name][measure][kind == "fourier"]
            spread = values.std(ddof=1) if len(values) > 1 else math.nan
            away = (values.mean() - published) / spread
            text += f"  {measure} {values.mean():.3f} +- {spread:.3f} ({published:.3f}; {away:+.1f})"
        lines.append(text)
    return "\n".join(lines)


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.fourier_head", description=__doc__)
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="for its state and its figures")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long, to go on later")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--report", nargs="+", type=int, default=[20, 100], help="epochs beside the last")
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    kinds = ("linear", "fourier", "low-rank")
    parser.add_argument("--heads", nargs="+", choices=kinds, default=["linear", "fourier"])
    parser.add_argument("--frequencies", type=int, default=12)
    parser.add_argument("--gammas", nargs="+", type=float, default=[0.0, 1e-6])
    parser.add_argument("--start", choices=("published", "uniform"), default="published")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * options.minutes
    history: list[dict[str, Any]] = []
    for kind in options.heads:
        gammas = options.gammas if kind == "fourier" else [0.0]
        seeds = range(1, options.seeds + 1)
        members = [(name, seed, gamma) for name in options.data for seed in seeds for gamma in gammas]
        ensemble = Ensemble(kind, members, options)
        if ensemble.path.exists():
            ensemble.resume()
        while ensemble.epoch < options.epochs and time.monotonic() < until:
            ensemble.one_epoch()
            if ensemble.epoch in options.report or ensemble.epoch == options.epochs:
                ensemble.measure()
            if ensemble.epoch % 10 == 0:
                ensemble.save()
        ensemble.save()
        print(f"{kind}: {ensemble.epoch} of {options.epochs} epochs", flush=True)
        history += ensemble.history
    for epoch in sorted({h["epoch"] for h in history}):
        print(summary(history, epoch))
    (options.folder / "figures.json").write_text(json.dumps(history, indent=1))


if __name__ == "__main__":
    main()
