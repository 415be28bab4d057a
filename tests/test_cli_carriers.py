"""The command that drives a model and says who carries waves: what it prints, and what it leaves behind."""

from __future__ import annotations

import json
import random
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import resonance_lens as rl
from resonance_lens import arguments, carriers_settings
from resonance_lens.carrying.measuring import measure
from tests.test_cli import WORDS, Run, names, runner, save_model

SMALL = ("--quiet", "--targets", "layers", "--directions", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and three prompts."""
    where = tmp_path_factory.mktemp("carriers")
    save_model(where / "tiny-llama")
    source = random.Random(0)
    texts = [" ".join(source.choices(WORDS[2:], k=24)) for _ in range(3)]
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


def test_it_says_what_it_found_and_the_numbers_are_those_of_carriers(
    cli: Run, folder: Path, tmp_path: Path
) -> None:
    outcome = cli("carriers", "MODEL", "--prompts", "PROMPTS", "--layer", "1", "--out", "waves", *SMALL)
    assert outcome.code == 0, outcome.err
    assert names(tmp_path) == {"waves", "waves/run.json", "waves/frequency_carriers.nc"}
    result = rl.load("waves")["frequency_carriers"]
    assert f"frequency_carriers [measured] {result.summary}" in outcome.out
    model = rl.load_model(folder / "tiny-llama", progress=False)
    given: dict[str, Any] = {"layer": 1, "targets": "layers", "directions": 1, "progress": False}
    expected = rl.carriers(model, folder / "prompts.jsonl", **given)
    assert result.data.identical(expected.data)
    again = cli(
        "carriers", "MODEL", "--prompts", "PROMPTS", "--layer", "1", "--out", "waves", *SMALL, "--json"
    )
    assert json.loads(again.out)["analyses"]["frequency_carriers"]["summary"] == result.summary
    assert cli("report", "waves").code == 0


def test_options_are_those_of_carriers(cli: Run) -> None:
    argv = (
        "--heard 1 --targets L1H0,mlp_out:L1 --interventions attention_held,mlp_held --ablate L1H1 --seed 3 "
        "--ablation mean_ablate --epsilon 0.05 --period 8 --baselines random_weights --batch-tokens 64 "
        "--no-prepend-bos --quiet"
    )
    outcome = cli("carriers", "MODEL", "--prompts", "PROMPTS", "--layer", "1", *argv.split())
    assert outcome.code == 0, outcome.err
    (out,) = (line.split()[1] for line in outcome.out.splitlines() if line.startswith("results"))
    result = rl.load(out)["frequency_carriers"]
    data, about = result.data, result.provenance
    assert data.intervention.values.tolist() == ["plain", "attention_held", "mlp_held", "ablated"]
    assert about["carriers"]["held"] == [["z", 1, 0], ["mlp_out", 1, None]]
    assert about["carriers"]["interventions"][-1] == ["ablated", [["z", 1, 1]], "mean_ablate"]
    assert (about["carriers"]["epsilon"], about["seed"], about["prepend_bos"]) == (0.05, 3, False)
    assert "carried_random_weights" in data and data.attrs["period"] == 8


def test_a_plan_measures_nothing(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resonance_lens.carrying.carriers.measure", None)
    argv = (
        "carriers",
        "MODEL",
        "--prompts",
        "PROMPTS",
        "--layer",
        "0",
        "--plan",
        "--quiet",
        "--out",
        "waves",
    )
    text = cli(*argv)
    assert text.code == 0 and "4 heads and 4 parts of layers" in text.out
    planned = json.loads(cli(*argv, "--json").out)
    assert (planned["heads"], planned["layers"], planned["prompts"]) == (4, 4, 3)
    assert names(tmp_path) == set()


def test_a_stopped_call_says_how_to_resume(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stops(*args: Any) -> Any:
        if args[3] == 1:
            raise KeyboardInterrupt
        return measure(*args)

    argv = ("carriers", "MODEL", "--prompts", "PROMPTS", "--layer", "1", "--out", "waves", *SMALL)
    with monkeypatch.context() as patch:
        patch.setattr("resonance_lens.carrying.carriers.measure", stops)
        outcome = cli(*argv)
    assert outcome.code == 130
    assert "Interrupted; waves keeps what was measured. To resume: resonance-lens carriers" in outcome.err
    assert cli(*argv).code == 0
    assert not (tmp_path / "waves" / "partial").exists()


def test_the_help_has_examples_that_can_be_parsed(cli: Run) -> None:
    text = cli("carriers", "--help").out
    examples = [line for line in text.splitlines() if line.strip().startswith("resonance-lens carriers")]
    assert len(examples) == 2
    for line in examples:
        told = carriers_settings.from_arguments(arguments.parse(shlex.split(line)[1:]))
        assert told.layer == 15


WRONG = {
    "--layer 0": "carriers needs --prompts; see `resonance-lens carriers --help`.",
    "--prompts PROMPTS": "carriers needs --layer; see `resonance-lens carriers --help`.",
    "--prompts PROMPTS --layer 7": "Layer 7 cannot be driven: .* has layers 0 to 1.",
    "--prompts PROMPTS --layer 0 --targets hedas": "There is no site or set of targets 'hedas'. .*'heads'?",
    "--prompts PROMPTS --layer 0 --ablate heads": "--ablate takes places such as L5H3,L7H1; got 'heads'.",
    "--prompts PROMPTS --layer 0 --ablate L0H0 --ablation patch": "There is no ablation 'patch'. .*",
    "--prompts PROMPTS --layer 0 --baselines shuffled_tokens": "There is no baseline of carriers .*",
    "--prompts PROMPTS --layer 0 --interventions mlp": "There is no intervention 'mlp'. .*",
    "--prompts PROMPTS --layer 0 --kernels nowhere": "There is no run in nowhere: it holds no run.json.",
    "--prompts PROMPTS --layer 0 --period 64": "Records of 25 tokens are too short .*",
    "--layr 0": "carriers takes no option '--layr'. Did you mean '--layer'?",
}


@pytest.mark.parametrize(("command", "sentence"), WRONG.items(), ids=WRONG)
def test_wrong_input_gets_one_sentence(command: str, sentence: str, cli: Run, tmp_path: Path) -> None:
    outcome = cli("carriers", "MODEL", *command.split(), "--quiet")
    assert (outcome.code, outcome.out) == (2, "")
    said = outcome.err.splitlines()[-1]
    pattern = re.escape(f"resonance-lens: {sentence}").replace(r"\.\*", ".*")
    assert re.fullmatch(pattern, said), said
    assert names(tmp_path) == set()
