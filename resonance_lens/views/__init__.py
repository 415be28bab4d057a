"""Drawing results: figures, CircuitsVis views, the notebook view and the report page."""

from resonance_lens.views.notebook import NotebookView, show
from resonance_lens.views.record import record

__all__ = ["NotebookView", "record", "show"]
