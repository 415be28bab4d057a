"""The command that probes: what can be chosen, what it prints and leaves behind, and how it resumes."""

from __future__ import annotations

import json
import random
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resonance_lens as rl
from resonance_lens import arguments, probe_settings
from resonance_lens.dsp.cosine import PRISM_BANDS
from resonance_lens.errors import ParameterError
from resonance_lens.hooks.adapter import ModelAdapter
from resonance_lens.probing import probe as module
from resonance_lens.probing.asked import PROBES
from resonance_lens.probing.names import ALL, BAND_MEANINGS, PROBE_MEANINGS, label_names
from resonance_lens.probing.places import fit_and_score
from tests.test_cli import WORDS, Run, names, runner, save_model

SMALL = ("--window", "20", "--bands", "all,0.1-0.5", "--n-shuffles", "1")
CALL = ("probe", "MODEL", "--prompts", "PROMPTS", "--label", "function_word", *SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, twelve documents of two categories, and labels of single words of them."""
    where = tmp_path_factory.mktemp("probe")
    save_model(where / "tiny-llama")
    save_model(where / "other-llama", seed=1)
    source = random.Random(0)
    texts = [" ".join(source.choices(WORDS[2:], k=40)) for _ in range(12)]
    lines = [{"text": t, "category": "ab"[i % 2], "id": f"d{i}"} for i, t in enumerate(texts)]
    (where / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (where / "five.jsonl").write_text("\n".join(map(json.dumps, lines[:5])))
    rows = ["document,start,end,label"]
    for i, text in enumerate(texts):
        spans = [(m.start(), m.end(), m[0] in ("cat", "dog")) for m in re.finditer(r"\w+", text)]
        rows += [f"d{i},{a},{b},{'animal' if animal else 'other'}" for a, b, animal in spans]
    (where / "animals.csv").write_text("\n".join(rows))
    (where / "cut.csv").write_text(f"document,start,end,label\nd0,0,{len(texts[0].split()[0]) - 1},x")
    (where / "columns.csv").write_text("document,start,label\nd0,0,x")
    (where / "leak.json").write_text('{"train": ["d0"], "validation": ["d1"], "test": ["d0"]}')
    (where / "rows.json").write_text('["d0", "d1"]')
    (where / "same.csv").write_text("document,start,end,label\nd0,0,40,x")
    return where


@pytest.fixture
def cli(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run a command in an empty folder; words of the fixture above stand for its paths."""
    monkeypatch.chdir(tmp_path)
    files = {"PROMPTS": "prompts.jsonl", "FIVE": "five.jsonl", "ANIMALS": "animals.csv", "CUT": "cut.csv"}
    known = {
        "MODEL": "tiny-llama",
        "OTHER": "other-llama",
        "COLUMNS": "columns.csv",
        "SAME": "same.csv",
        "LEAK": "leak.json",
        "ROWS": "rows.json",
        **files,
    }
    return runner(capsys, {word: folder / path for word, path in known.items()})


# What can be chosen ----------------------------------------------------------------------------


def test_list_says_what_can_be_chosen(cli: Run) -> None:
    outcome = cli("probe", "--list")
    assert (outcome.code, outcome.err) == (0, "")
    for name in PROBES:
        assert re.search(rf"^--probes {name}  ", outcome.out, re.M)
    for band in PRISM_BANDS:
        assert re.search(rf"^--bands {band.name}  ", outcome.out, re.M)
    data = json.loads(cli("probe", "--list", "--json").out)
    assert [each["name"] for each in data["probes"]] == [*PROBES]
    listed = [each["name"] for each in data["labels"]]
    assert listed == [name for name in label_names() if not name.startswith("next_")]
    for name in listed:
        assert re.search(rf"^--label {name}  ", outcome.out, re.M)


def test_what_is_listed_without_loading_anything_is_what_there_is() -> None:
    assert [*PROBE_MEANINGS] == [*PROBES]
    assert [*BAND_MEANINGS] == [ALL, *(band.name for band in PRISM_BANDS)]
    for band in PRISM_BANDS:
        said = re.match(r"([\d.]+) to ([\d.]+) cycles per token", BAND_MEANINGS[band.name])
        assert said is not None
        np.testing.assert_allclose([float(each) for each in said.groups()], band.frequencies, rtol=5e-3)


def test_the_help_has_examples_that_can_be_parsed(cli: Run, folder: Path) -> None:
    text = cli("probe", "--help").out.replace("\\\n", " ")
    examples = [line for line in text.splitlines() if line.strip().startswith("resonance-lens probe")]
    assert len(examples) == 3
    for line in examples:
        words = shlex.split(line.replace("spans.csv", shlex.quote(str(folder / "animals.csv"))))
        told = probe_settings.from_arguments(arguments.parse(words[1:]))
        assert told.model == "smollm2-135m"
    assert told.options["baselines"] == ["random_weights"] and told.options["bands"][-1] == "0.1-0.25"


# Results ---------------------------------------------------------------------------------------


def test_it_says_what_it_found_and_the_numbers_are_those_of_probe(
    cli: Run, folder: Path, tmp_path: Path
) -> None:
    outcome = cli(*CALL, "--out", "words")
    assert outcome.code == 0, outcome.err
    assert "streaming" in outcome.err and "probing" in outcome.err  # the progress
    files = {"words/run.json", "words/probe.nc", "words/probes"}
    places = {
        f"words/probes/linear-L0{layer}-{band}.{ending}"
        for layer in (0, 1)
        for band in ("all", "0.1-0.5")
        for ending in ("json", "safetensors")
    }
    assert names(tmp_path) - {"words"} == files | places
    result = rl.load("words")["probe"]
    assert f"probe [measured] {result.summary}" in outcome.out
    model = rl.load_model(folder / "tiny-llama", progress=False)
    expected = rl.probe(
        model, folder / "prompts.jsonl", "function_word", window=20, bands=("all", "0.1-0.5"), n_shuffles=1,
        progress=False,
    )  # fmt: skip
    assert result.data.identical(expected.data)
    again = cli(*CALL, "--out", "words", "--json")
    assert "already holds a finished run" in again.err
    assert json.loads(again.out)["analyses"]["probe"]["summary"] == result.summary
    page = next(line for line in outcome.out.splitlines() if line.startswith("page"))
    assert cli(*shlex.split(page)[2:]).code == 0
    assert "function_word" in Path("words/report.html").read_text()


def test_options_reach_the_result_and_two_results_are_compared(cli: Run) -> None:
    argv = "--site attn_out --layers 1 --method causal --probes linear,spectral_filter --seed 3 --quiet"
    call = (*CALL, *argv.split(), "--features", "kept", "--features-dtype", "float32", "--no-prepend-bos")
    outcome = cli(*call, "--batch-tokens", "64", "--baselines", "none")
    assert (outcome.code, outcome.err) == (0, "")
    (out,) = (line.split()[1] for line in outcome.out.splitlines() if line.startswith("results"))
    result = rl.load(out)["probe"]
    about = result.provenance["probe"]
    assert (about["site"], about["layers"], about["method"]) == ("attn_out", [1], "causal")
    assert [*about["probes"]] == ["linear", "spectral_filter"]
    assert about["baselines"] == [] and "score_random_weights" not in result.data
    assert result.provenance["features"]["dtype"] == "float32"
    assert (result.provenance["seed"], result.provenance["prepend_bos"]) == (3, False)
    assert json.loads(Path("kept/manifest.json").read_text())["site"] == "attn_out"
    other = cli("probe", "OTHER", *CALL[2:], *argv.split(), "--no-prepend-bos", "--out", "other")
    assert other.code == 0, other.err
    compared = cli("compare", out, "other", "--json")
    assert compared.code == 0, compared.err
    second = rl.load("other")["probe"].data["score"]
    difference = rl.compare(rl.load(out)["probe"], rl.load("other")["probe"])["score_difference"]
    np.testing.assert_allclose(
        difference.sel(category="all"), second - result.data["score"], atol=1e-6, equal_nan=True
    )
    assert "probe" in json.loads(compared.out)["analyses"]


def test_a_causal_check_is_added_to_a_finished_run(cli: Run) -> None:
    split = {"train": [f"d{i}" for i in range(4)], "validation": ["d4", "d5"], "test": ["d6", "d7", "d8"]}
    Path("split.json").write_text(json.dumps(split))
    call = (*CALL, "--layers", "0", "--split", "split.json", "--out", "words")
    assert cli(*call).code == 0
    planned = json.loads(cli(*call, "--causal", "--plan", "--json").out)
    assert planned["edited"] == 3 * 2 * (3 + 5)  # documents, windows, and what is done at two places
    outcome = cli(*call, "--causal")
    assert outcome.code == 0 and "removing" in outcome.err and "nothing is measured" not in outcome.err
    result = rl.load("words")["probe"]
    assert result.provenance["probe"]["split"] == split
    assert "Taking what linear reads" in outcome.out
    assert result.data["effect"].dims == ("place", "removed")
    again = cli(*call, "--causal")
    assert again.code == 0 and "removing" not in again.err
    assert cli("report", "words").code == 0


def test_shares_of_a_split_come_from_the_command_line(cli: Run) -> None:
    call = (*CALL, "--layers", "0", "--bands", "all", "--split", "1,1,2", "--out", "words", "--quiet")
    assert cli(*call).code == 0
    split = rl.load("words")["probe"].provenance["probe"]["split"]
    assert {part: len(ids) for part, ids in split.items()} == {"train": 3, "validation": 3, "test": 6}


def test_a_call_that_fails_is_taken_up_without_what_failed(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cli(*CALL, "--layers", "0", "--out", "whole", "--quiet")
    made: list[str] = []

    def fails(probe: Any, *rest: Any) -> Any:
        made.append(probe.name)
        if probe.name == "logistic":
            raise ParameterError("It cannot be fitted.")
        return fit_and_score(probe, *rest)

    monkeypatch.setattr(module, "fit_and_score", fails)
    call = (*CALL, "--layers", "0", "--out", "words", "--quiet")
    outcome = cli(*call, "--probes", "logistic")
    assert (outcome.code, outcome.err) == (2, "resonance-lens: It cannot be fitted.\n")
    assert cli(*call, "--probes", "linear,logistic").code == 2  # the features serve, and places are kept
    made.clear()
    again = cli(*call)
    assert (again.code, again.err) == (0, "")
    assert made == ["linear", "linear"]  # of random features
    assert rl.load("words")["probe"].data.equals(rl.load("whole")["probe"].data) and whole.code == 0
    probes = {name for name in names(tmp_path) if name.startswith("words/probes/")}
    assert probes == {name.replace("whole", "words") for name in names(tmp_path) if "whole/probes/" in name}
    assert not Path("words/partial").exists()


def test_features_that_cannot_be_are_not_in_the_way(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resonance_lens.probing.store.LARGEST_HALF", 1e-9)
    call = (*CALL, "--layers", "0", "--bands", "all", "--quiet", "--features", "kept", "--out", "words")
    outcome = cli(*call)
    assert outcome.code == 2 and "too large for float16; store them as float32" in outcome.err
    assert not Path("kept").exists() and not Path("words").exists()
    assert cli(*call, "--features-dtype", "float32").code == 0


def test_labels_come_from_a_file(cli: Run) -> None:
    call = ("probe", "MODEL", "--prompts", "PROMPTS", "--labels-file", "ANIMALS", *SMALL, "--out", "animals")
    outcome = cli(*call, "--site", "resid_pre", "--layers", "0-1", "--quiet")
    assert (outcome.code, outcome.err) == (0, "")
    result = rl.load("animals")["probe"]
    assert result.provenance["probe"]["label"] == "animals"
    assert result.provenance["probe"]["classes"] == ["animal", "other"]
    # Before the first layer there is a vector for each of eight words, and a class is linear in them.
    score = result.data["score"].sel(probe="linear", layer=0)
    assert float(score.sel(band="all")) == 1 > float(score.sel(band="0.1-0.5"))


def test_a_folder_that_is_called_as_the_label_is_resumed(cli: Run) -> None:
    call = (*CALL, "--layers", "0", "--bands", "all", "--out", "function_word", "--quiet")
    assert cli(*call).code == 0
    again = cli(*call)
    assert (again.code, again.err) == (0, "")


# Plans, interruptions --------------------------------------------------------------------------


def test_the_plan_says_the_passes_and_places_that_are_made(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = (*CALL, "--baselines", "random_weights", "--batch-tokens", "90", "--out", "words", "--quiet")
    planned = json.loads(cli(*call, "--plan", "--json").out)
    text = cli(*call, "--plan")
    assert (text.code, text.err, names(tmp_path)) == (0, "", set())
    assert f"passes    {planned['passes']} of the model" in text.out
    assert f"places    {planned['places']} probes" in text.out and "GiB of features" in text.out
    sizes: list[tuple[int, ...]] = []
    places = []
    run = ModelAdapter.run

    def counted(self: Any, batch: Any, *rest: Any) -> Any:
        sizes.append(tuple(batch.tokens.shape))
        return run(self, batch, *rest)

    def scored(*given: Any) -> Any:
        places.append(1)
        return fit_and_score(*given)

    # The proof that sites are read as they should be makes passes of its own.
    monkeypatch.setattr("resonance_lens.hooks.proof.require", lambda *_: None)
    monkeypatch.setattr(ModelAdapter, "run", counted)
    monkeypatch.setattr(module, "fit_and_score", scored)
    assert cli(*call).code == 0
    assert planned["passes"] == len(sizes) == 12  # four windows of 21 tokens in each, twice
    assert max(rows * tokens for rows, tokens in sizes) <= 90
    assert planned["places"] == len(places) - 2 == 8  # two more are of random features
    assert planned["tokens"] == 12 * 40
    result = rl.load("words")["probe"]
    assert planned["disk_bytes"] == result.provenance["features"]["bytes"]
    assert "score_random_weights" in result.data
    for pattern in planned["files"]:
        assert list(Path().glob(pattern.replace("PROBE-LAYER-BAND", "*")))


def test_a_stopped_call_says_how_to_resume(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cli(*CALL, "--out", "whole", "--quiet")
    made: list[int] = []

    def stops(*given: Any) -> Any:
        made.append(1)
        if len(made) == 3:
            raise KeyboardInterrupt
        return fit_and_score(*given)

    monkeypatch.setattr(module, "fit_and_score", stops)
    outcome = cli(*CALL, "--out", "words", "--quiet")
    assert (outcome.code, outcome.out) == (130, "")
    sentence, _, command = outcome.err.strip().partition(" To resume: ")
    assert sentence == "resonance-lens: Interrupted; words keeps what was measured."
    again = cli(*[word for word in shlex.split(command)[1:] if word != "--quiet"])
    assert again.code == 0 and "Resuming the run in words." in again.err
    assert len(made) == 3 + 4 - 2 + 2  # the places that are left, and random features in two bands
    assert rl.load("words")["probe"].data.equals(rl.load("whole")["probe"].data) and whole.code == 0
    assert not Path("words/partial").exists()
    other = cli(*CALL, "--out", "words", "--seed", "1", "--quiet")
    assert other.code == 2 and "holds a run with other" in other.err and "seed" in other.err


def test_a_disk_that_is_too_small_leaves_nothing_behind(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda folder: 10)
    outcome = cli(*CALL, "--out", "words", "--quiet")
    assert outcome.code == 2 and "The features need" in outcome.err
    assert names(tmp_path) == set()


# What cannot be --------------------------------------------------------------------------------

WRONG = {
    "probe": "probe needs MODEL: the name or the folder of a model.",
    "probe MODEL": "probe needs --prompts; see `resonance-lens probe --help`.",
    "probe MODEL --prompt demo": "probe takes no option '--prompt'. Did you mean '--prompts'?",
    "probe MODEL --prompts nowhere.jsonl": "Cannot read prompts from .*nowhere.jsonl.*",
    "CALL --label word_clas": "There is no label 'word_clas'. .* Did you mean 'word_class'?",
    "CALL --label next_category": "There is no label 'next_category'. .*",
    "CALL --probes liner": "There is no probe 'liner'. .* Did you mean 'linear'?",
    "CALL --bands mid-hihg": "There is no band 'mid-hihg' along tokens: .* Did you mean 'mid-high'?",
    "CALL --bands level2": "There is no band 'level2' along tokens: .*",
    "CALL --bands none": "The band 'none' has nothing in it to read; choose another.",
    "CALL --method dtc": "Bands are made by dct, wavelet, causal; got 'dtc'.",
    "CALL --bands mid-low": "The band 'mid-low' cannot be read from windows of 20 measured tokens: .*",
    "CALL --site resid_pots": "There is no site 'resid_pots'. .* Did you mean 'resid_post'?",
    "CALL --site pattern": "Probes read a site of tokens, and 'pattern' is none; choose .*",
    "CALL --layers 0,x": "--layers takes numbers and ranges such as 0,10,20-29, or all; got 'x'.",
    "CALL --layers 1-0": "--layers takes numbers and ranges such as 0,10,20-29, or all; got '1-0'.",
    "CALL --layers 2": "The 'layers' parameter of probe must be layers out of 0 to 1; got [2].",
    "CALL --baselines shuffled_tokens": "There is no baseline 'shuffled_tokens'. .*",
    "CALL --window 64": "The 'window' parameter of probe must be an integer from 2 to 31, .*",
    "CALL --features-dtype bfloat16": "Features are stored as float16 or float32; got 'bfloat16'.",
    "CALL --prompts FIVE": "5 documents are too few to split into train, validation and test: .*",
    "CALL --label capital": "The label 'capital' has one class ('no') in this corpus; a probe needs two.",
    "CALL --label month": "The label 'month' has no value anywhere, so that there is nothing to predict.",
    "CALL --labels-file ANIMALS": "Labels come from --label or from --labels-file; give one of the two.",
    "FILE nowhere.csv": "The table of labels nowhere.csv cannot be read: .*",
    "FILE COLUMNS": "Row 1 of columns.csv has no 'end'; a table of labels has the columns .*",
    "FILE CUT": "Row 1 of cut.csv does not align with tokens: .*",
    "FILE SAME": "The label 'same' has one class ('x') in this corpus; a probe needs two.",
    "CALL --split 0.6,0.4": "The 'split' parameter of probe must be three shares above zero, .*",
    "CALL --split nowhere.json": "--split takes three shares such as 0.6,0.2,0.2, or a JSON file; .*",
    "CALL --split PROMPTS": "--split takes three shares .* cannot be read: Extra data: .*",
    "CALL --split LEAK": "The split leaks: document 'd0' is in train and in test; put it on one side.",
    "CALL --split ROWS": 'The split .*rows.json must be like {"train": [ids], .*',
    "CALL --probes spectral_filter --causal": "A causal check takes out what a linear probe reads, .*",
    "CALL --probes fourier_head": ".*fourier_head is for ordered labels; take another probe for classes.",
}


@pytest.mark.parametrize(("command", "sentence"), WRONG.items(), ids=WRONG)
def test_wrong_input_gets_one_sentence(command: str, sentence: str, cli: Run, tmp_path: Path) -> None:
    file = " ".join(("probe MODEL --prompts PROMPTS", *SMALL, "--labels-file"))
    words = command.replace("CALL", " ".join(CALL)).replace("FILE", file).split()
    outcome = cli(*words, *(("--quiet",) if words != ["probe"] else ()))
    assert (outcome.code, outcome.out) == (2, "")
    said = outcome.err.splitlines()
    pattern = re.escape(f"resonance-lens: {sentence}").replace(r"\.\*", ".*")
    assert len(said) == 1 and re.fullmatch(pattern, said[0]), said
    assert names(tmp_path) == set()


def test_what_is_misspelt_is_said_before_a_model_loads(cli: Run) -> None:
    for option, value in (
        ("--label", "x"),
        ("--probes", "x"),
        ("--bands", "x"),
        ("--site", "x"),
        ("--baselines", "x"),
        ("--layers", "x"),
        ("--prompts", "x.jsonl"),
    ):
        outcome = cli("probe", "no-such-model", "--prompts", "PROMPTS", option, value, "--quiet")
        assert outcome.code == 2 and "x" in outcome.err and "no-such-model" not in outcome.err


def test_a_probe_that_needs_an_extra_is_refused_before_any_pass(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)  # as if it were not installed
    outcome = cli(*CALL, "--probes", "linear,logistic", "--out", "words", "--quiet")
    assert outcome.code == 2
    assert "the probe 'logistic' needs scikit-learn: pip install resonance-lens[probes]." in outcome.err
    assert names(tmp_path) == set()
