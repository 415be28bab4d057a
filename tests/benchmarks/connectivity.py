"""Connectivity of all pairs of heads beside MNE-Connectivity: ``python -m tests.benchmarks.connectivity``.

Both are given the same series, in float64 on the same threads, and return the same numbers; the largest
difference is printed, and a case that differs by more than `AGREE` stops the benchmark. They are timed one
after the other, so that the machine's speed drifts out: by the clock, and by the processors, where a thread
that waits for another counts as well.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from resonance_lens.dsp.coherence import coherence_matrix
from resonance_lens.dsp.phase_locking import phase_locking_value, weighted_phase_lag_index

AGREE = 1e-6
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """One measure of connectivity.

    Attributes
    ----------
    name
        What the row is called.
    method
        Of ``mne_connectivity.spectral_connectivity_epochs``.
    ours
        Takes series ``[epoch, series, position]``, returns ``[frequency, series, series]``.
    theirs
        Makes of what MNE returns the same quantity as ours.
    wanted
        The ratio that issue 4 asks for.
    """

    name: str
    method: str
    ours: Callable[[torch.Tensor], torch.Tensor]
    theirs: Callable[[Floats], Floats]
    wanted: float


def coherence(series: torch.Tensor) -> torch.Tensor:
    """Return magnitude-squared coherence with MNE's window: Hann, symmetric."""
    n = series.shape[-1]
    return coherence_matrix(series, -1, 1, segment=n, window=symmetric_hann(n)).values


def imaginary(series: torch.Tensor) -> torch.Tensor:
    """Return the imaginary part of coherency with the same window."""
    n = series.shape[-1]
    window = symmetric_hann(n)
    return coherence_matrix(series, -1, 1, segment=n, window=window, measure="imaginary").values


def symmetric_hann(n: int) -> torch.Tensor:
    """Return the window of MNE's mode ``fourier``."""
    return torch.from_numpy(np.hanning(n))


def locking(measure: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a measure of phase locking between the spectra of segments, with the same window."""

    def ours(series: torch.Tensor) -> torch.Tensor:
        n = series.shape[-1]
        demeaned = series - series.mean(-1, keepdim=True)
        return measure(torch.fft.rfft(demeaned * symmetric_hann(n)).mT)  # [epoch, frequency, series]

    return ours


CASES = [
    Case("coherence", "coh", coherence, np.square, 10.0),
    Case("imaginary coherency", "imcoh", imaginary, np.negative, 10.0),
    Case("phase locking value", "plv", locking(phase_locking_value), np.abs, 5.0),
    Case("weighted phase lag", "wpli", locking(weighted_phase_lag_index), np.abs, 3.0),
]


def mne(series: Floats, method: str) -> Floats:
    """Return ``[frequency, series, series]`` from MNE-Connectivity, of which it fills the lower triangle."""
    from mne_connectivity import spectral_connectivity_epochs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = spectral_connectivity_epochs(
            series, method=method, mode="fourier", sfreq=1.0, fmin=0.0, fmax=0.5, verbose="error"
        )
    return np.moveaxis(np.asarray(found.get_data("dense"), dtype=np.float64), -1, 0)


def now() -> Floats:
    """Return the time by the clock and of the processors, in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def compare(case: Case, series: Floats, repeats: int) -> tuple[Floats, Floats, float]:
    """Return seconds of ours and of theirs (medians), and the largest difference between the results.

    Seconds are by the clock and of the processors, ``[2]``.
    """
    ours: list[Floats] = []
    theirs: list[Floats] = []
    tensor = torch.from_numpy(series)
    one, other = np.empty(0), np.empty(0)
    case.ours(tensor)
    for _ in range(repeats):
        began = now()
        one = case.ours(tensor).numpy()
        between = now()
        other = mne(series, case.method)
        ours.append(between - began)
        theirs.append(now() - between)
    i, j = np.tril_indices(series.shape[1], -1)
    # MNE may leave out frequency 0, which a record without its mean does not have.
    gap = np.abs(one[-len(other) :, i, j] - case.theirs(other[:, i, j]))
    return np.median(ours, axis=0), np.median(theirs, axis=0), float(gap[1:].max())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.connectivity", description=__doc__)
    parser.add_argument("--heads", type=int, default=270, help="series")
    parser.add_argument("--epochs", type=int, default=24, help="segments")
    parser.add_argument("--tokens", type=int, default=256, help="positions of a segment")
    parser.add_argument("--repeats", type=int, default=3, help="times that both are timed")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    series = rng.standard_normal((options.epochs, options.heads, options.tokens))
    series += 0.5 * rng.standard_normal((options.epochs, 1, options.tokens))
    print(
        f"{options.heads} series, {options.epochs} segments of {options.tokens}, float64, "
        f"{torch.get_num_threads()} threads"
    )
    print(f"{'':24}{'ours, ms':>10}{'MNE, ms':>10}{'ratio':>8}{'of CPU':>8}{'wanted':>8}{'difference':>12}")
    for case in CASES:
        ours, theirs, gap = compare(case, series, options.repeats)
        clock, processors = theirs / ours
        print(
            f"{case.name:24}{ours[0] * 1e3:10.0f}{theirs[0] * 1e3:10.0f}{clock:8.1f}{processors:8.1f}"
            f"{case.wanted:8.0f}{gap:12.1e}"
        )
        if gap > AGREE:
            raise SystemExit(f"{case.name} differs by {gap:.1e}.")


if __name__ == "__main__":
    main()
