"""Draw the first figure of the README: `python docs/images/frequency_response.py`, some minutes.

The model and its random-weight twin are driven alike, each with its own bounds over prompts.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import resonance_lens as rl
from resonance_lens.hooks import attach
from resonance_lens.hooks.twin import random_twin
from resonance_lens.result import Result, ViewSpec
from resonance_lens.views.figures import draw, save

HERE = Path(__file__).parent
LAYER, LAST = 5, 29


def driven(model: Any, prompts: list[list[int]], out: Path | None) -> Result:
    """Return the response of a model to waves that enter before the layer."""
    settings = {"frequency_response": {"layer": LAYER, "directions": 3}}
    run = rl.run(
        model, prompts, "frequency_response", parameters=settings, baselines=(), out=out, progress=False
    )
    return run["frequency_response"]


def main(kept: Path | None) -> None:
    """Measure, or go on with what is kept in a folder, and draw in both themes."""
    model = rl.load_model("smollm2-135m", progress=False)
    prompts = [model.tokenizer(text.text)["input_ids"][:256] for text in rl.corpus("prose")[::8]]
    result = driven(model, prompts, kept and kept / "model")
    twin = driven(random_twin(attach(model), seed=0), prompts, kept and kept / "twin")
    bounds = ("", "_low", "_high")
    beside = {f"gain_rms_random_weights{end}": twin.data[f"gain_rms{end}"] for end in bounds}
    data = result.data.assign(beside)
    data["gain_rms_random_weights"].attrs["long_name"] = "random weights"
    view = ViewSpec(
        kind="bode",
        title=f"SmolLM2-135M, driven with small waves before layer {LAYER}",
        says="",
        misleads="",
        variables=("gain_rms", "phase"),
        references=("gain_rms_random_weights",),
        reference_select={"layer": LAST},
        select={"driven": LAYER, "category": "all", "layer": list(range(LAYER, LAST + 1))},
        over="frequency",
        series="layer",
    )
    shown = Result(name=result.name, data=data, provenance=result.provenance)
    for theme in ("light", "dark"):
        save(draw(view, shown, theme=theme), HERE / f"frequency_response-{theme}.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
