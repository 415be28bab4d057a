"""The command that patches: what it prints, what it leaves behind, and what it takes from a run."""

from __future__ import annotations

import ast
import inspect
import json
import random
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resonance_lens as rl
from resonance_lens import arguments, patch_settings
from resonance_lens.hooks.adapter import ModelAdapter
from resonance_lens.pairs import PromptPairs
from resonance_lens.patching import sweep
from resonance_lens.patching.hooks import operation_hooks
from resonance_lens.patching.operations import list_operations
from resonance_lens.views.effects import strongest
from resonance_lens.views.text import number
from tests.test_cli import WORDS, Run, names, runner, save_model

QUIET = ("--quiet", "--controls", "placebo")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, six pairs, and a run of two analyses."""
    where = tmp_path_factory.mktemp("patch")
    save_model(where / "tiny-llama")
    source = random.Random(0)
    pairs = []
    for _ in range(6):
        clean = source.choices(WORDS[2:], k=7)
        corrupted = [*clean[:2], source.choice([w for w in WORDS[2:] if w != clean[2]]), *clean[3:]]
        right, wrong = source.sample(WORDS[2:], 2)
        pairs.append(
            {
                "clean": " ".join(clean),
                "corrupted": " ".join(corrupted),
                "right": f" {right}",
                "wrong": f" {wrong}",
            }
        )
    (where / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    prompts = [{"text": " ".join(source.choices(WORDS[2:], k=20))} for _ in range(6)]
    (where / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    rl.run(
        str(where / "tiny-llama"),
        where / "prompts.jsonl",
        ["attention_filter", "belief_collapse"],
        baselines=(),
        out=where / "run",
        progress=False,
    )
    return where


@pytest.fixture
def cli(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run a command in an empty folder; words of the fixture above stand for its paths."""
    monkeypatch.chdir(tmp_path)
    known = {"MODEL": "tiny-llama", "RUN": "run", "PAIRS": "pairs.jsonl"}
    return runner(capsys, {word: folder / path for word, path in known.items()})


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return rl.load_model(folder / "tiny-llama", progress=False)


# Listings --------------------------------------------------------------------------------------


def test_list_says_what_can_be_chosen(cli: Run) -> None:
    outcome = cli("patch", "--list")
    assert (outcome.code, outcome.err) == (0, "")
    for each in list_operations():
        assert f"{each.name}  {each.about['title']}" in outcome.out
        for name, told in each.parameters.items():
            assert f"--set {each.name}.{name}=" in outcome.out and told["help"] in outcome.out
    for task in rl.list_pairs():
        assert f"--task {task.name}  {task.description}" in outcome.out
    for metric in ("logit_difference", "loss", "kl", "rank"):
        assert f"--metric {metric}  " in outcome.out
    data = json.loads(cli("patch", "--list", "--json").out)
    assert [each["name"] for each in data["operations"]] == [each.name for each in list_operations()]
    assert [each["name"] for each in data["tasks"]] == [each.name for each in rl.list_pairs()]


def test_what_list_shows_of_operations_can_be_set(cli: Run) -> None:
    shown = {
        line.split("--set ")[1]
        for block in cli("patch", "--list").out.split("\n\n")
        if not block.startswith("--")
        for line in block.splitlines()
        if "--set " in line
    }
    assert len(shown) > 10
    for text in shown:
        name = text.partition(".")[0]
        (made,) = patch_settings.read_operations([name], [text])
        assert made == type(made)()  # what is shown is the default


def test_the_help_has_examples_that_can_be_parsed(cli: Run) -> None:
    text = cli("patch", "--help").out.replace("\\\n", " ")
    examples = [line for line in text.splitlines() if line.strip().startswith("resonance-lens patch")]
    assert len(examples) == 3
    for line in examples:
        told = arguments.parse(shlex.split(line)[1:])
        patch_settings.read_operations(told.operation, told.set or ())


# Results ---------------------------------------------------------------------------------------


def test_it_says_what_it_found_and_the_numbers_are_those_of_patch(cli: Run, model: Any, folder: Path) -> None:
    outcome = cli("patch", "MODEL", "--pairs", "PAIRS", "--out", "effects")
    assert outcome.code == 0, outcome.err
    result = rl.load("effects")["patch"]
    assert result.summary in outcome.out
    pairs = PromptPairs.from_file(folder / "pairs.jsonl", model)
    expected = rl.patch(model, pairs, "heads", progress=False)
    assert result.data.drop_attrs().equals(expected.data.drop_attrs())
    rows = [line.split() for line in outcome.out.splitlines() if line.startswith("    L")]
    order = np.argsort(-np.abs(result.data["effect"].values[0]))
    assert [row[0] for row in rows] == result.data["target"].values[order].tolist()
    assert float(rows[0][1]) == pytest.approx(float(result.data["effect"].values[0, order[0]]), rel=5e-3)
    # What it says to type next works.
    page = next(line for line in outcome.out.splitlines() if line.startswith("page"))
    assert cli(*shlex.split(page)[2:]).code == 0
    html = Path("effects/report.html").read_text()
    assert "each effect beside its controls" in html and "Worth patching" not in html
    assert "patch at 4 targets" in html and "q, beyond the placebo" in html
    for label, numbers in strongest(result, 0):
        assert f'<th scope="row">{label}</th><td data-label="effect">{number(numbers["effect"])}</td>' in html


def test_json_holds_the_same(cli: Run) -> None:
    outcome = cli("patch", "MODEL", "--pairs", "PAIRS", "--out", "effects", "--json", "--quiet")
    data = json.loads(outcome.out)
    result = rl.load("effects")["patch"]
    assert outcome.err == "" and data["folder"] == "effects" and data["file"] == "effects/patch.nc"
    (found,) = data["operations"].values()
    assert len(found) == 4
    for each in found:
        part = result.data.sel(target=each["label"]).isel(operation=0)
        assert each["effect"] == pytest.approx(float(part["effect"]))
        assert each["placebo"] == pytest.approx(float(part["placebo"]))
        assert each["complement"] is None  # there is none of patch
    assert (data["metric"], data["units"], data["direction"]) == ("logit_difference", "nats", "denoise")


def test_options_reach_the_result(cli: Run) -> None:
    argv = ["patch", "MODEL", "--pairs", "PAIRS", "--targets", "mlp_out:L1,L0H1", "--metric", "loss"]
    argv += ["--operation", "shift", "--set", "shift.tokens=1,2", "--controls", "none", "--seed", "3"]
    outcome = cli(*argv, "--direction", "denoise", "--batch-tokens", "32", "--out", "e", "--quiet")
    assert outcome.code == 0, outcome.err
    result = rl.load("e")["patch"]
    assert result.data["operation"].values.tolist() == ["shift", "shift tokens=2"]
    assert result.data["target"].values.tolist() == ["L1 mlp_out", "L0H1 z"]
    about = result.provenance
    assert (about["seed"], about["batch_tokens"]) == (3, 32)
    assert (about["patch"]["metric"], about["patch"]["base"]) == ("loss", "corrupted")
    assert about["patch"]["controls"] == []
    assert not result.data["placebo"].notnull().any()


def test_a_ready_task_is_drawn_and_checked(cli: Run) -> None:
    argv = ["patch", "testbed:induction", "--task", "induction", "--n-pairs", "6", "--targets", "L1H0"]
    outcome = cli(*argv, "--set", "induction.segment=3", "--out", "e", *QUIET)
    assert outcome.code == 0, outcome.err
    result = rl.load("e")["patch"]
    assert result.provenance["task"]["name"] == "induction"
    assert result.data.sizes["pair"] == 6
    # The circuit is built so that the answer comes through this head.
    assert float(result.data["effect"].item()) > 1


def test_a_head_without_a_site_is_its_pattern_where_operations_are_for_patterns(cli: Run) -> None:
    argv = ["patch", "MODEL", "--pairs", "PAIRS", "--targets", "L0H1", "--out", "e", *QUIET]
    assert cli(*argv, "--operation", "uniform").code == 0
    assert rl.load("e")["patch"].data["site"].values.tolist() == ["pattern"]


# A run as the source ---------------------------------------------------------------------------


def test_targets_and_kernels_come_from_a_run(cli: Run, model: Any, folder: Path) -> None:
    outcome = cli(
        "patch", "RUN", "--pairs", "PAIRS", "--targets", "attention_filter:2", "--operation", "kernel",
        "--out", "e", *QUIET,
    )  # fmt: skip
    assert (outcome.code, outcome.err) == (0, "")
    run, result = rl.load(folder / "run"), rl.load("e")["patch"]
    targets = run["attention_filter"].targets(2)
    assert result.data["target"].values.tolist() == [target.label for target in targets]
    # The kernels are those of the run: the metric is that of a pass with hooks, made by hand.
    pairs = PromptPairs.from_file(folder / "pairs.jsonl", model)
    hooks = operation_hooks(model, "kernel", targets[:1], kernels=run["attention_filter"].data["kernel"])
    with torch.no_grad():
        logits = model.run_with_hooks(torch.tensor([pairs.clean[0]]), fwd_hooks=hooks)[0, pairs.read[0]]
    expected = float(logits[pairs.right[0]] - logits[pairs.wrong[0]])
    assert float(result.data["metric"][0, 0, 0]) == pytest.approx(expected, abs=1e-4)


def test_patterns_before_and_after_are_kept(cli: Run) -> None:
    argv = ["patch", "RUN", "--pairs", "PAIRS", "--targets", "attention_filter:2", "--out", "e", *QUIET]
    assert cli(*argv, "--operation", "uniform").code == 0
    shown = rl.load("e").exhibits
    assert shown is not None
    assert shown["prompt"].values[:3].tolist() == [
        "pairs-000, clean",
        "pairs-000, uniform",
        "pairs-000, corrupted",
    ]
    n = int(shown["length"][1])
    after = shown["pattern"].values[1, :, :n, :n]
    np.testing.assert_allclose(
        after, np.broadcast_to(np.tri(n) / np.arange(1, n + 1)[:, None], after.shape), atol=1e-6
    )
    assert np.abs(after - shown["pattern"].values[0, :, :n, :n]).max() > 0.05


def test_parts_of_targets_are_joined_and_none_is_twice(folder: Path) -> None:
    run = rl.load(folder / "run")
    (first, *_) = run["attention_filter"].targets(4)
    found = patch_settings.read_targets(
        f"attention_filter:2,pattern:{first.label},z:L0H0",
        run,
        "run",
        patch_settings.read_operations(["patch"], []),
    )
    assert isinstance(found, list)
    places = [(each.site, each.layer, each.head) for each in found]
    named = run["attention_filter"].targets(2)
    assert named and found[:-1] == named and places[-1] == ("z", 0, 0)


def test_a_bundled_model_is_found_again_by_what_it_calls_itself() -> None:
    from resonance_lens.models import name_to_load

    assert name_to_load("HuggingFaceTB/SmolLM2-135M-Instruct") == "smollm2-135m"
    assert name_to_load("SmolLM2-135M-Instruct") == "smollm2-135m"
    assert name_to_load("gpt2") == "gpt2"


def test_other_weights_than_the_run_measured_are_said(cli: Run, folder: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "other", seed=1)
    argv = ["patch", "RUN", "--pairs", "PAIRS", "--targets", "L0H0", "--plan", "--quiet"]
    assert cli(*argv).err == ""
    outcome = cli(*argv, "--model", tmp_path / "other")
    assert outcome.code == 0
    assert "warning: the weights of" in outcome.err and "found in other weights." in outcome.err


def test_a_model_that_is_gone_can_be_named(cli: Run, folder: Path, tmp_path: Path) -> None:
    described = json.loads((folder / "run" / "run.json").read_text())
    described["provenance"]["model"]["model_name"] = str(tmp_path / "gone")
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in (folder / "run").iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    (moved / "run.json").write_text(json.dumps(described))
    outcome = cli("patch", moved, "--pairs", "PAIRS", "--out", "e")
    assert outcome.code == 2 and "cannot be loaded again; name it with --model." in outcome.err
    assert cli("patch", moved, "--pairs", "PAIRS", "--model", "MODEL", "--out", "e", *QUIET).code == 0


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (
            ["--targets", "head_sync:3"],
            "There is no result 'head_sync'. Known: attention_filter, belief_collapse.",
        ),
        (["--targets", "L0H0", "--operation", "kernel", "--set", "kernel.first_key=drop"], "must be one of"),
    ],
)
def test_what_the_run_does_not_have_is_one_sentence(cli: Run, argv: list[str], sentence: str) -> None:
    outcome = cli("patch", "RUN", "--pairs", "PAIRS", *argv, "--out", "e")
    assert outcome.code == 2 and sentence in outcome.err
    assert outcome.err.count("\n") == 1 and not Path("e").exists()


# Plans, interruptions --------------------------------------------------------------------------


def test_the_plan_says_the_passes_that_are_made(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["patch", "MODEL", "--pairs", "PAIRS", "--operation", "sink_free", "--targets", "pattern"]
    argv += ["--batch-tokens", "40", "--out", "e", "--quiet"]
    before = names(Path())
    outcome = cli(*argv, "--plan", "--json")
    planned = json.loads(outcome.out)
    assert (outcome.code, names(Path())) == (0, before)
    assert cli(*argv, "--plan").out.splitlines()[0].startswith("pairs     6 (")
    rows: list[int] = []
    resume = ModelAdapter.resume

    def counted(self: Any, batch: Any, layer: int, residual: Any, hooks: Any = ()) -> Any:
        if hooks:
            rows.append(len(batch.tokens))
        return resume(self, batch, layer, residual, hooks)

    monkeypatch.setattr(ModelAdapter, "resume", counted)
    assert cli(*argv).code == 0
    assert planned["passes"] == len(rows)
    assert sum(planned["rows"].values()) == sum(rows)
    assert planned["rows"]["complement"] == planned["rows"]["exact"] == 24
    assert planned["largest_batch"][0] == max(rows)
    assert all(Path(file).exists() for file in planned["files"])


def test_a_plan_with_a_first_pass_by_gradient_counts_what_is_confirmed(cli: Run) -> None:
    argv = [
        "patch",
        "MODEL",
        "--pairs",
        "PAIRS",
        "--prescreen",
        "1",
        "--controls",
        "none",
        "--plan",
        "--json",
    ]
    assert json.loads(cli(*argv).out)["patched"] == [2]  # the first, and as many others


def test_an_interrupted_sweep_says_how_to_resume(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cli("patch", "MODEL", "--pairs", "PAIRS", "--out", "whole", "--json", *QUIET)
    real, calls = sweep._sweep_layer, iter(range(9))

    def stopping(*arguments: Any) -> None:
        if next(calls) == 1:  # the second of two layers
            raise KeyboardInterrupt
        real(*arguments)

    argv = ["patch", "MODEL", "--pairs", "PAIRS", "--out", "e", *QUIET]
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "_sweep_layer", stopping)
        outcome = cli(*argv)
    assert (outcome.code, outcome.out) == (130, "")
    sentence, _, command = outcome.err.strip().partition(" To resume: ")
    assert sentence == "resonance-lens: Interrupted; e keeps what was measured."
    made: list[int] = []

    def counting(*arguments: Any) -> None:
        made.append(1)
        real(*arguments)

    monkeypatch.setattr(sweep, "_sweep_layer", counting)
    again = shlex.split(command)[1:]
    outcome = cli(*[word for word in again if word != "--quiet"])
    assert outcome.code == 0 and "Resuming the run in e." in outcome.err
    assert len(made) == 1
    assert rl.load("e")["patch"].data.drop_attrs().equals(rl.load("whole")["patch"].data.drop_attrs())
    assert not Path("e/partial").exists() and whole.code == 0
    finished = cli(*[word for word in again if word != "--quiet"])
    assert finished.code == 0 and "already holds a finished run" in finished.err and len(made) == 1


def test_a_folder_of_other_settings_is_refused(cli: Run) -> None:
    argv = ["patch", "MODEL", "--pairs", "PAIRS", "--targets", "L0H0", "--out", "e", *QUIET]
    assert cli(*argv).code == 0
    before = {path: path.read_bytes() for path in Path("e").iterdir()}
    outcome = cli(*argv, "--seed", "1")
    assert outcome.code == 2 and "holds" in outcome.err and "seed" in outcome.err
    assert {path: path.read_bytes() for path in Path("e").iterdir()} == before


# The README ------------------------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    text = (Path(rl.__file__).resolve().parents[1] / "README.md").read_text()
    inside = [part.partition("\n") for part in text.split("```")[1::2]]
    return [block for named, _, block in inside if named == language]


def test_commands_of_the_readme_can_be_parsed() -> None:
    lines = [line for block in blocks("") for line in block.splitlines() if line.startswith("resonance-lens")]
    parsed = [arguments.parse(shlex.split(line)[1:]).command for line in lines]
    assert {"run", "report", "compare", "patch"} <= set(parsed)


def test_python_of_the_readme_calls_what_there_is() -> None:
    called = set()
    for block in blocks("python"):
        for node in ast.walk(ast.parse(block)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "rl":
                function = getattr(rl, node.func.attr)
                given = {keyword.arg: None for keyword in node.keywords if keyword.arg is not None}
                inspect.signature(function).bind(*node.args, **given)
                called.add(node.func.attr)
    assert {"run", "prompt_pairs", "patch"} <= called
