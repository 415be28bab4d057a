"""The report: one HTML page that opens from disk, needs no network, and escapes everything in it."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from markupsafe import Markup

from resonance_lens.errors import ResultError
from resonance_lens.files import write_text
from resonance_lens.registry import EVIDENCE
from resonance_lens.result import Result, ViewSpec
from resonance_lens.views import circuits, effects, strips, svg, tables
from resonance_lens.views.build import build
from resonance_lens.views.circuits import Mount
from resonance_lens.views.content import Heads, Line, Lines
from resonance_lens.views.figures import WIDTH, width
from resonance_lens.views.record import describe
from resonance_lens.views.strips import Strips
from resonance_lens.views.sweeps import Sweep, packed
from resonance_lens.views.text import number, script_json, words
from resonance_lens.views.theme import DARK, LIGHT, variables
from resonance_lens.views.token_values import TokenValues

if TYPE_CHECKING:
    from resonance_lens.runs import Run

PATTERN_BUDGET = 1_500_000
"""Most characters that the patterns of the interactive views take; the rest stay still pictures."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One view, as the template needs it."""

    key: str
    view: ViewSpec
    notes: tuple[str, ...]
    wide: bool = False
    figures: tuple[tuple[str, Markup], ...] = ()
    strips: tuple[Strips, ...] = ()
    mounts: tuple[tuple[str, Mount], ...] = ()
    sweep: Sweep | None = None
    left_out: int = 0
    interactive: bool = False
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One analysis, as the template needs it."""

    result: Result
    title: str
    evidence: str
    meaning: str
    calibration: tuple[str, str] | None
    found: tuple[tables.Found, ...]
    declared: list[tuple[str, str]]
    method: str
    trace: dict[str, Any] | None
    views: tuple[Shown, ...]
    table: tables.Table | None
    provenance: str


def write_report(run: Run, path: str | Path) -> Path:
    """Write the report of a run as one HTML file, whole or not at all, and return where it is."""
    path = Path(path)
    write_text(path, render(run))
    return path


def render(run: Run, *, whole: bool = True) -> str:
    """Return the report of a run as HTML; ``whole=False`` leaves out what is about the whole run."""
    bundle = circuits.bundle()
    packer = circuits.Packer(PATTERN_BUDGET)
    sections = tuple(
        _section(result, f"a{i}", packer if bundle else None) for i, result in enumerate(run.results.values())
    )
    measured = replace(
        run, results={name: result for name, result in run.results.items() if not effects.patched(result)}
    )
    sweeps = {
        shown.key: packed(shown.sweep)
        for section in sections
        for shown in section.views
        if shown.sweep is not None
    }
    scripts = [_template("page.js").render(), *([_template("scope.js").render()] if sweeps else [])]
    if packer.views:
        scripts.insert(0, bundle or "")
    model = run.provenance.get("model") or {}
    text = _template("report.html").render(
        whole=whole,
        title=str(model.get("model_name") or "a model"),
        prompts=(run.provenance.get("prompts") or {}).get("count"),
        facts=tables.facts(run.provenance),
        evidence=EVIDENCE,
        sections=sections,
        places=tables.places(measured),
        only_patched=bool(run.results) and not measured.results,
        interactive=bundle is not None,
        missing=circuits.MISSING,
        provenance=tables.provenance_json(run.provenance),
        versions=run.provenance.get("versions") or {},
        light=Markup(variables(LIGHT)),
        dark=Markup(variables(DARK)),
        hashes=Markup(" ".join(_hash(script) for script in scripts)),
        data=Markup(script_json({"views": packer.views, "patterns": packer.patterns, "sweeps": sweeps})),
        scripts=[Markup(script) for script in scripts],
    )
    # A lone half of a surrogate pair, which UTF-8 cannot hold, becomes a question mark.
    return text.encode("utf-8", "replace").decode("utf-8")


def _section(result: Result, key: str, packer: circuits.Packer | None) -> Section:
    about = result.provenance
    evidence = str(about.get("evidence", "not stated"))
    views = [_shown(view, result, f"{key}v{i}", packer) for i, view in enumerate(result.views)]
    return Section(
        result=result,
        title=str(about.get("title") or words(result.name)).rstrip("."),
        evidence=evidence,
        meaning=EVIDENCE.get(evidence, "this level is not one that resonance_lens defines"),
        calibration=tables.calibration(result),
        found=effects.tables(result) if effects.patched(result) else tables.found(result),
        declared=effects.declared(result) if effects.patched(result) else tables.declared(result),
        method=tables.method(result),
        trace=_trace(result),
        views=tuple(views),
        table=tables.by_layer(result),
        provenance=tables.provenance_json(about),
    )


def _shown(view: ViewSpec, result: Result, key: str, packer: circuits.Packer | None) -> Shown:
    try:
        content = build(view, result)
    except ResultError as error:
        # One view that a third party declared wrongly must not cost the whole page.
        return Shown(key=key, view=view, notes=(), error=str(error))
    if not isinstance(content, Heads | TokenValues):
        wide = width(content) > WIDTH
        figures = _figures(content, key)
        played = content if isinstance(content, Sweep) else None
        return Shown(key=key, view=view, notes=content.notes, wide=wide, figures=figures, sweep=played)
    if isinstance(content, Heads) and not content.exhibits:
        return Shown(key=key, view=view, notes=content.notes)
    mounts = [(f"{key}m{i}", mount) for i, mount in enumerate(circuits.mounts(content))]
    kept = tuple(m for m in mounts if packer is not None and packer.add(*m))
    left_out = len(mounts) - len(kept) if packer is not None else 0
    if isinstance(content, TokenValues):
        notes = (*content.notes, *([circuits.NO_CIRCLE] if content.cyclic and packer is not None else []))
        return Shown(
            key=key,
            view=view,
            notes=notes,
            strips=strips.of_values(content),
            mounts=kept,
            interactive=not content.cyclic,
        )
    if view.kind == "colored_tokens":
        of_prompts = tuple(strips.of_exhibit(exhibit) for exhibit in content.exhibits[: strips.PROMPTS])
        notes = (circuits.RECEIVED, *content.notes)
        return Shown(
            key=key,
            view=view,
            notes=notes,
            strips=of_prompts,
            mounts=kept,
            left_out=left_out,
            interactive=True,
        )
    return Shown(
        key=key,
        view=view,
        notes=content.notes,
        figures=_figures(content, key),
        mounts=kept,
        left_out=left_out,
        interactive=True,
    )


def _figures(content: Any, key: str) -> tuple[tuple[str, Markup], ...]:
    drawn = svg.inline(content, key=key, description=describe(content))
    return tuple((theme, Markup(text)) for theme, text in drawn)


def _trace(result: Result) -> dict[str, Any] | None:
    """Return the line figure of the headline, or else the first, as a small trace without axes."""
    headline = result.provenance.get("headline")
    drawn = [view for view in result.views if view.kind in ("lines", "bode")]
    for view in sorted(drawn, key=lambda view: view.variables[:1] != (headline,)):
        try:
            content = build(view, result)
        except ResultError:
            continue
        if isinstance(content, Lines) and len(content.panels[0].lines[0].x) > 1:
            return _small(content)
    return None


def _small(content: Lines) -> dict[str, Any] | None:
    panel = content.panels[0]
    values = [line for line in panel.lines if not line.reference]
    if content.view.panels is not None:
        # Panels along a dimension show one variable: together they are the lines of one trace.
        values = [
            replace(line, label=one.title)
            for one in content.panels
            for line in one.lines
            if not line.reference
        ]
    null = next((line for line in panel.lines if line.reference), None)
    values, null = [_placed(line, content.view) for line in values], null and _placed(null, content.view)
    named = len(values) > 1
    if len(values) > 2:
        # Of lines along depth the last is where they lead.
        shades = content.shades
        values = (
            values[:1] if shades is None else [replace(values[-1], label=f"{shades[0]} {values[-1].label}")]
        )
    every = np.concatenate([line.y for line in (*values, *([null] if null else []))])
    if not np.isfinite(every).any():
        return None
    low, high = float(np.nanmin(every)), float(np.nanmax(every))
    span = (high - low) or 1.0

    def points(line: Any) -> str:
        x = 200 * (line.x - line.x[0]) / (line.x[-1] - line.x[0])
        y = 44 - 40 * (line.y - low) / span
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True) if np.isfinite(b))

    ends = values[0].x[[0, -1]]
    ends, (low, high) = (
        (10**ends if content.view.x_scale == "log" else ends),
        ((10**low, 10**high) if content.view.y_scale == "log" else (low, high)),
    )
    return {
        "label": f"{panel.label} ({panel.units})",
        "values": [points(line) for line in values],
        "names": [line.label for line in values] if named else [],
        "null": points(null) if null else "",
        "low": number(low),
        "high": number(high),
        "over": content.x_label,
        "first": number(float(ends[0])),
        "last": number(float(ends[1])),
    }


def _placed(line: Line, view: ViewSpec) -> Line:
    """Return a line as it lies on its axes: logarithms where they are logarithmic."""
    x = np.log10(line.x) if view.x_scale == "log" else line.x
    return replace(line, x=x, y=np.log10(line.y) if view.y_scale == "log" else line.y)


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("resonance_lens.views"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _hash(script: str) -> str:
    """Return what the page's content security policy must say to allow this script and no other."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"
