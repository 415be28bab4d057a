"""Prompts made periodic, and the same without a period: what becomes of their tokens before they are run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from resonance_lens.errors import ParameterError, PromptError, wrong_parameter
from resonance_lens.stats.streams import stream


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """How the tokens of a prompt are arranged, the first of them left where it is.

    Without `repeated` and `reordered` they stay as they are.

    Attributes
    ----------
    block
        Tokens of a block, at least 2; 0 where there are no blocks. Blocks are counted from the second token
        of a prompt, and the last of them may be cut off by its end.
    repeated
        The first block over and over, to the length of the prompt.
    reordered
        The order inside each block drawn anew: the same tokens in every block as without it, and no period in
        their order. What is drawn depends on the seed and the tokens of the prompt alone.

    Raises
    ------
    ParameterError
        If there is nothing to repeat or to reorder, or the block is too small.
    """

    block: int = 0
    repeated: bool = False
    reordered: bool = False

    def __post_init__(self) -> None:
        least = 2 if self.repeated or self.reordered else 0
        if type(self.block) is not int or self.block < least:
            requirement = f"an integer of at least {least}"
            raise ParameterError(wrong_parameter("Arrangement", "block", requirement, self.block))

    def of(self, tokens: Sequence[int], seed: int) -> tuple[int, ...]:
        """Return the tokens of a prompt in this arrangement, as many as there were.

        Parameters
        ----------
        tokens
            Ids of the prompt.
        seed
            Of the orders that are drawn.

        Raises
        ------
        PromptError
            If a block is to be repeated that the prompt does not hold.
        """
        first, rest = tuple(tokens[:1]), tuple(tokens[1:])
        if self.repeated:
            if len(rest) < self.block:
                raise PromptError(
                    f"A prompt of {len(tokens)} tokens has no block of {self.block} behind its first token; "
                    "shorten the block, or leave the prompt out."
                )
            times = -(-len(rest) // self.block)
            rest = (rest[: self.block] * times)[: len(rest)]
        if self.reordered:
            name = hashlib.sha256(",".join(map(str, tokens)).encode()).hexdigest()
            rng = stream(seed, "reordered", self.block, name)
            blocks = [rest[at : at + self.block] for at in range(0, len(rest), self.block)]
            rest = tuple(int(token) for block in blocks for token in rng.permutation(block))
        return (*first, *rest)
