"""A change of the same size that means nothing: what an edit is compared with.

An edit may act because of what it changes, or only because it changes something. The placebo changes the same
place, at the same tokens, by as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from resonance_lens.errors import ParameterError
from resonance_lens.patching.operations.base import Operation, Scene
from resonance_lens.patching.operations.patterns import windows


def placebo(values: Tensor, edited: Tensor, scene: Scene) -> Tensor:
    """Return the values with a change of the size of an edit's, made at random.

    Parameters
    ----------
    values, edited
        Of a place, before and after the edit.
    scene
        Where; with ``generators``.

    Returns
    -------
    Tensor
        Shaped like the values.

    Raises
    ------
    ParameterError
        If the scene has no generators, or the site is ``scores``: no change of scores is the size of another
        one, since what a softmax makes of it depends on the key.

    Notes
    -----
    At a site of tokens the change of each row, ``[token, feature]``, is turned as a whole into random
    directions: each token's change keeps its norm, and the angles between the changes of different tokens
    stay, and with them the spectrum of the change along tokens. What is lost is the direction. The turned
    change at a token depends on the changes up to it alone.

    At ``pattern`` the entries of the change of a row, which add up to zero, are put on other keys of its
    window: in an order drawn with equal chances from all those that leave no weight negative, anew for each
    query and head. The row keeps its sum, and the change its entries, so its size in any norm; also
    what kind of change it is (one key gains and many lose). What is lost is which keys. Where a row leaves no
    choice, as when all weight lies on one key and the others gain alike, the placebo is the edit, and
    a comparison with it finds nothing.
    """
    if scene.generators is None:
        raise ParameterError("A placebo needs a random generator for each row: give generators, or a seed.")
    if scene.site == "scores":
        raise ParameterError(
            "There is no placebo of an edit of 'scores': what a softmax makes of a change depends on the "
            "key; edit 'pattern' instead."
        )
    change = edited.double() - values.double()
    made = _other_keys(values.double(), change, scene) if scene.square else _turned(change, scene)
    # What is the same before and after stays the same to the bit.
    return torch.where(made == 0, values, (values.double() + made).to(values.dtype))


def _turned(change: Tensor, scene: Scene) -> Tensor:
    """Return changes ``[row, token, feature]`` turned into random directions, each row as a whole."""
    n_tokens, n_features = change.shape[1:]
    size = min(n_tokens, n_features)
    drawn = torch.zeros(len(change), n_features, size, dtype=torch.float64)
    for row, length in enumerate(scene.lengths.tolist()):
        # One direction after another, so that the width of the batch does not matter.
        n = min(length, n_features)
        drawn[row, :, :n] = torch.randn(n, n_features, generator=scene.generator(row), dtype=torch.float64).T
    directions, upper = torch.linalg.qr(drawn.to(change.device))  # [row, feature, direction]
    # The sign that the decomposition chose is no random one.
    directions = directions * torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)[:, None]
    # The change is lower triangular in directions of its own, which are put out of the way.
    own = torch.linalg.qr(change.transpose(1, 2))[1]  # [row, direction, token]
    turned: Tensor = (directions @ own).transpose(1, 2)
    at = (change != 0).any(-1, keepdim=True)
    return torch.where(at, turned, 0.0)


def _other_keys(before: Tensor, change: Tensor, scene: Scene) -> Tensor:
    """Return changes of attention rows on other keys, no weight made negative.

    Losses are dealt first, the largest first, each to one of the keys left that have enough; these sets hold
    one another, so that every order that is possible has the same chance. Then gains are dealt to the rest.
    """
    _, on = windows(before, scene)
    n = before.shape[-1]
    on = on.expand(before.shape)
    size = on.sum(-1)  # [row, head, query]
    # Keys by weight, the heaviest first; changes from the largest loss to the largest gain.
    keys = torch.where(on, before, -1.0).argsort(dim=-1, descending=True, stable=True)
    entries = torch.where(on, change, torch.inf).sort(dim=-1)[0]
    heavy = before.gather(-1, keys)
    loss = (-entries).clamp_min(0)
    enough = torch.searchsorted(-heavy.contiguous(), -loss.contiguous(), right=True)
    choices = torch.where(entries < 0, torch.minimum(enough, size[..., None]), size[..., None])
    draws = torch.zeros_like(before)
    for row, length in enumerate(scene.lengths.tolist()):
        shape = (before.shape[1], length, length)
        drawn = torch.rand(shape, generator=scene.generator(row), dtype=torch.float64)
        draws[row, :, :length, :length] = drawn.to(draws.device)
    for step in range(n):
        left = (choices[..., step] - step).clamp_min(1)
        pick = (step + (draws[..., step] * left).long()).clamp(max=n - 1)[..., None]
        chosen, here = keys.gather(-1, pick), keys[..., step : step + 1].clone()
        keys.scatter_(-1, pick, here)
        keys[..., step : step + 1] = chosen
    made = torch.zeros_like(before).scatter(-1, keys, torch.where(entries.isfinite(), entries, 0.0))
    return made


@dataclass(frozen=True, kw_only=True)
class Placebo(Operation):
    """The placebo of another operation, as an operation; see `placebo`.

    Attributes
    ----------
    of
        The other one.
    """

    name: ClassVar[str] = "placebo"

    of: Operation

    @property
    def sites(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the other one, but for ``scores``."""
        return tuple(site for site in self.of.sites if site != "scores")

    @property
    def donor(self) -> bool:  # type: ignore[override]
        """Whether the other one needs a donor: to know how large its change is."""
        return self.of.donor

    @property
    def resamples(self) -> bool:  # type: ignore[override]
        """Whether the other one resamples."""
        return self.of.resamples

    @property
    def wants(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the other one wants, and generators."""
        return tuple(dict.fromkeys((*self.of.wants, "generators")))

    @property
    def looks_ahead(self) -> bool:
        """The size of a change that looks ahead tells of later tokens."""
        return self.of.looks_ahead

    @property
    def label(self) -> str:
        """Names the other one."""
        return f"placebo of {self.of.label}"

    def edit(self, values: Tensor, scene: Scene) -> Tensor:
        """Return the values with a change that means nothing; see `Operation.edit`."""
        self.require(values, scene)
        return placebo(values, self.of.edit(values, scene), scene)
