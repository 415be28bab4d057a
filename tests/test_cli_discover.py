"""The command that looks for components: what it prints and leaves behind, and what it refuses."""

from __future__ import annotations

import json
import random
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import resonance_lens as rl
from resonance_lens import arguments, discover_settings
from tests.test_cli import WORDS, Run, names, runner, save_model

SMALL = ("--quiet", "--window", "12", "--bands", "0.05-0.2,0.2-0.5", "--n-components", "1", "--layers", "0")
CALL = ("discover", "MODEL", "--prompts", "PROMPTS", *SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and twelve documents."""
    where = tmp_path_factory.mktemp("discover")
    save_model(where / "tiny-llama")
    source = random.Random(0)
    texts = [" ".join(source.choices(WORDS[2:], k=24)) for _ in range(12)]
    (where / "prompts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return where


@pytest.fixture
def cli(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run a command in an empty folder; words of the fixture above stand for its paths."""
    monkeypatch.chdir(tmp_path)
    known = {"MODEL": "tiny-llama", "PROMPTS": "prompts.jsonl"}
    return runner(capsys, {word: folder / path for word, path in known.items()})


def test_it_says_what_it_found_and_the_numbers_are_those_of_discover(
    cli: Run, folder: Path, tmp_path: Path
) -> None:
    outcome = cli(*CALL, "--out", "components")
    assert outcome.code == 0, outcome.err
    assert names(tmp_path) == {"components", "components/run.json", "components/discovery.nc"}
    result = rl.load("components")["discovery"]
    assert f"discovery [measured] {result.summary}" in outcome.out
    model = rl.load_model(folder / "tiny-llama", progress=False)
    given: dict[str, Any] = {"window": 12, "bands": ["0.05-0.2", "0.2-0.5"], "n_components": 1, "layers": [0]}
    expected = rl.discover(model, folder / "prompts.jsonl", **given, progress=False)
    assert expected.data.equals(result.data)
    again = cli(*CALL, "--out", "components", "--json")
    assert json.loads(again.out)["analyses"]["discovery"]["summary"] == result.summary


def test_options_are_those_of_discover_and_the_plan_measures_nothing(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = "--site z --n-ablations 0 --n-moments 2 --scaling none --method dct --held-out 0.6 --seed 3"
    outcome = cli(*CALL, *argv.split(), "--baselines", "none", "--features-dtype", "float32")
    assert outcome.code == 0, outcome.err
    (out,) = (path for path in tmp_path.iterdir() if path.is_dir())
    result = rl.load(out)["discovery"]
    about = result.provenance["discover"]
    assert (about["site"], about["n_ablations"], about["n_moments"]) == ("z", 0, 2)
    assert (about["scaling"], about["method"], about["baselines"]) == ("none", "dct", [])
    assert len(about["held_out"]) == 6 and result.provenance["seed"] == 3
    monkeypatch.setattr("resonance_lens.discovering.discover.find", None)
    planned = json.loads(cli(*CALL, "--plan", "--json").out)
    assert planned["documents"] == 12 and planned["components"] == 2
    assert "12, 6 of them held out" in cli(*CALL, "--plan").out


def test_examples_of_the_help_can_be_run(cli: Run) -> None:
    text = cli("discover", "--help").out.replace("\\\n", " ")
    examples = [line for line in text.splitlines() if line.strip().startswith("resonance-lens discover")]
    assert len(examples) == 3
    for line in examples:
        told = discover_settings.from_arguments(arguments.parse(shlex.split(line)[1:]))
        assert told.model == "smollm2-135m"


WRONG = {
    "": "discover needs --prompts; see `resonance-lens discover --help`.",
    "--prompts PROMPTS --bands slow": "There is no band 'slow' along tokens: .*",
    "--prompts PROMPTS --baselines twin": "There is no baseline of discover 'twin'.*",
    "--prompts PROMPTS --layers x": "--layers takes numbers and ranges .*",
    "--prompt x": "discover takes no option '--prompt'. Did you mean '--prompts'?",
}


@pytest.mark.parametrize("command", WRONG)
def test_what_is_wrong_is_said_in_one_line(cli: Run, command: str) -> None:
    outcome = cli("discover", "MODEL", *command.split(), "--quiet")
    assert outcome.code == 2 and not outcome.out
    (line,) = outcome.err.splitlines()
    assert re.fullmatch(f"resonance-lens: {WRONG[command]}", line) or WRONG[command] in line
