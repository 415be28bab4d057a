"""Figures as inline SVG that takes its colours and its font from the page around it."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from PIL import Image as Picture

from resonance_lens.views.build import Shown
from resonance_lens.views.content import Map
from resonance_lens.views.figures import draw_content, undated
from resonance_lens.views.images import Image
from resonance_lens.views.plots_scatter import tips
from resonance_lens.views.scatters import Scatter
from resonance_lens.views.theme import DARK, LIGHT, Theme, names

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
PNG = "data:image/png;base64,"
HREF = f"{{{XLINK}}}href"


def inline(shown: Shown, *, key: str, description: str) -> list[tuple[str, str]]:
    """Return the figure of a view as ``(theme, svg)``; the theme is ``any``, ``light`` or ``dark``.

    One figure serves both themes, except where the neutral colour of the map differs between them.

    Parameters
    ----------
    key
        Prefix of every id, so that figures on one page do not share any.
    description
        For those who do not see the figure.
    """
    if isinstance(shown, Map | Image) and shown.view.colours == "diverging":
        themes: tuple[tuple[str, Theme], ...] = (("light", LIGHT), ("dark", DARK))
    else:
        themes = (("any", LIGHT),)
    return [(name, _one(shown, theme, f"{key}-{name}", description)) for name, theme in themes]


def _one(shown: Shown, theme: Theme, key: str, description: str) -> str:
    placeholder, stands_for = placeholders(theme)
    figure = draw_content(shown, theme=placeholder, title=False, interpolation="none")
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "resonance_lens", "svg.fonttype": "none"}):
        FigureCanvasSVG(figure)  # which measures words as they will stand in the page
        if figure.axes and (layout := figure.get_layout_engine()) is not None:
            # Saving would draw all of it once for the layout's sake, and once more.
            layout.execute(figure)
            figure.set_layout_engine(None)
        figure.savefig(text, format="svg", metadata=undated("svg"), transparent=True, dpi=144)
    said = tips(shown) if isinstance(shown, Scatter) else {}
    return adapt(text.getvalue(), stands_for, key=key, description=description, tips=said)


def placeholders(base: Theme) -> tuple[Theme, dict[str, str]]:
    """Return a theme of colours that occur nowhere else, and the CSS variable that each stands for."""
    every = {name: f"#fe{i:02x}{(7 * i) % 251:02x}" for i, name in enumerate(names(base))}
    series, beam = (
        tuple(value for name, value in every.items() if name.startswith(f"{family}-"))
        for family in ("series", "beam")
    )
    plain = {name: value for name, value in every.items() if not name.startswith(("series-", "beam-"))}
    stands_for = {value: f"var(--{name})" for name, value in every.items()}
    return Theme(**plain, series=series, diverging=base.diverging, beam=beam), stands_for


def adapt(
    text: str,
    stands_for: dict[str, str],
    *,
    key: str,
    description: str,
    tips: Mapping[str, Sequence[str]],
) -> str:
    """Return SVG made for a file as SVG made for inside a page.

    ``tips`` has, by the id of a group of marks, what each mark says when it is pointed at.
    """
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(text)
    _point_out(root, tips)
    referenced = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", text))
    for parent in list(root.iter()):
        for child in list(parent):
            # A style element inside a page is about the whole page.
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
        _adapt(parent, stands_for, key, referenced)
    for parent in root.iter():
        _share_style(parent)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", description)
    return ElementTree.tostring(root, encoding="unicode")


def _adapt(element: ElementTree.Element, stands_for: dict[str, str], key: str, referenced: set[str]) -> None:
    attributes = element.attrib
    identity = attributes.pop("id", None)
    if identity in referenced:
        attributes["id"] = f"{key}-{identity}"
    if attributes.get(HREF, "").startswith("#"):
        attributes[HREF] = f"#{key}-{attributes[HREF][1:]}"
    if "clip-path" in attributes:
        attributes["clip-path"] = attributes["clip-path"].replace("url(#", f"url(#{key}-")
    if "style" in attributes:
        style = re.sub(r"#[0-9a-f]{6}\b", lambda m: stands_for.get(m[0], m[0]), attributes["style"])
        # The size stays; the family is the page's.
        attributes["style"] = re.sub(r"font-family: [^;]*;? ?", "", style)
    if attributes.get(HREF, "").startswith(PNG):
        picture = base64.b64decode(attributes[HREF].removeprefix(PNG))
        attributes[HREF] = PNG + base64.b64encode(with_palette(picture)).decode("ascii")
    for name in ("d", "x", "y"):
        if name in attributes:
            attributes[name] = re.sub(r"-?\d+\.\d{3,}", _short, attributes[name])


def _point_out(root: ElementTree.Element, tips: Mapping[str, Sequence[str]]) -> None:
    for group in root.iter():
        said = tips.get(group.get("id", ""))
        if said is None:
            continue
        # A mark of many corners is defined once and used; one of few is drawn each time.
        marks = list(group.iter(f"{{{SVG}}}use")) or list(group.iter(f"{{{SVG}}}path"))
        for mark, words in zip(marks, said, strict=True):
            ElementTree.SubElement(mark, f"{{{SVG}}}title").text = words


def with_palette(png: bytes) -> bytes:
    """Return a PNG with the same pixels and a palette, which is smaller, where its colours allow it."""
    with Picture.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGBA"))
    # Four bytes as one number: rows of four are sorted ten times as slowly.
    colours, indices = np.unique(pixels.reshape(-1, 4).view(">u4"), return_inverse=True)
    colours = colours.view(np.uint8).reshape(-1, 4)
    if len(colours) > 256:
        return png
    smaller = Picture.fromarray(indices.reshape(pixels.shape[:2]).astype(np.uint8), mode="P")
    smaller.putpalette(colours[:, :3].tobytes(), rawmode="RGB")
    written = io.BytesIO()
    smaller.save(written, "png", optimize=True, transparency=colours[:, 3].tobytes())
    return min(png, written.getvalue(), key=len)


def _short(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")


def _share_style(parent: ElementTree.Element) -> None:
    """Say once what many marks have in common."""
    styles = {child.get("style") for child in parent}
    marks = all(child.tag == f"{{{SVG}}}use" for child in parent)
    if marks and len(parent) > 1 and len(styles) == 1:
        for child in parent:
            child.attrib.pop("style", None)
        parent.set("style", str(styles.pop()))
