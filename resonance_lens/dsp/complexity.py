"""Complexity along an ordered axis: how many words a series has, and which orders its values come in."""

from __future__ import annotations

import functools
import math
import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens.dsp.records import real_records
from resonance_lens.errors import AxisError, ParameterError, wrong_parameter
from resonance_lens.signal import Signal

WORD = 64
"""Bits of a machine word, positions of a series in one."""

ROWS_AT_ONCE = 2048
"""Series that are parsed side by side: 512 positions of them are 128 kB of bits."""

PERMUTATIONS = 4000
"""Random orders that `permuted_lempel_ziv` is a mean over: it is then known to 0.0004 at 512 positions."""

ONE, LAST = np.uint64(1), np.uint64(WORD - 1)

LARGEST_ORDER = 8
"""Of ordinal patterns: there are 40,320 of them."""


def median_split(x: Signal | Tensor, dim: str | int, *, lengths: Tensor | None = None) -> Tensor:
    """Return which values of a record are above its median.

    Parameters
    ----------
    x
        A signal, or a real tensor.
    dim
        The axis: a name for a signal, a number for a tensor.
    lengths
        Positions of each record of a tensor, as in `Records.of`.

    Returns
    -------
    Tensor
        Booleans ``[..., position]``, the axis last; false beyond the length of a record, and everywhere in a
        constant one.

    Raises
    ------
    AxisError
        If the axis has no order.
    """
    records = real_records(x, dim, "a median split", lengths)
    return records.each(lambda rows: rows > rows.median(dim=1, keepdim=True).values)


def lempel_ziv(
    x: Signal | Tensor, dim: str | int, *, normalised: bool = True, lengths: Tensor | None = None
) -> Tensor:
    """Return the Lempel-Ziv complexity (LZ76) of each record, split at its median.

    Parameters
    ----------
    x, dim, lengths
        As in `median_split`.
    normalised
        Divide the number of words by ``n / log2 n``, what a fair coin needs when n goes to infinity. At
        n = 512 a coin is near 1.1 and at n = 32 near 1.3: compare series of one length, or each with
        `permuted_lempel_ziv`. Without it, the number of words.

    Returns
    -------
    Tensor
        float64 ``[...]``, above 0.

    Raises
    ------
    AxisError
        If the axis has no order.
    RecordError
        If a record has fewer than two positions, and no scale to be divided by.

    Notes
    -----
    Lempel and Ziv (1976), parsed as by Kaspar and Schuster (1987): see `lempel_ziv_words`. A constant has
    two words.
    """
    records = real_records(x, dim, "Lempel-Ziv complexity", lengths)
    records.at_least(2 if normalised else 1, "Lempel-Ziv complexity")
    symbols = records.each(lambda rows: rows > rows.median(dim=1, keepdim=True).values)
    counts = records.lengths.cpu().numpy()
    words = lempel_ziv_words(symbols.reshape(len(counts), -1).cpu().numpy(), counts)
    values = words / lempel_ziv_scale(counts) if normalised else words.astype(np.float64)
    return torch.from_numpy(values).reshape(records.shape).to(records.rows.device)


def lempel_ziv_scale(n: Any) -> NDArray[np.float64]:
    """Return ``n / log2 n``: the words of a fair coin of n tosses, to first order."""
    return np.asarray(n / np.log2(n), dtype=np.float64)


def lempel_ziv_words(symbols: NDArray[Any], lengths: NDArray[Any] | None = None) -> NDArray[np.int64]:
    """Return the number of words that LZ76 parses each series of symbols into.

    From its start on, a word is the shortest string that does not begin at any earlier place (it may run
    over into itself); what is left at the end counts as one.

    Parameters
    ----------
    symbols
        ``[series, position]``: booleans, or integers from 0 to 255.
    lengths
        Integers ``[series]``; all positions if it is left out.

    Returns
    -------
    array
        Integers ``[series]``.

    Notes
    -----
    Exact, and for all series at once, on the CPU. Every series reads its next symbol in every step. The set
    of places that follow an earlier copy of the word so far is a set of bits: those of them that hold the
    symbol stay, moved on by one; when none is left the word ends, and the set is everything up to here. A
    step is a few operations on ``[n / 64, series]`` machine words. 1,530 series of 511 take 35 ms on one core
    where `antropy.lziv_complexity`, compiled, takes 300; one series alone takes 8 where it takes 0.2.
    """
    symbols = np.asarray(symbols)
    n_series, n = symbols.shape
    counts = np.full(n_series, n) if lengths is None else np.asarray(lengths)
    made = [
        _words(symbols[start : start + ROWS_AT_ONCE], counts[start : start + ROWS_AT_ONCE])
        for start in range(0, n_series, ROWS_AT_ONCE)
    ]
    return np.concatenate(made) if made else np.zeros(0, dtype=np.int64)


def _words(symbols: NDArray[Any], counts: NDArray[Any]) -> NDArray[np.int64]:
    n_series, n = symbols.shape
    columns = np.ascontiguousarray(symbols.T)  # [position, series]
    if columns.dtype == bool:
        n_symbols, code = 2, columns.astype(np.int64)
    else:
        alphabet, code = np.unique(columns, return_inverse=True)
        n_symbols, code = len(alphabet), code.reshape(columns.shape)
    n_words = n // WORD + 1  # of machine: one more place than there are positions
    places = np.stack([_packed(code == symbol, n_words) for symbol in range(n_symbols)])
    # Of two symbols, the places that hold one are those that do not hold the other.
    flipped = code.astype(np.uint64) - ONE if n_symbols == 2 else None
    ended = np.zeros((n, n_series), dtype=bool)
    copies, scratch = np.zeros((2, n_words, n_series), dtype=np.uint64)
    for t in range(int(counts.max(initial=0))):
        used = (t + 1) // WORD + 1
        found, other = copies[:used], scratch[:used]
        if flipped is not None:
            np.bitwise_xor(places[1, :used], flipped[t], out=other)
        else:
            other[:] = np.take_along_axis(places[:, :used], code[t][None, None], axis=0)[0]
        np.bitwise_and(found, other, out=found)
        np.bitwise_or.reduce(found, axis=0, out=scratch[0])
        np.equal(scratch[0], 0, out=ended[t])
        # What is carried from word to word has to be read before it is moved.
        np.right_shift(found[:-1], LAST, out=other[1:])
        np.left_shift(found, ONE, out=found)
        np.bitwise_or(found[1:], other[1:], out=found[1:])
        anew = np.flatnonzero(ended[t])
        if len(anew):
            for word, everything in zip(found, _up_to(t, used), strict=True):
                word[anew] = everything
    inside = np.arange(n)[:, None] < counts
    last = ended[np.maximum(counts - 1, 0), np.arange(n_series)]
    return np.asarray((ended & inside).sum(axis=0) + (~last & (counts > 0)), dtype=np.int64)


def _packed(which: NDArray[np.bool_], n_words: int) -> NDArray[np.uint64]:
    """Return booleans ``[position, series]`` as bits ``[word, series]``, position 0 the lowest of word 0."""
    n, n_series = which.shape
    padded = np.zeros((n_words * WORD, n_series), dtype=bool)
    padded[:n] = which
    packed = np.packbits(padded, axis=0, bitorder="little")  # [byte, series]
    by_series = np.ascontiguousarray(packed.T).view("<u8")  # [series, word]
    return np.ascontiguousarray(by_series.T.astype(np.uint64))


def _up_to(t: int, n_words: int) -> NDArray[np.uint64]:
    """Return bits ``[word]`` that are set from 0 to t."""
    return np.array(
        [((1 << max(0, min(WORD, t + 1 - WORD * word))) - 1) for word in range(n_words)], dtype=np.uint64
    )


@functools.lru_cache(maxsize=4096)
def permuted_lempel_ziv(n: int, ones: int) -> float:
    """Return the mean of `lempel_ziv_words` over all orders of n binary symbols of which so many are one.

    Whatever a series is, if its values could as well stand in any other order, this is how many words it
    has on average. The mean of `PERMUTATIONS` random orders, always the same ones.

    Parameters
    ----------
    n
        Positions, at least 1.
    ones
        From 0 to n: half of n, rounded down, after a median split without ties.
    """
    if not 0 <= ones <= n or n < 1:
        raise ParameterError(wrong_parameter("permuted_lempel_ziv", "ones", f"from 0 to {n}", ones))
    if ones in (0, n):
        return float(min(n, 2))
    row = np.arange(n) < ones
    orders = np.random.default_rng((n, ones)).permuted(np.tile(row, (PERMUTATIONS, 1)), axis=1)
    return float(lempel_ziv_words(orders).mean())


def permutation_entropy(
    x: Signal | Tensor,
    dim: str | int,
    *,
    order: int = 3,
    delay: int = 1,
    normalised: bool = True,
    lengths: Tensor | None = None,
) -> Tensor:
    """Return the permutation entropy of each record: of the orders that neighbouring values stand in.

    Parameters
    ----------
    x, dim, lengths
        As in `median_split`.
    order
        How many values make a pattern, 2 to `LARGEST_ORDER`.
    delay
        Positions between them, at least 1.
    normalised
        Divide by ``ln(order!)``, so that 1 is any order as often as any other. Without it, in nat.

    Returns
    -------
    Tensor
        ``[...]``, of the dtype of ``x``: in [0, 1], or in [0, ln(order!)].

    Raises
    ------
    AxisError
        If the axis has no order.
    ParameterError
        If order or delay are outside their range.
    RecordError
        If a record is too short to have a pattern.

    Notes
    -----
    Bandt and Pompe (2002): ``H = - sum p ln p`` over the patterns of ``x(t), x(t + delay), ...``. Equal
    values count as rising. Of m patterns H is low by about ``(order! - 1) / (2 m)`` nat: it needs records of
    many times ``order!`` positions.
    """
    if not (isinstance(order, int) and 2 <= order <= LARGEST_ORDER):
        raise ParameterError(
            wrong_parameter("permutation entropy", "order", f"between 2 and {LARGEST_ORDER}", order)
        )
    if not (isinstance(delay, int) and delay >= 1):
        raise ParameterError(
            wrong_parameter("permutation entropy", "delay", "an integer of at least 1", delay)
        )
    records = real_records(x, dim, "permutation entropy", lengths)
    reach = (order - 1) * delay
    records.at_least(reach + 1, "permutation entropy")

    def entropy(rows: Tensor) -> Tensor:
        n = rows.shape[1] - reach
        values = [rows[:, at * delay : at * delay + n] for at in range(order)]
        code = torch.zeros(len(rows), n, dtype=torch.int32, device=rows.device)
        for first in range(order - 1):
            # How many of those that come after are smaller: the digits of the Lehmer code.
            code *= order - first
            for later in values[first + 1 :]:
                code += later < values[first]
        kinds = math.factorial(order)
        offset = kinds * torch.arange(len(rows), device=rows.device)[:, None]
        counts = torch.bincount((code + offset).flatten(), minlength=kinds * len(rows)).reshape(-1, kinds)
        share = counts.double() / n
        found = -torch.special.xlogy(share, share).sum(dim=1)
        found = found / math.log(kinds) if normalised else found
        entropies: Tensor = found.abs().to(rows.dtype)  # never -0
        return entropies

    return records.summary(entropy)


def compression_ratio(
    x: Signal | Tensor, dim: str | int, *, levels: int = 2, lengths: Tensor | None = None
) -> Tensor:
    """Return how far each record can be compressed when only the rank of its values is kept.

    Parameters
    ----------
    x, dim, lengths
        As in `median_split`.
    levels
        How many symbols: bins that hold as many values each, 2 to 256; 2 is the median split. Equal values
        go by their position.

    Returns
    -------
    Tensor
        float64 ``[...]``: bits of the compressed record for each bit of ``n log2(levels)``. Near 1 or a
        little above for noise.

    Raises
    ------
    AxisError
        If the axis has no order.
    ParameterError
        If ``levels`` is outside its range.

    Notes
    -----
    One byte a symbol, deflate (zlib) at level 9 without header or checksum. It looks 32,768 symbols back
    and finds words of three and more; a record of less than some hundred positions is mostly overhead.
    """
    if not (isinstance(levels, int) and 2 <= levels <= 256):
        raise ParameterError(wrong_parameter("compression_ratio", "levels", "between 2 and 256", levels))
    records = real_records(x, dim, "a compression ratio", lengths)

    def ratio(rows: Tensor) -> Tensor:
        n = rows.shape[1]
        rank = rows.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
        symbols = (rank * levels // n).to(torch.uint8).cpu().numpy()
        bits = [8 * len(_deflated(row.tobytes())) for row in symbols]
        return torch.tensor(bits, dtype=torch.float64, device=rows.device) / (n * math.log2(levels))

    return records.summary(ratio)


def _deflated(data: bytes) -> bytes:
    machine = zlib.compressobj(9, zlib.DEFLATED, -15)
    return machine.compress(data) + machine.flush()


def participation_ratio(
    x: Signal | Tensor, dim: str | int, over: str | int, *, lengths: Tensor | None = None
) -> Tensor:
    """Return how many directions a cloud of vectors fills evenly: ``tr(C)^2 / ||C||_F^2``.

    Parameters
    ----------
    x
        A signal, or a real tensor.
    dim
        The axis of samples: ``token``.
    over
        The axis of components: ``d_model``. It needs no order: directions can be turned.
    lengths
        Samples of each cloud of a tensor, integers that broadcast to its shape without both axes.

    Returns
    -------
    Tensor
        ``[...]`` without both axes, from 1 to the smaller of components and samples less one. Not-a-number
        where all vectors are the same.

    Raises
    ------
    AxisError
        If ``dim`` has no order, or both are one axis.
    RecordError
        If a cloud has fewer than two samples.

    Notes
    -----
    C is the covariance of the components over samples. With the eigenvalues l of C it is ``(sum l)^2 / sum
    l^2``; it is computed without them, from the smaller of the two Gram matrices. Few samples make
    it small: compare clouds of one size.
    """
    shape = x.values.shape if isinstance(x, Signal) else x.shape
    ndim = len(shape)
    axis, other = (_axis(x, name) % ndim for name in (dim, over))
    if axis == other:
        raise AxisError(f"A covariance needs an axis of samples and one of components; got {dim!r} for both.")
    if lengths is not None:
        lengths = lengths.expand(*(size for at, size in enumerate(shape) if at not in (axis, other)))
        lengths = lengths.unsqueeze(other - (other > axis))
    records = real_records(x, dim, "a covariance", lengths)
    records.at_least(2, "a covariance", "samples")
    place = other - (other > axis)
    kept = [size for at, size in enumerate(records.shape) if at != place]

    def clouds(values: Tensor) -> Tensor:
        """Return ``[cloud, component, ...]`` from ``[record, ...]``."""
        moved = values.reshape(*records.shape, *values.shape[1:]).movedim(place, len(kept))
        return moved.reshape(-1, records.shape[place], *values.shape[1:])

    counts, values = clouds(records.lengths)[:, 0], clouds(records.rows)
    out = values.new_zeros(len(counts))
    for length in torch.unique(counts).tolist():
        which = torch.nonzero(counts == length).squeeze(1)
        out[which] = _participation(values[which, :, :length])
    return out.reshape(kept)


def _participation(values: Tensor) -> Tensor:
    """Return the ratio of clouds ``[cloud, component, sample]``."""
    centred = values - values.mean(dim=2, keepdim=True)
    n_components, n = centred.shape[1:]
    gram = centred @ centred.mT if n_components < n else centred.mT @ centred
    trace, square = (centred**2).sum(dim=(1, 2)), (gram**2).sum(dim=(1, 2))
    # Vectors that are all the same leave the rounding error of their mean.
    rounding = torch.finfo(values.dtype).eps * values.abs().amax(dim=(1, 2))
    spread = trace > n * n_components * rounding**2
    return torch.where(spread, trace**2 / torch.where(spread, square, 1.0), torch.nan)


def _axis(x: Signal | Tensor, axis: str | int) -> int:
    if isinstance(x, Signal):
        if not isinstance(axis, str):
            raise AxisError(f"A signal's axis goes by its name, one of {', '.join(x.axes)}; got {axis!r}.")
        return x.dim(axis)
    if isinstance(axis, str) or not -x.ndim <= axis < x.ndim:
        raise AxisError(f"A tensor of shape {tuple(x.shape)} has no dimension {axis!r}.")
    return axis
