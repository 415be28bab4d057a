"""Modules that say how they are rebuilt: a card of plain JSON fields beside the weights, no code."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from resonance_lens.errors import ParameterError, unknown, wrong_parameter

if TYPE_CHECKING:
    from typing_extensions import Self


class CardModule(nn.Module):
    """A module whose constructor takes plain numbers and words only, and keeps each under its name.

    Weights go into ``state_dict()``, floating-point tensors that share no memory, as safetensors wants them.
    What is drawn at the start comes from ``seed`` and leaves torch's own random state alone.
    """

    def card(self) -> dict[str, Any]:
        """Return the fields that rebuild the module without its weights: numbers, words and None.

        Returns
        -------
        dict
            ``module``, the name of the class, and each argument of its constructor. `from_card` takes it,
            also after a round trip through JSON; then ``load_state_dict`` brings the weights.
        """
        names = list(inspect.signature(type(self)).parameters)
        return {"module": type(self).__name__} | {name: getattr(self, name) for name in names}

    @classmethod
    def from_card(cls, card: dict[str, Any]) -> Self:
        """Return a module as a card says, at its start.

        Raises
        ------
        ParameterError
            If the card is of another module, or has other fields.
        """
        fields = {name: value for name, value in card.items() if name != "module"}
        if card.get("module") != cls.__name__:
            raise ParameterError(
                wrong_parameter(
                    f"{cls.__name__}.from_card", "card", f"of a {cls.__name__}", card.get("module")
                )
            )
        wanted = set(inspect.signature(cls).parameters)
        if set(fields) != wanted:
            raise ParameterError(
                f"A card of {cls.__name__} has the fields {', '.join(sorted(wanted))}; "
                f"got {', '.join(sorted(fields)) or 'none'}."
            )
        return cls(**fields)

    @property
    def n_parameters(self) -> int:
        """How many numbers are learned."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


def from_card(card: dict[str, Any]) -> CardModule:
    """Return the module that a card is of, at its start.

    Parameters
    ----------
    card
        As `CardModule.card` gives it. Only the modules of this package are made, by name.

    Raises
    ------
    ParameterError
        If there is no such module here, or its fields are others.
    """
    known = {
        kind.__name__: kind for kind in CardModule.__subclasses__() if kind.__module__.startswith(__package__)
    }
    name = str(card.get("module"))
    if name not in known:
        raise ParameterError(unknown("module", name, known))
    return known[name].from_card(card)


def require(owner: str, name: str, value: float, least: float = 1, most: float | None = None) -> None:
    """Raise `ParameterError` unless a number lies between two others, both allowed."""
    if not least <= value or (most is not None and value > most):
        wanted = f"at least {least:g}" if most is None else f"between {least:g} and {most:g}"
        raise ParameterError(wrong_parameter(owner, name, wanted, value))


def drawn(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> nn.Parameter:
    """Return a parameter drawn evenly from -bound to bound."""
    return nn.Parameter((2 * torch.rand(shape, generator=generator) - 1) * bound)


def seeded(seed: int) -> torch.Generator:
    """Return a generator of its own for a seed."""
    return torch.Generator().manual_seed(seed)


def last_token(values: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Return what stands at the last real token, ``[batch, ...]`` of ``[batch, token, ...]``.

    Parameters
    ----------
    values
        What a module along tokens gives: for a causal one the last token has seen the whole record.
    lengths
        Real tokens of each record, integers ``[batch]``; all of them if not said.
    """
    at = torch.full((len(values),), values.shape[1]) if lengths is None else lengths
    return values[torch.arange(len(values), device=values.device), at.to(values.device) - 1]


def real_tokens(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return which tokens of ``[batch, token, feature]`` are real, as booleans ``[batch, token, 1]``.

    Raises
    ------
    ParameterError
        If there are no three axes, or lengths are not one for each record, from 1 to the number of tokens.
    """
    if x.ndim != 3:
        raise ParameterError(
            wrong_parameter("a module along tokens", "x", "[batch, token, feature]", tuple(x.shape))
        )
    n_batch, n_tokens, _ = x.shape
    if lengths is None:
        return torch.ones(n_batch, n_tokens, 1, dtype=torch.bool, device=x.device)
    lengths = lengths.to(x.device)
    if lengths.shape != (n_batch,) or int(lengths.min()) < 1 or int(lengths.max()) > n_tokens:
        raise ParameterError(
            wrong_parameter(
                "a module along tokens",
                "lengths",
                f"{n_batch} integers from 1 to {n_tokens}",
                lengths.tolist(),
            )
        )
    return (torch.arange(n_tokens, device=x.device) < lengths[:, None])[:, :, None]
