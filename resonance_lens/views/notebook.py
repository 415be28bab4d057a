"""The view of a result, or of a run, inside a notebook."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from pathlib import Path

from resonance_lens.files import write_text
from resonance_lens.result import Result
from resonance_lens.runs import Run

HEIGHT = 720
"""Pixels, unless asked otherwise."""


@dataclass(frozen=True)
class NotebookView:
    """A page that a notebook shows in a frame of its own.

    Ids, styles and scripts stay inside the frame, which has no access to the notebook.

    Attributes
    ----------
    title
        For those who do not see the frame.
    page
        The whole page.
    height
        Of the frame, in pixels; it can be dragged larger.
    """

    title: str
    page: str = field(repr=False)
    height: int = HEIGHT

    def save(self, path: str | Path) -> Path:
        """Write the page to a file of its own, which opens without a network."""
        path = Path(path)
        write_text(path, self.page)
        return path

    def _repr_html_(self) -> str:
        return (
            f'<iframe title="{html.escape(self.title)}" sandbox="allow-scripts" '
            f'style="width: 100%; height: {self.height}px; border: 0; resize: vertical" '
            f'srcdoc="{html.escape(self.page)}"></iframe>'
        )


def show(shown: Result | Run, *, height: int = HEIGHT) -> NotebookView:
    """Return a view of a result or a whole run for a notebook.

    Parameters
    ----------
    shown
        What to show.
    height
        Of the frame, in pixels.
    """
    from resonance_lens.views.page import render

    if isinstance(shown, Run):
        return NotebookView("resonance_lens run", render(shown), height)
    alone = Run(results={shown.name: shown}, provenance=shown.provenance, exhibits=shown.exhibits)
    return NotebookView(f"resonance_lens: {shown.name}", render(alone, whole=False), height)
