"""Linear probes: in closed form from sums over the tokens, and the logistic regression of scikit-learn."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens.errors import ParameterError, PromptError
from resonance_lens.probing.examples import Examples
from resonance_lens.stats.scatter import Scatter
from resonance_lens.stats.streams import stream
from resonance_lens.text_labels import Kind

Floats = NDArray[np.float64]

SHRINKAGES = (1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 0.9)
"""Of the covariance within classes: what validation chooses from."""

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
"""Of a ridge regression, per token and in units of standardised features: what validation chooses from."""

INVERSES = (1e-4, 1e-3, 1e-2, 0.1)
"""C of `sklearn.linear_model.LogisticRegression`: what validation chooses from."""

NEEDS = "needs scikit-learn: pip install resonance-lens[probes]"


@dataclass(frozen=True, eq=False)
class LinearFitted:
    """Weights and biases for features as they come.

    Attributes
    ----------
    kind
        Of the label.
    weight
        ``[feature, output]``: one output for each class, or one.
    bias
        ``[output]``; minus infinity for a class that training did not have.
    strength
        Of the regularisation that validation chose.
    how
        ``closed form``, ``logistic`` or ``sparse``.
    """

    kind: Kind
    weight: Tensor
    bias: Tensor
    strength: float
    how: str = "closed form"

    @property
    def n_parameters(self) -> int:
        """Weights that are not zero by construction, and biases."""
        if self.how == "sparse":
            return int(self.strength) + 1
        return self.weight.numel() + self.bias.numel()

    def predict(self, features: Tensor) -> Floats:
        """Return classes or values; see `resonance_lens.probing.protocol.Fitted`."""
        found = features @ self.weight + self.bias
        values = found.argmax(-1) if self.kind == "classes" else found[..., 0]
        return np.asarray(values.double().numpy())

    def probabilities(self, features: Tensor) -> Floats:
        """Return the softmax of the outputs; see `resonance_lens.probing.protocol.Fitted`.

        Outputs of the closed form are log-odds where classes are Gaussian with one covariance.
        """
        if self.kind == "ordered":
            return np.zeros((*features.shape[:-1], 0))
        outputs = (features @ self.weight + self.bias).double()
        return np.asarray(outputs.softmax(-1).numpy())

    def card(self) -> dict[str, Any]:
        """Return what makes it again beside the tensors."""
        return {"kind": "linear", "label_kind": self.kind, "strength": self.strength, "how": self.how}

    def tensors(self) -> dict[str, Tensor]:
        """Return weights and biases."""
        return {"weight": self.weight.contiguous(), "bias": self.bias.contiguous()}

    @staticmethod
    def made_of(card: dict[str, Any], tensors: dict[str, Tensor]) -> LinearFitted:
        """Return the probe that a card and tensors describe."""
        return LinearFitted(
            card["label_kind"], tensors["weight"], tensors["bias"], float(card["strength"]), str(card["how"])
        )


@dataclass(frozen=True)
class Linear:
    """A linear probe in closed form: linear discriminants for classes, ridge regression for ordered values.

    The strength of the regularisation is chosen on validation, for each labelling by itself. Training takes
    one pass over the tokens, whatever their number, and keeps one matrix ``[feature, feature]``.

    Notes
    -----
    Linear discriminants are the softmax classifier that is right where classes are Gaussian with one
    covariance; logistic regression assumes less. See `Logistic`, and docs/probes.md for how they compare.
    """

    name: str = "linear"
    whole_records: bool = False
    labellings: None = None

    def why_not(self, kind: str, classes: Sequence[str]) -> str | None:
        """It learns any label."""
        return None

    def fit(self, train: Examples, validation: Examples) -> list[LinearFitted]:
        """Return a fitted probe for each labelling; see `resonance_lens.probing.protocol.Probe`."""
        return self.fit_sums(sums_of(train), validation)

    def untrained(self, train: Examples) -> LinearFitted:
        """Return random weights; see `untrained_linear`."""
        return untrained_linear(train)

    def fit_sums(self, sums: Scatter, validation: Examples) -> list[LinearFitted]:
        """Return fitted probes for sums over the tokens of a training part: see `sums_of`."""
        solver = sums.solver()
        n = validation.n_labellings
        if validation.kind == "ordered":
            strengths: tuple[float, ...] = PENALTIES
            solved = [solver.ridge(labelling, strengths) for labelling in range(n)]
        else:
            strengths = SHRINKAGES
            c = len(validation.classes)
            solved = [solver.discriminant(range(i * c, (i + 1) * c), strengths) for i in range(n)]
        candidates = [
            [
                LinearFitted(
                    validation.kind,
                    torch.from_numpy(weight).float(),
                    torch.from_numpy(bias).float(),
                    strength,
                )
                for strength, (weight, bias) in zip(strengths, found, strict=True)
            ]
            for found in solved
        ]
        return chosen_on(candidates, validation)


def sums_of(train: Examples) -> Scatter:
    """Return the sums that `Linear` is fitted on, in one pass over the tokens.

    Raises
    ------
    PromptError
        If no token has a label.
    """
    sums: Scatter | None = None
    for features, labels, _ in _rows(train):
        targets = torch.from_numpy(_targets(labels, train)).to(features)
        if sums is None:
            sums = Scatter.like(features, targets.shape[1])
        sums.add(features, targets)
    if sums is None:
        raise PromptError("No token of the training documents has a label; give more documents.")
    return sums


def chosen_on(candidates: Sequence[Sequence[LinearFitted]], validation: Examples) -> list[LinearFitted]:
    """Return for each labelling the candidate that does best on validation, of equal ones the later.

    Candidates of all labellings are scored in one product with the features.
    """
    flat = [each for of_labelling in candidates for each in of_labelling]
    weight = torch.cat([each.weight for each in flat], dim=1)  # [feature, candidate * output]
    bias = torch.cat([each.bias for each in flat])
    n_outputs, n_each = flat[0].weight.shape[1], len(candidates[0])
    error = np.zeros((len(candidates), n_each))
    for features, labels, _ in _rows(validation):
        outputs = (features @ weight + bias).reshape(len(features), len(candidates), n_each, n_outputs)
        wanted = torch.from_numpy(labels)[:, :, None]  # [row, labelling, 1]
        if validation.kind == "classes":
            wrong = outputs.argmax(-1) != wanted.long()
            error += wrong.sum(0, dtype=torch.float64).numpy()
        else:
            error += (outputs[..., 0].double() - wanted).square().sum(0).numpy()
    best = n_each - 1 - error[:, ::-1].argmin(1)
    return [of_labelling[at] for of_labelling, at in zip(candidates, best, strict=True)]


@dataclass(frozen=True)
class Logistic:
    """Multinomial logistic regression by scikit-learn, on at most so many tokens; an option beside `Linear`.

    Attributes
    ----------
    most_tokens
        Tokens of training that are drawn at random where there are more: it is iterative, and holds them.
    """

    name: str = "logistic"
    whole_records: bool = False
    labellings: int = 3
    most_tokens: int = 20_000

    def why_not(self, kind: str, classes: Sequence[str]) -> str | None:
        """It learns classes, where scikit-learn is installed."""
        if kind != "classes":
            return "logistic regression is for classes; take the probe 'linear'"
        if importlib.util.find_spec("sklearn") is None:
            return f"the probe 'logistic' {NEEDS}"
        return None

    def untrained(self, train: Examples) -> LinearFitted:
        """Return random weights; see `untrained_linear`."""
        return untrained_linear(train)

    def fit(self, train: Examples, validation: Examples) -> list[LinearFitted]:
        """Return a fitted probe for each of the first labellings.

        Raises
        ------
        ParameterError
            If scikit-learn is not installed.
        """
        try:
            from sklearn.linear_model import LogisticRegression
        except ImportError as error:
            raise ParameterError(f"The probe 'logistic' {NEEDS}.") from error
        features, labels, _ = drawn_tokens(train, self.most_tokens)
        mean, scale = features.mean(0), features.std(0)
        scale[scale == 0] = 1.0
        candidates = []
        for labelling in range(min(self.labellings, train.n_labellings)):
            found = []
            for inverse in sorted(INVERSES, reverse=True):  # the weakest first: of equal ones the later wins
                with warnings.catch_warnings():
                    # Whether it has converged or not, validation says what it is worth.
                    warnings.filterwarnings("ignore", "lbfgs failed to converge")
                    model = LogisticRegression(C=inverse, max_iter=200).fit(
                        (features - mean) / scale, labels[:, labelling].astype(np.int64)
                    )
                found.append(_of_sklearn(model, mean, scale, len(train.classes), inverse))
            candidates.append(found)
        return chosen_on(candidates, validation)


def untrained_linear(train: Examples, most: int | None = None) -> LinearFitted:
    """Return a linear probe before training, on the scale of the first windows of a part.

    Weights are drawn as `torch.nn.Linear` draws them, between plus and minus one over the square root of the
    number of features, for standardised features; no class is favoured. An ordered label is around its mean,
    in units of its standard deviation. With ``most`` only so many features, drawn at random, have weights.
    """
    features, labels, _ = next(_rows(train))
    mean, scale = features.double().mean(0), features.double().std(0, correction=0)
    bound = len(mean) ** -0.5
    shape = (len(mean), max(len(train.classes), 1))
    drawn = torch.from_numpy(stream(train.seed, "untrained").uniform(-bound, bound, shape))
    if most is not None:
        drawn[stream(train.seed, "untrained features").permutation(len(mean))[most:]] = 0.0
    middle = 0.0
    if train.kind == "ordered":
        middle, spread = labels[:, 0].mean(), labels[:, 0].std()
        drawn = drawn * spread
    weight = drawn / torch.where(scale > 0, scale, 1.0)[:, None]
    return LinearFitted(train.kind, weight.float(), (middle - mean @ weight).float(), float("nan"))


def _of_sklearn(model: Any, mean: Floats, scale: Floats, n_classes: int, strength: float) -> LinearFitted:
    """Return the weights of a logistic regression for features that are not standardised."""
    coefficients, intercepts = model.coef_, model.intercept_
    if len(coefficients) == 1:  # two classes: one row of log-odds
        coefficients = np.concatenate([-coefficients / 2, coefficients / 2])
        intercepts = np.concatenate([-intercepts / 2, intercepts / 2])
    weight, bias = np.zeros((len(mean), n_classes)), np.full(n_classes, -np.inf)
    weight[:, model.classes_] = (coefficients / scale).T
    bias[model.classes_] = intercepts - mean @ weight[:, model.classes_]
    return LinearFitted(
        "classes", torch.from_numpy(weight).float(), torch.from_numpy(bias).float(), strength, "logistic"
    )


def drawn_tokens(train: Examples, most: int) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return features, labels and documents of tokens drawn at random, each with the same chance."""
    total = sum(int(windows.measured.sum()) for windows in train)
    keep = np.zeros(total, dtype=np.bool_)
    keep[stream(train.seed, "tokens drawn").permutation(total)[:most]] = True
    features, labels, documents, at = [], [], [], 0
    for rows, wanted, of in _rows(train):
        here = keep[at : at + len(rows)]
        features.append(rows[torch.from_numpy(here)].double().numpy())
        labels.append(wanted[here])
        documents.append(of[here])
        at += len(rows)
    return np.concatenate(features), np.concatenate(labels), np.concatenate(documents)


def _rows(examples: Examples) -> Iterator[tuple[Tensor, Floats, NDArray[np.int64]]]:
    for windows in examples:
        features, labels, documents = windows.rows()
        if len(labels):
            yield features, labels, documents


def _targets(labels: Floats, train: Examples) -> Floats:
    """Return what is regressed on, ``[row, target]``: values, or ones and zeros for each class."""
    if train.kind == "ordered":
        return labels
    ones = labels[:, :, None] == np.arange(len(train.classes))
    return np.asarray(ones.reshape(len(labels), -1), dtype=np.float64)
