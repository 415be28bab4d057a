"""The check that a p means what it says: a record of trials that is there, is sound, and comes out again."""

from __future__ import annotations

from resonance_lens.calibrating import stale
from resonance_lens.calibration import calibration_of, command, uncalibrated
from resonance_lens.checks.common import Subject, class_of, require
from resonance_lens.hooks.adapter import Adapter


def check_calibrated(subject: Subject, host: Adapter | None = None) -> None:
    """Every claim has been tried in every world, was wrong no more often than it says, and would be again."""
    analysis = class_of(subject)()  # its defaults are what was tried
    claimed = {claim.null for claim in analysis.claims}
    untested = [name for name in analysis.nulls if name not in claimed]
    require(
        not untested, f"The null {', '.join(untested)} is named, and nothing is claimed against it with a p."
    )
    problem = uncalibrated(analysis)
    require(not problem, f"uncalibrated: {problem}")
    record = calibration_of(analysis)
    if record is not None:
        found = stale(analysis, record)
        require(not found, f"uncalibrated: {found}; make another with {command(analysis.name)}")


CHECKS = (check_calibrated,)
