"""The common checks, for whoever writes an analysis or brings a model.

`check_analysis` says what an analysis lacks, `check_model` whether a model serves what it should.
`PlantedAdapter` and `measure` try an analysis on input made by hand, in tests of its own. `calibrate`
tries what an analysis claims with a p, on many inputs where nothing is to be found.

Examples
--------
>>> from resonance_lens.registry import get_analysis
>>> from resonance_lens.testing import check_analysis
>>> check_analysis(get_analysis("attention_entropy"))
"""

from __future__ import annotations

import warnings
from typing import Any

from resonance_lens.calibrating import calibrate
from resonance_lens.checks import CHECKS, HOST_CHECKS
from resonance_lens.checks.common import Subject, class_of
from resonance_lens.dsp.large import one_thread
from resonance_lens.errors import AdapterError, AnalysisError
from resonance_lens.hooks import Proof, attach, prove
from resonance_lens.trials import PlantedAdapter, measure, part_of, result_of

__all__ = [
    "CHECKS",
    "HOST_CHECKS",
    "PlantedAdapter",
    "calibrate",
    "check_analysis",
    "check_model",
    "measure",
    "part_of",
    "result_of",
]


def check_analysis(analysis: Subject, host: Any = None) -> None:
    """Run every common check on an analysis, and say all that it lacks in one message.

    Parameters
    ----------
    analysis
        A class, which is checked with its defaults, or an instance with parameters of its own.
    host
        A model (anything that ``run`` takes) to check it on too; without one it is checked on what
        it plants itself.

    Raises
    ------
    AnalysisError
        If a check fails: one line for each that does, with the name of the check.

    Notes
    -----
    Warnings of numpy about numbers that do not exist count as failures. Whether nulls are calibrated is
    read from a record, of which a few trials are made again; `calibrate` makes it, which takes minutes.
    """
    adapter = None if host is None else attach(host)
    checks = (*CHECKS, *(() if adapter is None else HOST_CHECKS))
    failures = []
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for check in checks:
            try:
                check(analysis, adapter)
            except Exception as error:  # whatever an unfinished analysis raises is what it lacks
                what = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
                failures.append(f"  {check.__name__}: {what}{error}")
    if failures:
        name = getattr(class_of(analysis), "name", class_of(analysis).__name__)
        listing = "\n".join(failures)
        raise AnalysisError(f"{name} fails {len(failures)} of {len(checks)} checks:\n{listing}")


def check_model(model: Any) -> list[Proof]:
    """Have the adapter of a model prove itself at every site, and return what it found.

    Parameters
    ----------
    model
        Anything that ``run`` takes and that can be run.

    Returns
    -------
    list of Proof
        One for each site. A site that the model does not have is no problem: its ``missing`` says why.

    Raises
    ------
    AdapterError
        If there is a problem at a site: one line for each.
    """
    adapter = attach(model)
    if not adapter.runs:
        raise AdapterError("A cache holds one pass and cannot prove itself; check the model that made it.")
    table = prove(adapter)
    problems = [f"  {proof.site}: {proof.problem}" for proof in table if proof.problem]
    if problems:
        listing = "\n".join(problems)
        raise AdapterError(f"{adapter.facts.model_name} has problems at {len(problems)} sites:\n{listing}")
    return table
