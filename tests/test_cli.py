"""The command line: what it prints, what it leaves behind, and its sentence for every wrong input."""

from __future__ import annotations

import ast
import dataclasses
import errno
import inspect
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import xarray as xr

import resonance_lens as rl
from resonance_lens import arguments, engine, files, listings, settings
from resonance_lens.cli import main
from resonance_lens.comparison import compare_categories
from resonance_lens.design import BASELINE_CONDITIONS, Condition
from resonance_lens.driving import observe_under
from resonance_lens.errors import ResultError
from resonance_lens.registry import EVIDENCE, Entry, catalogue, get_analysis
from resonance_lens.runs import FORMAT

ROOT = Path(rl.__file__).resolve().parents[1]
WORDS = ["<s>", "<unk>", "the", "cat", "sat", "on", "mat", "dog", "ran", "off"]
# For what runs in a process of its own: on a busy machine threads wait for each other, ten times as long.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
HEAVY = {
    "torch",
    "transformer_lens",
    "transformers",
    "xarray",
    "matplotlib",
    "scipy",
    "numpy",
    "pandas",
    "sklearn",
}


class Outcome(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


def runner(capsys: pytest.CaptureFixture[str], known: Mapping[str, Path] | None = None) -> Run:
    """Return what runs a command and says what it did; words that are known stand for paths."""

    def run(*argv: str | Path) -> Outcome:
        capsys.readouterr()
        words = [str((known or {}).get(str(word), word)) for word in argv]
        try:
            code = main(words)
        except SystemExit as end:  # argparse, after --help
            code = int(end.code or 0)
        return Outcome(code, *capsys.readouterr())

    return run


# What the tests run ----------------------------------------------------------------------------


def save_model(folder: Path, seed: int = 0, spoil: Callable[[Any], None] | None = None) -> Path:
    """Save a random Llama of two layers, with a tokenizer of ten words, as a user would have it."""
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", unk_token="<unk>"
    )
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network: Any = transformers.AutoModelForCausalLM.from_config(config)
    if spoil is not None:
        spoil(network)
    network.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_model(tmp_path_factory.mktemp("models") / "tiny-llama"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(here: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys)


TEXTS = (
    "the cat sat on the mat the cat ran",
    "the dog ran off the mat on the cat the dog sat",
    "on the mat the dog sat the cat ran off the mat on",
    "cat dog mat the the on sat ran off the",
)


@pytest.fixture
def prompts(here: Path) -> Path:
    """Four prompts in two categories."""
    lines = [{"text": text, "category": "ab"[i % 2]} for i, text in enumerate(TEXTS)]
    path = here / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture
def many_prompts(here: Path) -> Path:
    """Sixteen prompts in two categories: enough for every test."""
    source = random.Random(0)
    texts = [" ".join(source.choices(WORDS[2:], k=10 + i % 3)) for i in range(16)]
    path = here / "many.jsonl"
    path.write_text("\n".join(json.dumps({"text": t, "category": "ab"[i % 2]}) for i, t in enumerate(texts)))
    return path


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def results(folder: Path) -> dict[str, xr.Dataset]:
    run = rl.load(folder)
    return {name: run[name].data for name in run}


# Listings --------------------------------------------------------------------------------------


def test_help_says_every_command_and_what_exit_codes_mean(cli: Run) -> None:
    outcome = cli("--help")
    assert outcome.code == 0 and outcome.err == ""
    for command in (
        "list",
        "models",
        "run",
        "report",
        "compare",
        "patch",
        "carriers",
        "probe",
        "discover",
        "check-model",
    ):
        assert f"    {command}" in outcome.out
        assert cli(command, "--help").code == 0
    codes = [int(line.split()[0]) for line in outcome.out.partition("exit codes:")[2].strip().splitlines()]
    assert codes == [0, 1, 2, 130]


def test_version(cli: Run) -> None:
    assert cli("--version").out == f"resonance-lens {rl.__version__}\n"


def test_list_says_what_each_analysis_says_of_itself(cli: Run) -> None:
    text = cli("list").out
    for entry in catalogue().values():
        assert f"{entry.name}  [{entry.about['evidence']}]  {entry.about['title']}" in text
        for name, told in entry.parameters.items():
            assert f"--set {entry.name}.{name}={told['default']}" in text
            assert told["help"] in text
    for level, meaning in EVIDENCE.items():
        assert re.search(rf"{level} +{re.escape(meaning)}", cli("list", "--help").out)


def test_list_tells_claims_nulls_baselines_and_trials_apart() -> None:
    claim = {
        "variable": "width",
        "long_name": "mean width",
        "units": "nat",
        "null": "permuted",
        "against": "permuted keys",
        "places": "heads",
        "minimum_effect": 0.1,
    }
    about = {"evidence": "proxy", "version": "7", "baselines": ("uniform",), "nulls": ("permuted",)}
    entry = Entry(name="sharpness", package="resonance-lens", about=about | {"claims": [claim]})
    lines = listings.analyses_text([entry]).splitlines()
    assert "    baselines  uniform" in lines and "    nulls      permuted" in lines
    assert "    claim      width: mean width against permuted keys (permuted); 0.1 nat counts" in lines
    assert "    trials     none on record: its claims are not calibrated" in lines
    bare = dataclasses.replace(entry, about=about | {"nulls": ()})
    assert "trials" not in listings.analyses_text([bare])


def test_list_says_which_analyses_have_trials_on_record(cli: Run) -> None:
    blocks = {block.split()[0]: block for block in cli("list").out.split("\n\n")}
    folder = ROOT / "resonance_lens" / "data" / "calibration"
    for name, entry in catalogue().items():
        if not entry.about["nulls"]:
            continue
        said = re.search(r"^    trials     (.+)$", blocks[name], re.MULTILINE)
        path = folder / f"{name}.json"
        record = json.loads(path.read_text()) if path.exists() else {"version": None}
        assert (listings.trials(entry) or {"version": None})["version"] == record["version"]
        assert said is not None
        assert said[1].endswith("on record for this version") == (record["version"] == entry.about["version"])


def test_list_as_json_holds_the_same(cli: Run) -> None:
    listed = json.loads(cli("list", "--json").out)
    assert [each["name"] for each in listed] == list(catalogue())
    for each in listed:
        entry = catalogue()[each["name"]]
        assert each["about"]["evidence"] == entry.about["evidence"]
        assert set(each["parameters"]) == set(entry.parameters)


def test_what_list_shows_can_be_set(cli: Run) -> None:
    shown = re.findall(r"--set (\S+)", cli("list").out)
    assert len(shown) >= 4
    for text in shown:
        ((name, given),) = settings.parse_assignments([text]).items()
        (analysis,) = engine.choose_analyses([name], {name: given})
        assert analysis.parameters() | given == analysis.parameters()


def test_models(cli: Run) -> None:
    assert "smollm2-135m" in cli("models").out
    listed = json.loads(cli("models", "--json").out)
    assert [each["name"] for each in listed] == [each.name for each in rl.list_models()]


@pytest.mark.parametrize(
    "argv",
    [
        ["models"],
        ["list", "--json"],
        ["run", "--help"],
        ["patch", "--help"],
        ["run", "--prompt", "x"],
        ["probe", "--help"],
        ["probe", "--list"],
    ],
)
def test_light_commands_load_nothing_heavy(argv: list[str]) -> None:
    code = (
        "import sys; from resonance_lens.cli import main\n"
        f"try: main({argv!r})\n"
        "except SystemExit: pass\n"
        "print('loaded:', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "resonance_lens" in loaded and loaded & HEAVY == set()


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -u -m resonance_lens.cli list | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.count("\n") == 1 and done.stderr == ""


# Runs ------------------------------------------------------------------------------------------


def test_run_says_what_it_found_and_where(cli: Run, model: str, prompts: Path, here: Path) -> None:
    outcome = cli("run", model, "--prompts", prompts, "--out", "results")
    assert outcome.code == 0, outcome.err
    run = rl.load(here / "results")
    left_out = run.provenance["left_out"]  # four prompts of a few tokens are too short for some
    assert set(run) | set(left_out) == {
        name for name in catalogue() if "task" not in get_analysis(name).needs
    }
    assert all(f"{name} is left out: {why}" in outcome.out for name, why in left_out.items()) and left_out
    lines = outcome.out.splitlines()
    assert "4 prompts in 2 categories" in lines[0]
    # Four prompts can find nothing: each claim says so, with the number that could, in one sentence. But
    # orders of layers, and signs of what lags hold, can be drawn for any number of prompts.
    refused = re.findall(r"No claim is made of [^.]+: ([^.]+\.\d+; \d+ [a-z ]+ could)\.", outcome.out)
    drawn = {"belief_collapse", "attention_filter"}
    claims = [claim for name in run for claim in run[name].provenance["claims"] if name not in drawn]
    assert len(refused) == len(claims) >= 3
    assert "4 prompts can reach no p below 0.12; 6 prompts could" in refused
    for name in run:
        assert f"{name} [{run[name].provenance['evidence']}] {run[name].summary}" in lines
        assert all(target.label in outcome.out for target in run[name].targets(5))
    assert "results  results" in lines
    # What it says to type next works.
    page = next(line for line in lines if line.startswith("page")).split("resonance-lens ")[1]
    outcome = cli(*shlex.split(page))
    assert outcome.code == 0 and outcome.out.splitlines()[0] == "results/report.html"
    assert outcome.out.splitlines()[1] == f"open {(here / 'results/report.html').as_uri()}"
    assert "<html" in (here / "results" / "report.html").read_text()


def test_run_says_what_each_claim_found(cli: Run, model: str, many_prompts: Path) -> None:
    argv = ["run", model, "--prompts", many_prompts, "--analyses", "phase_coherence", "--out", "r", "--quiet"]
    outcome = cli(*argv)
    assert re.search(r"\d of 4 heads differ \(q <= 0.05\), \d of them by more than 0.05", outcome.out)
    assert "beyond the random-weight twin" in outcome.out and "in shuffled text" in outcome.out
    assert rl.load("r").provenance["conditions"]["phase_coherence"] == ["plain", *BASELINE_CONDITIONS]


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ("all", [*BASELINE_CONDITIONS]),
        ("none", []),
        ("shuffled_tokens", ["shuffled_tokens"]),
        ("shuffled_tokens, random_weights", [*BASELINE_CONDITIONS]),
    ],
)
def test_baselines_are_those_asked_for(
    asked: str, made: list[str], cli: Run, model: str, prompts: Path
) -> None:
    argv = ["run", model, "--prompts", prompts, "--analyses", "phase_coherence", "--out", "r", "--quiet"]
    assert cli(*argv, "--baselines", asked).code == 0
    result = rl.load("r")["phase_coherence"]
    assert result.provenance["conditions"] == made
    for name in BASELINE_CONDITIONS:
        assert (f"coherence_{name}" in result.data) == (name in made)
    plan = json.loads(cli(*argv, "--baselines", asked, "--plan", "--json").out)
    assert plan["conditions"] == {"phase_coherence": ["plain", *made]} and plan["passes"] == 1 + len(made)


def test_the_help_names_every_baseline() -> None:
    _, parsers = arguments.make_parser()
    text = next(a.help or "" for a in parsers["run"]._actions if "--baselines" in a.option_strings)
    assert set(re.findall(r"\b[a-z]+_[a-z]+\b", text)) == set(BASELINE_CONDITIONS)


def test_a_missing_twin_is_one_sentence(cli: Run, model: str, prompts: Path) -> None:
    argv = ["run", model, "--prompts", prompts, "--analyses", "phase_coherence", "--out", "r", "--quiet"]
    assert "Without" not in cli(*argv).out
    why = "tiny-llama has no random-weight twin on this host (by hand); leave this baseline out."
    run = rl.load("r")
    run = dataclasses.replace(
        run, provenance={**run.provenance, "baselines_missing": {"random_weights": why}}
    )
    assert f"Without the random-weight twin: {why}" in listings.run_text(run, Path("r")).splitlines()
    assert listings.run_data(run, Path("r"))["baselines_missing"] == {"random_weights": why}


def test_progress_is_on_standard_error_and_can_be_left_out(cli: Run, model: str, prompts: Path) -> None:
    argv = ["run", model, "--prompts", prompts, "--analyses", "belief_collapse", "--json"]
    loud, quiet = cli(*argv), cli(*argv, "--quiet")
    assert "measuring" in loud.err and "measuring" not in loud.out
    assert quiet.err == ""
    for outcome in (loud, quiet):
        assert json.loads(outcome.out)["analyses"]["belief_collapse"]["evidence"] == "measured"


def test_json_of_a_run_says_where_each_result_is(cli: Run, model: str, prompts: Path, here: Path) -> None:
    argv = ["run", model, "--prompts", prompts, "--analyses", "phase_coherence", "--out", "r", "--json"]
    said = json.loads(cli(*argv).out)
    assert said["folder"] == "r" and said["prompts"]["categories"] == {"a": 2, "b": 2}
    result = rl.load("r")["phase_coherence"]
    found = said["analyses"]["phase_coherence"]
    assert found["summary"] == result.summary and Path(found["file"]).exists()
    assert [t["label"] for t in found["targets"]] == [t.label for t in result.targets(5)]


def test_without_out_the_results_go_to_a_new_folder(cli: Run, model: str, prompts: Path, here: Path) -> None:
    argv = ["run", model, "--prompts", prompts, "--analyses", "belief_collapse", "--quiet"]
    for _ in range(2):
        assert cli(*argv).code == 0
    folders = [path for path in here.iterdir() if path.is_dir()]
    assert len(folders) == 2
    assert all(re.fullmatch(r"tiny-llama-\d{8}-\d{6}(-\d)?", path.name) for path in folders)
    assert all((path / "run.json").exists() for path in folders)


def test_settings_reach_the_run(cli: Run, model: str, prompts: Path) -> None:
    argv = ["run", model, "--prompts", prompts, "--analyses", "phase_coherence, belief_collapse"]
    argv += ["--set", "phase_coherence.circle=half", "--set", "phase_coherence.min_keys=5", "--seed", "3"]
    argv += ["--set", "belief_collapse.positions=2", "--no-prepend-bos", "--batch-tokens", "10"]
    assert cli(*argv, "--out", "r", "--quiet", "--no-check", "--dtype", "bfloat16").code == 0
    run = rl.load("r")
    assert list(run) == ["phase_coherence", "belief_collapse"]
    given = run["phase_coherence"].provenance["parameters"]
    assert (given["circle"], given["min_keys"]) == ("half", 5)
    assert run["belief_collapse"].provenance["parameters"]["positions"] == 2
    record = run.provenance
    assert (record["seed"], record["batch_tokens"], record["prepend_bos"]) == (3, 10, False)
    assert record["model"]["dtype"] == "bfloat16"
    assert record["prompts"]["shortest"] == 9  # no beginning-of-sequence token


def test_demo_prompts(cli: Run, model: str) -> None:
    argv = ["run", model, "--prompts", "demo", "--per-category", "1", "--plan", "--json"]
    outcome = cli(*argv)
    # Ten words tokenise the demo prompts into many more tokens than the context holds.
    assert outcome.code == 2 and "context" in outcome.err or json.loads(outcome.out)["prompts"] == 4


def test_plan_says_what_would_be_done_and_does_nothing(
    cli: Run, model: str, prompts: Path, here: Path
) -> None:
    before = names(here)
    outcome = cli("run", model, "--prompts", prompts, "--plan", "--quiet")
    assert outcome.code == 0 and outcome.err == ""
    for word in ("prompts   4", "passes    ", "hooks     ", "memory    ", "run.json"):
        assert word in outcome.out
    assert "phase_coherence at 2 layers: plain, random_weights, shuffled_tokens" in outcome.out
    sentence = "mean square of R cannot be tested: 4 prompts can reach no p below 0.12; 6 prompts could"
    assert f"claim     phase_coherence: {sentence}\n" in outcome.out
    plan = json.loads(
        cli("run", model, "--prompts", prompts, "--out", "r", "--plan", "--batch-tokens", "13", "--json").out
    )
    assert plan["passes"] == 4 * 3 and plan["prompts"] == 4  # the model, its twin and shuffled text
    assert f"phase_coherence: {sentence}" in plan["claims"]
    assert names(here) == before
    cli("run", model, "--prompts", prompts, "--out", "r", "--quiet")
    assert set(plan["files"]) == {f"r/{name}" for name in names(here / "r")}


def test_run_file(cli: Run, model: str, prompts: Path, here: Path) -> None:
    folder = here / "study"
    folder.mkdir()
    shutil.copytree(model, folder / "own-model")
    shutil.move(prompts, folder)
    (folder / "run.toml").write_text(
        'model = "own-model"\nprompts = "prompts.jsonl"\nanalyses = ["belief_collapse", "phase_coherence"]\n'
        'out = "results"\nseed = 5\nbatch_tokens = 64\nprepend_bos = false\ndtype = "float32"\n'
        'device = "cpu"\ncheck = false\nbaselines = ["shuffled_tokens"]\n'
        '[parameters.phase_coherence]\ncircle = "half"\nmin_keys = 6\n'
    )
    assert cli("run", "--file", "study/run.toml", "--quiet").code == 0
    run = rl.load(folder / "results")  # relative paths are relative to the file
    assert run.provenance["seed"] == 5 and run.provenance["prepend_bos"] is False
    assert run["belief_collapse"].provenance["conditions"] == ["shuffled_tokens"]
    given = run["phase_coherence"].provenance["parameters"]
    assert (given["circle"], given["min_keys"]) == ("half", 6)

    argv = ["run", "--file", "study/run.toml", "--seed", "6", "--set", "phase_coherence.min_keys=7"]
    assert cli(*argv, "--analyses", "phase_coherence", "--out", "other", "--quiet").code == 0
    run = rl.load(here / "other")  # those of options, to the current folder
    assert list(run) == ["phase_coherence"] and run.provenance["seed"] == 6
    given = run["phase_coherence"].provenance["parameters"]
    assert (given["circle"], given["min_keys"]) == ("half", 7)


def test_run_file_in_the_help_is_one(here: Path) -> None:
    text = arguments.RUN_FILE.partition(":\n")[2].rpartition("further keys: ")
    (here / "run.toml").write_text(text[0])
    values = settings.read_run_file(here / "run.toml")
    assert set(values) | set(text[2].strip().split(", ")) == set(settings.KINDS)


def test_prompts_can_stand_in_the_run_file(cli: Run, model: str, here: Path) -> None:
    (here / "run.toml").write_text(
        f'model = "{model}"\nout = "r"\n[prompts]\na = ["{TEXTS[0]}"]\nb = ["{TEXTS[1]}"]'
    )
    assert cli("run", "--file", "run.toml", "--analyses", "belief_collapse", "--quiet").code == 0
    assert rl.load("r").provenance["prompts"]["categories"] == {"a": 1, "b": 1}


def test_check_model(cli: Run, model: str) -> None:
    outcome = cli("check-model", model, "--quiet")
    assert outcome.code == 0 and outcome.err == ""
    assert re.search(r"^pattern +0-1 +ok$", outcome.out, re.MULTILINE)
    assert "0 have a problem" in outcome.out
    data = json.loads(cli("check-model", model, "--json").out)
    assert data["ok"] and data["model"]["n_layers"] == 2
    assert {site["site"] for site in data["sites"]} >= {"pattern", "resid_post", "logits"}


@pytest.fixture
def two_runs(cli: Run, model: str, many_prompts: Path, here: Path) -> None:
    """Runs of two models on the same prompts, in folders a and b."""
    other = save_model(here / "other", seed=1)
    for name, folder in (("a", model), ("b", other)):
        argv = ["--prompts", many_prompts, "--analyses", "phase_coherence,belief_collapse,head_sync"]
        assert cli("run", folder, *argv, "--out", name, "--baselines", "none", "--quiet").code == 0


def require_said(said: dict[str, Any], compared: dict[str, xr.Dataset]) -> None:
    """Require that what a command printed as JSON is what a comparison holds."""
    assert list(said) == list(compared)
    for name, data in compared.items():
        assert said[name]["paired"] == bool(data.attrs["paired"])
        for about in said[name]["variables"]:
            x = about["variable"]
            whole = data.sel(category="all") if "category" in data.dims else data
            assert about["units_first"] == int(whole[f"{x}_units_a"])
            assert about["methods"] in data.attrs["methods"]
            for part in about["parts"]:
                here = {key: whole[f"{x}_{key}"].sel(part["at"]) for key in listings.COMPARED}
                differ = here["q"] <= 0.05
                smallest = about["minimum_effect"]
                sure = (here["difference_low"] > smallest) | (here["difference_high"] < -smallest)
                assert part["differ"] == int(differ.sum()) and part["matter"] == int((differ & sure).sum())
                assert part["of"] == int(here["difference"].notnull().sum()) > 0
                assert len(part["top"]) == min(5, part["of"])
                q = here["q"].values.ravel()
                assert [top["q"] for top in part["top"]] == sorted(q[q == q])
                for top in part["top"]:
                    place = dict(
                        zip(("layer", "head"), map(int, re.findall(r"\d+", top["label"])), strict=False)
                    )
                    for key, word in listings.COLUMNS.items():
                        expected = float(here[key].sel(place))
                        assert top[word] == expected or top[word] is None and expected != expected


@pytest.mark.usefixtures("two_runs")
def test_compare(cli: Run) -> None:
    outcome = cli("compare", "a", "b", "--out", "differences.csv")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("first   a\nsecond  b; differences are second minus first\n")
    assert "phase_coherence  (the same prompts, paired)" in outcome.out
    assert re.search(
        r"first_position drop: \d of 4 heads differ \(q <= 0.05\), \d of them by more than 0.05", outcome.out
    )
    assert re.search(r" first +second +difference +95 % interval +effect size +q\n", outcome.out)
    said = json.loads(cli("compare", "a", "b", "--json").out)
    assert (said["first"], said["second"]) == ("a", "b")
    compared = rl.compare(rl.load("a"), rl.load("b"))
    require_said(said["analyses"], compared)
    variables = {name: [v["variable"] for v in said["analyses"][name]["variables"]] for name in compared}
    assert variables["phase_coherence"] == ["coherence", "coherence_squared_effect"]  # headline and claim
    assert variables["head_sync"] == ["order_parameter", "consistency_effect"]
    for data in said["analyses"].values():
        for variable in data["variables"]:
            assert variable["methods"] in outcome.out
            assert all(top["label"] in outcome.out for part in variable["parts"] for top in part["top"])
    header, *rows = Path("differences.csv").read_text().splitlines()
    assert header.startswith("analysis,variable,category,first_position,layer,head,a,b,difference")
    assert header.endswith("difference_low,difference_high,effect_size,p,q")
    assert len(rows) == sum(
        v.size for d in compared.values() for n, v in d.items() if str(n).endswith("_difference")
    )


@pytest.mark.usefixtures("two_runs")
def test_compare_categories(cli: Run) -> None:
    a, b = rl.load("a"), rl.load("b")
    for argv, sides, compared in (
        (["a"], ("a, category a", "a, category b"), compare_categories(a, "a", "b")),
        (["a", "b"], ("a, category a", "b, category b"), compare_categories(a, "a", "b", other=b)),
    ):
        outcome = cli("compare", *argv, "--category", "a", "--against", "b", "--out", "d.csv")
        assert outcome.code == 0 and "prompts not paired" in outcome.out
        assert f"first   {sides[0]}\nsecond  {sides[1]};" in outcome.out
        said = json.loads(cli("compare", *argv, "--category", "a", "--against", "b", "--json").out)
        assert (said["first"], said["second"]) == sides
        require_said(said["analyses"], compared)
        assert Path("d.csv").read_text().startswith("analysis,variable,first_position,layer,head,a,b,")
    outcome = cli("compare", "a", "b", "--category", "b")
    assert "the same prompts, paired" in outcome.out and "over 8 prompts" in outcome.out
    outcome = cli("compare", "a", "--category", "a", "--against", "z")
    assert (outcome.code, outcome.err) == (2, "resonance-lens: There is no category 'z'. Known: a, b.\n")


def test_a_comparison_that_cannot_find_anything_says_so(cli: Run, model: str, prompts: Path) -> None:
    argv = ["--prompts", prompts, "--analyses", "phase_coherence", "--baselines", "none", "--quiet"]
    for seed in ("0", "1"):
        assert cli("run", model, *argv, "--seed", seed, "--out", seed).code == 0
    sentence = "4 prompts can reach no p below 0.12; 6 prompts could"
    outcome = cli("compare", "0", "1")
    assert f"    first_position keep: not tested: {sentence}.\n" in outcome.out
    said = json.loads(cli("compare", "0", "1", "--json").out)["analyses"]["phase_coherence"]["variables"][0]
    assert said["refused"] == sentence and said["parts"][0]["differ"] is None
    assert said["parts"][0]["top"][0]["q"] is None


# What stops a run, and what is left ------------------------------------------------------------


def stop_at(monkeypatch: pytest.MonkeyPatch, batch: int, error: BaseException) -> None:
    """Raise an error in the middle of a run, before one of its batches."""
    calls = iter(range(1000))

    def observe(condition: Condition, *args: Any, **named: Any) -> Any:
        if condition.name == "plain" and next(calls) == batch:  # each batch has three passes, this one first
            raise error
        return observe_under(condition, *args, **named)

    monkeypatch.setattr(engine, "observe_under", observe)


THREE_BATCHES = ("--analyses", "phase_coherence,head_sync,belief_collapse", "--batch-tokens", "24", "--quiet")
"""Settings under which the four prompts take three batches."""


@pytest.fixture(scope="session")
def whole(model: str) -> dict[str, xr.Dataset]:
    """What a run that nothing stops finds; from Python, which finds the same."""
    given = [rl.Prompt(text, "ab"[i % 2]) for i, text in enumerate(TEXTS)]
    run = rl.run(model, given, THREE_BATCHES[1].split(","), batch_tokens=24, progress=False)
    return {name: run[name].data for name in run}


@pytest.mark.parametrize("named", [True, False])
def test_an_interrupted_run_says_how_to_resume(
    named: bool,
    cli: Run,
    model: str,
    prompts: Path,
    here: Path,
    whole: dict[str, xr.Dataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    argv = ["run", model, "--prompts", prompts, *THREE_BATCHES, *(["--out", "my results"] if named else [])]
    with monkeypatch.context() as patch:
        stop_at(patch, 1, KeyboardInterrupt())
        outcome = cli(*argv)
    assert outcome.code == 130 and outcome.out == ""
    sentence, _, command = outcome.err.strip().partition(" To resume: ")
    assert sentence.startswith("resonance-lens: Interrupted; ")
    assert cli("report", shlex.split(command)[-1]).err.endswith("give the same command again to resume it.\n")
    program, *again = shlex.split(command)
    with monkeypatch.context() as patch:
        stop_at(patch, 2, AssertionError("the first of three batches was measured again"))
        outcome = cli(*again)
    assert program == "resonance-lens" and outcome.code == 0
    folder = Path(again[again.index("--out") + 1])
    assert all(data.identical(whole[name]) for name, data in results(folder).items())
    assert not (folder / "partial").exists()
    assert "already holds a finished run" in cli(*[a for a in again if a != "--quiet"]).err


def test_interrupted_before_anything_was_measured(
    cli: Run, model: str, prompts: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = names(here)
    stop_at(monkeypatch, 0, KeyboardInterrupt())
    outcome = cli("run", model, "--prompts", prompts, *THREE_BATCHES)
    assert (outcome.code, outcome.err) == (130, "resonance-lens: Interrupted before anything was measured.\n")
    assert names(here) == before


def test_a_killed_run_resumes(cli: Run, model: str, prompts: Path, whole: dict[str, xr.Dataset]) -> None:
    argv = ["run", model, "--prompts", str(prompts), *THREE_BATCHES, "--out", "killed"]
    code = (
        "import os, signal\n"
        "from resonance_lens import engine\n"
        "from resonance_lens.cli import main\n"
        "real, calls = engine.observe_under, iter(range(99))\n"
        "def observe(*args, **named):\n"
        "    if next(calls) == 4: os.kill(os.getpid(), signal.SIGKILL)\n"  # in the second batch
        "    return real(*args, **named)\n"
        "engine.observe_under = observe\n"
        f"main({argv!r})\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | ONE_THREAD
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert names(Path("killed")) == {"partial", "partial/features.zip"}
    outcome = cli(*[a for a in argv if a != "--quiet"])
    assert outcome.code == 0 and "Resuming the run in killed." in outcome.err
    assert all(data.identical(whole[name]) for name, data in results(Path("killed")).items())


@pytest.mark.parametrize("full_at", ["features.zip", "head_sync.nc", "run.json"])
def test_full_disk(
    full_at: str,
    cli: Run,
    model: str,
    prompts: Path,
    here: Path,
    whole: dict[str, xr.Dataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = names(here)
    real = os.replace

    def replace(source: str | Path, target: str | Path) -> None:
        if Path(target).name == full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("resonance_lens.files.os.replace", replace)
        outcome = cli("run", model, "--prompts", prompts, *THREE_BATCHES, "--out", "full")
    assert outcome.code == 2
    assert re.fullmatch(
        rf"resonance-lens: full/\S*{full_at} cannot be written: No space left on device; .*\n", outcome.err
    )
    if full_at == "features.zip":
        assert names(here) == before  # nothing at all
    else:
        assert not any(Path(name).name.startswith(".") for name in names(here / "full"))
        assert not (here / "full" / "run.json").exists()
    outcome = cli("run", model, "--prompts", prompts, *THREE_BATCHES, "--out", "full")
    assert outcome.code == 0
    assert all(data.identical(whole[name]) for name, data in results(Path("full")).items())


def test_full_disk_does_not_take_the_process_with_it(here: Path) -> None:
    """HDF5 cannot close a file that it cannot write, and crashes; so it writes to memory."""
    code = (
        "import resource, signal, sys, pathlib, numpy, xarray, h5netcdf\n"
        "from resonance_lens.errors import ResultError\n"
        "from resonance_lens.files import write_netcdf\n"
        "data = xarray.Dataset({f'x{i}': ('t', numpy.arange(900.0)) for i in range(9)})\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))\n"
        "try: write_netcdf(pathlib.Path('x.nc'), data)\n"
        "except ResultError as error: print(error)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("x.nc cannot be written: File too large;")
    assert names(here) == set()


def test_netcdf_made_in_memory_is_read_back(here: Path) -> None:
    data = xr.Dataset(
        {"x": ("t", [1.0, float("nan"), 3.0], {"units": "nat"})},
        coords={"t": ["a", "b", "ж"]},
        attrs={"k": 1},
    )
    files.write_netcdf(here / "x.nc", data)
    with xr.open_dataset(here / "x.nc", engine="h5netcdf") as read:
        xr.testing.assert_identical(read.load(), data)
    with pytest.raises(ResultError, match="cannot be written"):
        files.write_netcdf(here / "nowhere" / "x.nc", data)


def spoil_values(layer: int) -> Callable[[Any], None]:
    def spoil(network: Any) -> None:
        network.model.layers[layer].self_attn.v_proj.weight.data[0, 0] = float("nan")

    return spoil


def test_model_with_broken_weights(cli: Run, prompts: Path, here: Path) -> None:
    broken = save_model(here / "broken", spoil=spoil_values(1))
    before = names(here)
    argv = ["run", broken, "--prompts", prompts, "--analyses", "belief_collapse", "--out", "r", "--quiet"]
    outcome = cli(*argv)
    assert outcome.code == 1  # the proof fails first
    assert "'resid_post' at layer 1 hold not-a-number values" in outcome.err
    outcome = cli(*argv, "--no-check")
    assert outcome.code == 2
    assert "'resid_post' at layer 1 hold not-a-number values" in outcome.err
    assert names(here) == before
    outcome = cli("check-model", broken, "--quiet")
    assert outcome.code == 1
    assert re.search(r"^resid_post +0-1 +problem: .*layer 1 hold not-a-number", outcome.out, re.MULTILINE)
    assert re.search(r"^resid_pre +0-1 +ok$", outcome.out, re.MULTILINE)


def test_an_error_that_nobody_foresaw_is_shown_whole(
    cli: Run, model: str, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, 0, ZeroDivisionError("?"))
    with pytest.raises(ZeroDivisionError):
        cli("run", model, "--prompts", prompts, *THREE_BATCHES)


# Wrong input -----------------------------------------------------------------------------------

RUN = "run MODEL --prompts good.jsonl --out r "
PATCH = "patch MODEL --task induction "
PAIRS = "patch MODEL --pairs pairs.jsonl "
FILES: dict[str, str | bytes] = {
    "good.jsonl": "\n".join(json.dumps({"text": text}) for text in TEXTS),
    "empty.txt": "",
    "blank.jsonl": '{"text": "  "}',
    "one.jsonl": '{"text": "cat"}',
    "long.txt": "cat " * 40,
    "half.jsonl": f'{{"text": "{TEXTS[0]}", "category": "a"}}\n{{"text": "{TEXTS[1]}"}}',
    "latin.txt": b"caf\xe9",
    "pairs.jsonl": '{"clean": [0, 2, 3, 4], "corrupted": [0, 2, 5, 4], "right": 3, "wrong": 5}',
    "a-file": "",
    "no-toml.toml": "model = ",
    "key.toml": 'modle = "x"',
    "type.toml": 'model = "x"\nseed = "1"',
    "true.toml": 'model = "x"\nseed = true',
    "table.toml": 'model = "x"\nprompts = "demo"\n[parameters]\nphase_coherence = 3',
    "range.toml": 'model = "x"\nprompts = "demo"\n[parameters.phase_coherence]\ncircle = "third"',
    "names.toml": 'model = "x"\nanalyses = [1]',
    "baselines.toml": 'model = "x"\nbaselines = 3',
    "latin.toml": b'model = "\xe9"',
    "newer/run.json": f'{{"format": {FORMAT + 1}}}',
    "damaged/run.json": '{"format": ',
}

WRONG = {
    "": "Name a command: list, models, run, report, compare, patch, carriers, probe, discover, check-model; "
    "see `resonance-lens --help`.",
    "lst": "There is no command 'lst'. .* Did you mean 'list'?",
    "run --prompt x": "run takes no option '--prompt'. Did you mean '--prompts'?",
    "models --jsn": "models takes no option '--jsn'. Did you mean '--json'?",
    "run MODEL extra --prompts good.jsonl": "run takes no argument 'extra'.",
    "run MODEL --prompts": "Argument --prompts: expected one argument; see `resonance-lens run --help`.",
    "run MODEL": "run needs --prompts, or a run file with the key 'prompts'.",
    "run --prompts good.jsonl": "run needs MODEL, or a run file with the key 'model'.",
    "report": "The following arguments are required: RUN_DIR; see `resonance-lens report --help`.",
    "run MODEL --prompts empty.txt": "Cannot read prompts from 'empty.txt': the file holds no prompt.",
    "run MODEL --prompts blank.jsonl": "Line 1 of 'blank.jsonl' is empty; .*",
    "run MODEL --prompts one.jsonl --analyses attention_entropy": "Prompt 'prompt-000' has 2 tokens, and "
    "attention_entropy needs .*",
    "run MODEL --prompts one.jsonl --analyses belief_collapse --no-prepend-bos": "Prompt 'prompt-000' has 1 "
    "token, and belief_collapse needs at least 2; .*",
    "run MODEL --prompts long.txt": "Prompt 'prompt-000' has 41 tokens, and the context of .* holds 32; .*",
    "run MODEL --prompts half.jsonl": "Category missing: prompt 1 .*",
    "run MODEL --prompts nowhere.jsonl": "Cannot read prompts from 'nowhere.jsonl': No such file .*",
    "run MODEL --prompts a-file": "Cannot read prompts from 'a-file': its name must end in .*",
    "run MODEL --prompts newer.txt/x.txt": "Cannot read prompts from .*: No such file or directory.",
    "run MODEL --prompts latin.txt": "Cannot read prompts from 'latin.txt': not UTF-8 text.",
    RUN + "--analyses phase_coherense": "There is no analysis 'phase_coherense'. .* mean 'phase_coherence'?",
    RUN + "--analyses ,": "No analysis was named; there are .*",
    RUN + "--baselines random_weight": "There is no baseline 'random_weight'. Known: all, none, .* Did you "
    "mean 'random_weights'?",
    RUN + "--baselines all,none": "There is no baseline 'all'. .*",
    RUN + "--analyses head_sync,head_sync": "head_sync was named twice; .*",
    "run smollm2-135 --prompts good.jsonl": "There is no model 'smollm2-135'. .* mean 'smollm2-135m'?",
    "run ./nowhere --prompts good.jsonl": "The model folder './nowhere' does not exist.",
    "run nobody/nothing --prompts good.jsonl": "The model 'nobody/nothing' is not on this machine .*",
    "check-model newer": "The folder .* is not a model in Hugging Face format: .*",
    RUN + "--set circle=half": "--set takes analysis.parameter=value, such as .*; got 'circle=half'.",
    RUN + "--set phase_coherence.circle": "--set takes .*; got 'phase_coherence.circle'.",
    RUN + "--set =3": "--set takes .*; got '=3'.",
    RUN + "--set phase_coherence.circel=half": "There is no parameter of phase_coherence 'circel'. "
    "Known: .*min_keys.* Did you mean 'circle'?",
    RUN + "--set phase_coherence.evidence=measured": "There is no parameter of phase_coherence .*",
    RUN + "--set phase_coherance.circle=half": "There is no analysis 'phase_coherance'. .*",
    RUN + "--set phase_coherence.circle=third": "The 'circle' parameter of phase_coherence must be .*",
    RUN + "--set phase_coherence.min_keys=many": "The 'min_keys' parameter .* be of type int; got 'many'.",
    RUN + "--set phase_coherence.min_keys=2": "The 'min_keys' parameter .* must be at least 4; got 2.",
    RUN + "--analyses head_sync --set phase_coherence.min_keys=9": "Parameters were given for .*",
    RUN + "--seed x": "Argument --seed: invalid int value: 'x'; see `resonance-lens run --help`.",
    RUN + "--batch-tokens 0": "The 'batch_tokens' parameter of run must be an integer of at least 1; got 0.",
    RUN + "--per-category 2": "per_category is for the demo prompts; .*",
    "run MODEL --prompts demo --per-category 99": "The 'per_category' parameter of demo_prompts must be .*",
    RUN + "--dtype int8": "The 'dtype' parameter of load_model must be one of .*; got 'int8'.",
    RUN + "--device gpu": "The 'device' parameter of load_model must be .*; got 'gpu'.",
    RUN + "--out a-file/r": "The folder a-file/r cannot be made: Not a directory; .*",
    RUN + "--out /proc/r": "The folder /proc/r cannot be made: .*",
    RUN + "--out newer": f"The run in newer has format {FORMAT + 1}, .* reads up to {FORMAT}; .*",
    "run x.toml --prompts good.jsonl": "'x.toml' is a run file, not a model: give it with --file.",
    "run --file nowhere.toml": "Cannot read the run file 'nowhere.toml': No such file or directory.",
    "run --file no-toml.toml": "The run file 'no-toml.toml' is not TOML: Invalid value .*",
    "run --file latin.toml": "The run file 'latin.toml' is not TOML: .*",
    "run --file key.toml": "The run file 'key.toml' is wrong. There is no key 'modle'. .* mean 'model'?",
    "run --file type.toml": "In the run file 'type.toml', seed must be an integer; got '1'.",
    "run --file true.toml": "In the run file 'true.toml', seed must be an integer; got True.",
    "run --file table.toml": "In the run file 'table.toml', parameters must be tables such as .*",
    "run --file range.toml": "The 'circle' parameter of phase_coherence must be .*; got 'third'.",
    "run --file names.toml": "In the run file 'names.toml', analyses must be a string or a list of names.",
    "run --file baselines.toml": "In the run file 'baselines.toml', baselines must be 'all', 'none' or a "
    "list of names; got 3.",
    "report nowhere": "There is no run in nowhere: it holds no run.json.",
    "report newer": f"The run in newer has format {FORMAT + 1}, .*",
    "report damaged": "damaged/run.json cannot be read: .*",
    "compare newer newer": f"The run in newer has format {FORMAT + 1}, .*",
    "compare": "The following arguments are required: RUN_A; see `resonance-lens compare --help`.",
    "compare newer": "compare needs RUN_B, or two categories of RUN_A: --category X --against Y; see "
    "`resonance-lens compare --help`.",
    "compare newer --category a": "compare needs RUN_B, or two categories of RUN_A: .*",
    "compare newer newer --against a": "--against needs --category: the category of the first side.",
    "patch --task induction": "patch needs RUN_OR_MODEL: the folder of a run, or the name of a model.",
    "patch MODEL": "patch needs prompts: either --task NAME or --pairs FILE; see `resonance-lens patch "
    "--list`.",
    "patch MODEL --task induction --pairs x.jsonl": "patch needs prompts: either --task NAME or .*",
    "patch MODEL --pairs x.jsonl --n-pairs 3": "--n-pairs is for a ready task; leave it out with .*",
    "patch MODEL --task inducton": "There is no task 'inducton'. Known: .* Did you mean 'induction'?",
    PATCH + "--n-pairs 0": "The 'n_pairs' parameter of prompt_pairs must be an integer of at least 1; got 0.",
    PATCH + "--operation pach": "There is no operation 'pach'. Known: .* Did you mean 'patch'?",
    PATCH + "--operation patch --operation patch": "An operation was named twice; .*",
    PATCH
    + "--set remove_band.band=low": "--set is given for remove_band, which is not among the operations; "
    "name it too.",
    PATCH + "--set band=low": "--set takes operation.parameter=value, such as remove_band.band=high; got .*",
    PATCH + "--set remove_bnd.band=low": "There is no operation 'remove_bnd'. .* mean 'remove_band'?",
    PATCH
    + "--operation remove_band --set remove_band.bnd=low": "There is no parameter of remove_band 'bnd'. "
    "Known: .* Did you mean 'band'?",
    PATCH
    + "--set names.segment=3": "--set is given for the task names, which is not the one that was named.",
    PATCH
    + "--set induction.segmnt=3": "There is no option of the task induction 'segmnt'. .* mean 'segment'?",
    PATCH + "--operation remove_band": "remove_band looks ahead: .*; allow it with --allow-look-ahead, or .*",
    PATCH + "--operation kernel": "The operation 'kernel' takes kernels from the folder of a run with "
    "attention_filter; .* is no run.",
    PATCH + "--metric logits": "There is no metric 'logits'. Known: .*",
    PATCH + "--direction up": "There is no direction 'up'. Known: denoise, noise.",
    PATCH + "--controls placbo": "There is no control 'placbo'. Known: .* Did you mean 'placebo'?",
    PATCH + "--targets hedas": "There is no site or set of targets 'hedas'. Known: .* Did you mean 'heads'?",
    PATCH + "--targets L1H": "There is no site or set of targets 'L1H'. Known: .*",
    PATCH + "--targets ,": "--targets names nothing; it takes heads, layers, .*",
    PATCH + "--targets L1": "A whole layer needs its site, such as attn_out:L1, .*; got 'L1'.",
    PATCH
    + "--targets head_sync:3": "The targets 'head_sync:3' are of a run, and .* is none; give the folder .*",
    PATCH + "--model x": "--model is for the folder of a run; .* is none.",
    PATCH + "--targets L1H0+L1H1": "--targets takes heads, layers, .*; got 'L1H0+L1H1'.",
    PAIRS + "--targets L9H0": "Target L9H0 is not in .*: its layers are 0 to 1.",
    PAIRS
    + "--batch-tokens 0": "The 'batch_tokens' parameter of patch must be an integer of at least 1; got 0.",
    PAIRS
    + "--prescreen 9": "The 'prescreen' parameter of patch must be an integer from 1 to 4, or None; got 9.",
    "patch newer --task induction": f"The run in newer has format {FORMAT + 1}, .*",
    "patch MODEL --pairs nowhere.jsonl": "Cannot read pairs from .*nowhere.jsonl.*",
    "compare newer newer --catgory a": "compare takes no option '--catgory'. Did you mean '--category'?",
}


@pytest.fixture
def inputs(here: Path) -> None:
    for name, content in FILES.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.usefixtures("inputs")
@pytest.mark.parametrize(("command", "sentence"), WRONG.items(), ids=WRONG)
def test_wrong_input_gets_one_sentence(command: str, sentence: str, cli: Run, model: str, here: Path) -> None:
    before = names(here)
    outcome = cli(*(model if word == "MODEL" else word for word in command.split()))
    assert (outcome.code, outcome.out) == (2, "")
    said = outcome.err.splitlines()[-1]  # there may be a progress bar before it
    pattern = re.escape("resonance-lens: " + sentence).replace(r"\.\*", ".*")
    assert re.fullmatch(pattern, said), said
    for name, owner in re.findall(r"The '(\w+)' parameter of (\w+) must", said):
        assert name in parameters_of(owner)
    assert len(said) < 500 and said[-1] in ".?'`" and "Traceback" not in outcome.err
    assert names(here) == before


def parameters_of(owner: str) -> set[str]:
    """Return the parameters of what a message names: an analysis, or a function of ours."""
    if owner in catalogue():
        return set(catalogue()[owner].parameters)
    return set(inspect.signature(getattr(rl, owner)).parameters)


def test_folder_of_another_run(cli: Run, model: str, prompts: Path, here: Path) -> None:
    argv = ["run", model, "--prompts", prompts, "--analyses", "belief_collapse", "--out", "r", "--quiet"]
    assert cli(*argv).code == 0
    before = {path: path.read_bytes() for path in (here / "r").iterdir()}
    outcome = cli(*argv, "--seed", "1")
    assert outcome.code == 2 and "holds a run with other seed;" in outcome.err
    assert {path: path.read_bytes() for path in (here / "r").iterdir()} == before
    assert "cannot be written" in cli("report", "r", "--out", "nowhere/x.html").err


# Advice is tested ------------------------------------------------------------------------------


def texts_of_the_package() -> Iterator[tuple[str, str]]:
    """Yield each string of our sources that a user may see, with the name of its file.

    Programs of their own, with options of their own, are left out.
    """
    for path in sorted(ROOT.joinpath("resonance_lens").rglob("*.py")):
        tree = ast.parse(path.read_text())
        if path.name != "arguments.py" and "argparse.ArgumentParser(" in path.read_text():
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield (
                    path.name,
                    "".join(
                        str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
                    ),
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path.name, node.value


def options() -> dict[str, set[str]]:
    """Return the options of each command."""
    _, parsers = arguments.make_parser()
    return {
        name: {option for action in parser._actions for option in action.option_strings}
        for name, parser in parsers.items()
    }


OTHERS = {"--no-deps", "--force-reinstall"}  # of pip


def test_every_option_and_command_in_a_text_exists() -> None:
    known = options()
    every = set().union(*known.values()) | OTHERS | {"--version"}
    found = 0
    for file, text in texts_of_the_package():
        for option in re.findall(r"(?<!var\()(?<![\w-])--[a-z][a-z-]+", text):
            assert option in every, f"{file}: {text!r} names {option}"
            found += 1
        for command, option in re.findall(r"resonance-lens ([a-z][a-z-]+)(?: (--[a-z-]+))?", text):
            assert command in known, f"{file}: {text!r} names the command {command}"
            assert not option or option in known[command], f"{file}: {text!r} names {option}"
            found += 1
    assert found > 40


def test_every_advice_against_wrong_input_exists() -> None:
    known = options()
    for sentence in WRONG.values():
        for command in re.findall(r"`resonance-lens ([a-z-]+) --help`", sentence):
            assert command in known
        for option in re.findall(r"--[a-z-]+", sentence.partition("Did you mean")[2]):
            assert any(option in those for those in known.values())
        for key in re.findall(r"the key '(\w+)'", sentence):
            assert key in settings.KINDS


def test_keys_of_a_run_file_are_options_of_run() -> None:
    parsed = vars(arguments.parse(["run", "x"]))
    assert set(settings.KINDS) - {"parameters"} <= set(parsed)
    assert set(settings.KINDS) - {"parameters"} == set(settings.Settings.__dataclass_fields__) - {
        "named",
        "parameters",
    }


# The bundled model, as the README has it -------------------------------------------------------


def test_bundled_model_end_to_end(here: Path) -> None:
    program = [sys.executable, "-m", "resonance_lens.cli"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | ONE_THREAD

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*program, *argv], env=environment, capture_output=True, text=True)

    argv = ["--prompts", "demo", "--per-category", "1", "--analyses", "attention_entropy", "--out", "r"]
    done = run("run", "smollm2-135m", *argv, "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 prompts in 4 categories" in done.stdout
    assert rl.load("r")["attention_entropy"].data.sizes["layer"] == 30
