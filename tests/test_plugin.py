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


def test_it_measures_a_model_from_the_command_line(installed: Path, model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    words = [f"w{i % 51}" for i in range(30)]
    prompts.write_text("\n".join(" ".join(words[start : start + 18]) for start in range(6)) + "\n")
    done = cli(
        installed, "run", str(model), "--prompts", str(prompts),
        "--analyses", "attention_to_self,attention_entropy", "--set", "attention_to_self.min_keys=4",
        "--out", str(tmp_path / "out"), "--quiet", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["analyses"]) == {"attention_to_self", "attention_entropy"}
    with xr.open_dataset(tmp_path / "out" / "attention_to_self.nc", engine="h5netcdf") as data:
        assert data.self_weight.dims == ("category", "layer", "head")
        about = json.loads(data.attrs["resonance_lens"])
    assert about["provenance"]["parameters"] == {"min_keys": 4, "scale": "weight"}
    assert "heads give themselves more attention" in about["summary"]


def test_a_wrong_parameter_of_it_is_one_sentence(installed: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = cli(
        installed, "run", str(model), "--prompts", "demo", "--analyses", "attention_to_self",
        "--set", "attention_to_self.scale=percent", "--out", str(out),
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "'scale' parameter of attention_to_self must be one of 'weight', 'share'; got 'percent'" in line
    assert not out.exists()


CHECKS = """
from resonance_lens.registry import get_analysis
from resonance_lens.testing import check_analysis
check_analysis(get_analysis("attention_to_self"))
print("sound")
"""

ADAPTER = """
import json
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
check_analysis(get_analysis("attention_to_self"), model)
try:
    rl.run(model, prompts, "belief_collapse", progress=False)
except rl.ResonanceLensError as error:
    refusal = str(error)
print(json.dumps({
    "served": [proof.site for proof in table if not proof.missing],
    "host": run.provenance["model"]["host"],
    "best": [target.label for target in run["attention_to_self"].targets(3)],
    "refusal": refusal,
}))
"""


def last_line(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_its_analysis_passes_every_check(installed: Path) -> None:
    assert last_line(run(installed, "-c", CHECKS)) == "sound"


def test_its_adapter_serves_its_kind_of_model(installed: Path) -> None:
    found = json.loads(last_line(run(installed, "-c", ADAPTER)))
    assert found["served"] == ["pattern"]
    assert found["host"] == "positional"
    assert sorted(found["best"]) == ["L0H0", "L1H0", "L2H0"]
    assert found["refusal"] == "A positional model has attention and no 'resid_post'."
