"""A package of somebody else's, really installed, brings an analysis and an adapter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers
import xarray as xr

from tests.models import tokenizer

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "tests" / "plugin_package"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the package as pip does, from a copy, so that nothing is left beside its source."""
    folder = tmp_path_factory.mktemp("plugin")
    copy, target = folder / "source", folder / "target"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*pip, "--quiet", "--disable-pip-version-check", "--target", str(target), str(copy)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny model as a user would have it in a folder."""
    folder = tmp_path_factory.mktemp("model")
    config = transformers.LlamaConfig(
        vocab_size=53,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def run(installed: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the package on its path."""
    paths = os.pathsep.join([str(installed), str(ROOT)])
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )


def cli(installed: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with the package on its path."""
    return run(installed, "-m", "resonance_lens.cli", *arguments, **environment)


def test_it_is_listed_without_being_imported(installed: Path) -> None:
    done = cli(installed, "list", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (entry,) = (e for e in json.loads(done.stdout) if e["name"] == "attention_to_self")
    assert entry["package"] == "attention-extras"
    # What it says of itself is read from its source.
    assert entry["about"]["evidence"] == "measured"
    assert entry["parameters"]["scale"]["choices"] == ["weight", "share"]
    text = cli(installed, "list").stdout
    assert "--set attention_to_self.min_keys=8" in text and "from       attention-extras" in text


def test_it_can_be_kept_out(installed: Path) -> None:
    names = {e["name"] for e in json.loads(cli(installed, "list", "--json").stdout)}
    kept_out = cli(installed, "list", "--json", RESONANCE_LENS_PLUGINS="none")
    assert names - {e["name"] for e in json.loads(kept_out.stdout)} == {"attention_to_self"}


TOGETHER = """
import contextlib, io, json, sys
from resonance_lens.cli import main

def call(argv):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}

calls = [call(argv) for argv in json.loads(sys.argv[1])]

import numpy as np
import resonance_lens as rl
from attention_extras.positional import PositionalModel
from resonance_lens.hooks import attach
from resonance_lens.registry import get_analysis
from resonance_lens.testing import check_analysis, check_model

rng = np.random.default_rng(0)
looks_back = rng.normal(size=(2, 64))
looks_back[0, 0] += 9  # the first head looks at itself
model = PositionalModel({layer: looks_back for layer in range(3)})
assert type(attach(model)).__name__ == "PositionalAdapter"
table = check_model(model)
prompts = [rng.integers(0, 100, size=n).tolist() for n in (12, 30, 21, 9, 16, 25, 11, 19)]
run = rl.run(model, prompts, ["attention_to_self", "phase_coherence"], progress=False)
check_analysis(get_analysis("attention_to_self"), model)  # every check, on what it plants and on the host
try:
    rl.run(model, prompts, "belief_collapse", progress=False)
except rl.ResonanceLensError as error:
    refusal = str(error)
print(json.dumps({
    "calls": calls,
    "served": [proof.site for proof in table if not proof.missing],
    "host": run.provenance["model"]["host"],
    "best": [target.label for target in run["attention_to_self"].targets(3)],
    "refusal": refusal,
}))
"""


@pytest.fixture(scope="module")
def done(installed: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what one process with the package on its path has done: most of its time goes into starting."""
    folder = tmp_path_factory.mktemp("done")
    prompts = folder / "prompts.txt"
    words = [f"w{i % 51}" for i in range(30)]
    prompts.write_text("\n".join(" ".join(words[start : start + 18]) for start in range(6)) + "\n")
    measured = [
        "run", str(model), "--prompts", str(prompts),
        "--analyses", "attention_to_self,attention_entropy", "--set", "attention_to_self.min_keys=4",
        "--out", str(folder / "out"), "--quiet", "--json",
    ]  # fmt: skip
    wrong = [
        "run", str(model), "--prompts", "demo", "--analyses", "attention_to_self",
        "--set", "attention_to_self.scale=percent", "--out", str(folder / "wrong"),
    ]  # fmt: skip
    ended = run(installed, "-c", TOGETHER, json.dumps([measured, wrong]))
    assert ended.returncode == 0, ended.stderr
    return {"folder": folder, **json.loads(ended.stdout.splitlines()[-1])}


def test_it_measures_a_model_from_the_command_line(done: dict[str, Any]) -> None:
    call = done["calls"][0]
    assert call["code"] == 0, call["err"]
    assert set(json.loads(call["out"])["analyses"]) == {"attention_to_self", "attention_entropy"}
    with xr.open_dataset(done["folder"] / "out" / "attention_to_self.nc", engine="h5netcdf") as data:
        assert data.self_weight.dims == ("category", "layer", "head")
        about = json.loads(data.attrs["resonance_lens"])
    assert about["provenance"]["parameters"] == {"min_keys": 4, "scale": "weight"}
    assert "heads give themselves more attention" in about["summary"]


def test_a_wrong_parameter_of_it_is_one_sentence(done: dict[str, Any]) -> None:
    call = done["calls"][1]
    assert call["code"] == 2
    (line,) = call["err"].splitlines()
    assert "'scale' parameter of attention_to_self must be one of 'weight', 'share'; got 'percent'" in line
    assert not (done["folder"] / "wrong").exists()


def test_its_analysis_passes_every_check_and_its_adapter_serves_its_kind_of_model(
    done: dict[str, Any],
) -> None:
    """The checks are in the process: it would not have ended well."""
    assert done["served"] == ["pattern"]
    assert done["host"] == "positional"
    assert sorted(done["best"]) == ["L0H0", "L1H0", "L2H0"]
    assert done["refusal"] == "A positional model has attention and no 'resid_post'."
