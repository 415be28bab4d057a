"""Figures of a page: laid out as matplotlib saves them, and pictures in a palette of the same pixels."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image

from resonance_lens.views import svg
from resonance_lens.views.build import build
from resonance_lens.views.figures import draw_content, undated
from resonance_lens.views.theme import LIGHT
from tests.views.example_results import phase_coherence


def png_of(pixels: Any) -> bytes:
    written = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8), mode="RGBA").save(written, "png")
    return written.getvalue()


def pixels_of(png: bytes) -> Any:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGBA"))


@pytest.mark.parametrize("n_colours", [1, 2, 200, 256, 300])
def test_a_palette_keeps_every_pixel(n_colours: int) -> None:
    rng = np.random.default_rng(n_colours)
    colours = rng.integers(1, 256, size=(n_colours, 4))
    colours[:, 1] = np.arange(n_colours) % 256  # so that no two are the same
    pixels = colours[np.arange(1200) % n_colours].reshape(40, 30, 4)
    png = png_of(pixels)
    smaller = svg.with_palette(png)
    np.testing.assert_array_equal(pixels_of(smaller), pixels)
    assert (smaller == png) if n_colours > 256 else len(smaller) < len(png)


def test_a_figure_is_laid_out_as_it_is_when_matplotlib_saves_it() -> None:
    result = phase_coherence(np.random.default_rng(0), 4, 3)
    for spec in result.views:
        shown = build(spec, result)
        theme, stands_for = svg.placeholders(LIGHT)
        figure = draw_content(shown, theme=theme, title=False, interpolation="none")
        text = io.StringIO()
        with matplotlib.rc_context({"svg.hashsalt": "resonance_lens", "svg.fonttype": "none"}):
            figure.savefig(text, format="svg", metadata=undated("svg"), transparent=True, dpi=144)
        name, made = svg.inline(shown, key="k", description="d")[0]
        assert made == svg.adapt(text.getvalue(), stands_for, key=f"k-{name}", description="d", tips={})
