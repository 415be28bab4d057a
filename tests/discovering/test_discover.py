"""`discover`, from a model and texts with a rhythm in them to a result that is saved, compared and drawn."""

from __future__ import annotations

import functools
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resonance_lens as rl
from resonance_lens.discovering import discover as module
from resonance_lens.discovering.discover import plan
from resonance_lens.discovering.finding import find
from resonance_lens.discovering.removing import losses
from resonance_lens.errors import (
    AdapterError,
    ModelError,
    ParameterError,
    PromptError,
    RecordError,
    ResultError,
)
from tests.probing.test_documents import adapter
from tests.probing.test_store import Killed

BANDS = ("0.02-0.1", "0.1-0.22", "0.22-0.4")
SMALL: dict[str, Any] = {"window": 24, "bands": BANDS, "progress": False, "n_components": 2, "n_moments": 3}


@functools.cache
def texts(n: int = 28, length: int = 49, period: int = 6) -> tuple[str, ...]:
    """Return documents in which three words of one kind and three of another take turns."""
    rng = random.Random(2)
    made = []
    for _ in range(n):
        phase = rng.randrange(period)
        turns = [(at + phase) % period < period // 2 for at in range(length)]
        made.append(" ".join(f"w{10 * turn + rng.randrange(4)}" for turn in turns))
    return tuple(made)


def discovered(**kwargs: Any) -> Any:
    corpus = kwargs.pop("corpus", list(texts()))
    return rl.discover(kwargs.pop("model", adapter().model), corpus, **{**SMALL, **kwargs})


@functools.cache
def usual() -> Any:
    return discovered(site="resid_pre", layers=[0], baselines=("shuffled_tokens", "random_weights"))


@pytest.mark.host
def test_a_rhythm_of_words_is_found_in_its_band_and_named_by_them() -> None:
    result = usual()
    data = result.data
    at = data.sel(layer=0, component=1)
    assert at["found"].values.tolist() == [False, True, False]
    here = at.sel(band="0.1-0.22")
    assert float(here["period"]) == pytest.approx(6, rel=0.1)
    assert float(here["contrast"]) > 1.5
    above, below = (
        set(re.findall(r"w\d+", str(here[name].item()))) for name in ("words_above", "words_below")
    )
    one, other = {f"w{i}" for i in range(4)}, {f"w1{i}" for i in range(4)}
    assert (above, below) in ((one, other), (other, one))
    strongest = str(here["moment_text"].values[0]).strip()
    assert strongest in above and f"\u27e6{strongest}\u27e7" in str(here["moment_context"].values[0]).replace(
        " ", ""
    )
    # The words are no less frequent in another order; their rhythm is gone.
    assert float(here["excess_shuffled_tokens"]) < 0.3 * float(here["excess"])
    assert float(here["beyond_shuffled_tokens_q"]) <= 0.05
    # A twin of random weights reads the same words: what it is, is in the text.
    assert "excess_random_weights" in data and data["recurs_random_weights"].dtype == bool
    assert "in their bands" in result.summary or "comes back in its band" in result.summary
    assert "more than in shuffled text" in result.summary
    assert "rotation of its own" in result.methods
    assert result.targets(1)[0].layer == 0 and result.targets(1)[0].site == "resid_pre"


def test_what_is_taken_out_is_gone_and_costs_what_a_pass_by_hand_says() -> None:
    """The loss against plain hooks, and the band of the component against the operation."""
    from resonance_lens.dsp.causal import butterworth_kernel, causal_filter

    result = usual()
    at = dict(layer=0, band="0.1-0.22", component=1)
    here = result.data.sel(at)
    reads, writes = (torch.from_numpy(here[name].values).double() for name in ("reads", "writes"))
    model = adapter().model
    about = result.provenance["discover"]
    ids = [f"prompt-{number:03d}" for number in range(len(texts()))]
    assert [*here["loss_removed"].dims] == []

    def hook(values: torch.Tensor, hook: Any) -> torch.Tensor:
        course = values[:, 1:].double() @ reads
        kernel = butterworth_kernel(0.1, 0.22, course.shape[1])
        band = causal_filter(course, 1, kernel)
        out = values.clone().double()
        out[:, 1:] -= band[..., None] * writes
        return out.to(values.dtype)

    first = adapter().facts.bos_token
    added = []
    for name in about["held_out"]:
        tokens = model.tokenizer(texts()[ids.index(name)], add_special_tokens=False)["input_ids"]
        rows = torch.tensor([[first, *tokens[start : start + 24]] for start in (0, 24)])
        found = []
        for hooks in ([], [("blocks.0.hook_resid_pre", hook)]):
            with torch.no_grad():
                logits = model.run_with_hooks(rows, fwd_hooks=hooks, prepend_bos=False)
            scores = logits.log_softmax(-1)[:, 1:-1].gather(-1, rows[:, 2:, None])
            found.append(-float(scores.mean()))
        added.append(found[1] - found[0])
    assert float(here["loss_removed"]) == pytest.approx(np.mean(added), abs=1e-5)
    assert np.isfinite(float(here["loss_placebo"])) and float(here["loss_placebo"]) != float(
        here["loss_removed"]
    )
    assert "Taking one out of its band" in result.summary


def test_components_of_heads_say_which_heads_and_nothing_is_taken_out_of_none() -> None:
    result = discovered(site="z", layers=[1], n_ablations=0, baselines=())
    data = result.data
    np.testing.assert_allclose(data["head_weight"].sum("head"), 1, rtol=1e-6)
    assert data.sizes["head"] == 4 or data.sizes["head"] == adapter().facts.n_heads
    assert "loss_removed" not in data and "beyond_shuffled_tokens" not in data
    assert any(view.kind == "layer_head_map" for view in result.views)


def test_words_in_random_order_have_no_component_and_the_summary_says_so() -> None:
    rng = random.Random(5)
    corpus = [" ".join(f"w{rng.randrange(30)}" for _ in range(49)) for _ in range(24)]
    result = discovered(corpus=corpus, layers=[0], site="resid_pre")
    assert not result.data["found"].values.any()
    assert "none comes back in its band" in result.summary and "The nearest is L0" in result.summary
    assert result.targets() == []


def test_a_result_is_saved_loaded_compared_and_drawn(tmp_path: Path) -> None:
    result = discovered(out=tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["discovery.nc", "run.json"]
    again = rl.load(tmp_path / "run")["discovery"]
    assert again.data.equals(result.data) and again.summary == result.summary and again.views == result.views
    assert discovered(out=tmp_path / "run").summary == result.summary  # read back, not made again
    with pytest.raises(ResultError, match="other discover"):
        discovered(out=tmp_path / "run", n_components=1)
    compared = rl.compare(result, again)
    assert float(np.abs(compared["excess_difference"]).max()) == 0
    result.plot()
    page = rl.load(tmp_path / "run").report(tmp_path / "page.html").read_text()
    assert "What comes back in which band" in page


def test_a_killed_call_is_resumed_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = {"site": "resid_pre", "layers": [0, 1]}
    expected = discovered(**call)
    made: list[int] = []

    def second_layer_kills(asked: Any, store: Any, layer: int, shuffled: Any) -> Any:
        made.append(layer)
        if made == [0, 1]:
            raise Killed
        return find(asked, store, layer, shuffled)

    def kills(*args: Any) -> Any:
        monkeypatch.setattr(module, "losses", losses)
        raise Killed

    out = tmp_path / "run"
    monkeypatch.setattr(module, "find", second_layer_kills)
    with pytest.raises(Killed):
        discovered(**call, out=out)
    monkeypatch.setattr(module, "fill", lambda store, *args, **kwargs: store)  # all is there already
    monkeypatch.setattr(module, "losses", kills)
    with pytest.raises(Killed):
        discovered(**call, out=out)
    assert made == [0, 1, 1]
    result = discovered(**call, out=out)
    assert made == [0, 1, 1] and not (out / "partial").exists()
    assert result.data.equals(expected.data) and result.summary == expected.summary
    (out / "run.json").unlink()
    (out / "partial").mkdir()
    (out / "partial" / "settings.json").write_text(json.dumps({"seed": 5}))
    with pytest.raises(ResultError, match="other "):
        discovered(**call, out=out)


def test_the_plan_is_what_is_done(tmp_path: Path) -> None:
    planned = plan(
        adapter().model, list(texts()), layers=[0], window=24, bands=BANDS, n_components=2, out=tmp_path
    )
    assert (planned.documents, planned.held_out, planned.windows) == (28, 14, 56)
    assert planned.left_out == 28 and planned.components == 6
    assert planned.passes_tokens == 56 * 25 + 28 * 25
    assert planned.disk_bytes == (56 + 28) * 24 * 32 * 2  # float16; the first position is not stored
    assert planned.as_dict()["files"] == planned.files
    assert "components, by layer and band" in str(planned)
    slow = plan(adapter().model, list(texts()), window=24, bands=["0.02-0.06"])
    assert "0.02-0.06" in slow.not_taken_out and "kept in   0.02-0.06" in str(slow)


@pytest.mark.parametrize(
    ("kwargs", "error", "says"),
    [
        ({"corpus": list(texts())[:9]}, PromptError, "9 documents are too few .* at least 12"),
        ({"held_out": 0.1}, PromptError, "Of 28 documents .* held out"),
        ({"held_out": 1}, ParameterError, "'held_out' parameter of discover"),
        (
            {"corpus": [*texts()[:12], "w1 w2 w3"]},
            PromptError,
            "'prompt-012' has 3 tokens.* a smaller window",
        ),
        ({"bands": ["low"]}, RecordError, "'low' cannot be resolved in windows of 24"),
        ({"bands": ["slow"]}, ParameterError, "There is no band 'slow'"),
        ({"site": "pattern"}, ParameterError, "run along tokens, and 'pattern' has none"),
        ({"site": "resid"}, AdapterError, "There is no site 'resid'"),
        ({"layers": [7]}, ParameterError, "'layers' parameter of discover"),
        ({"n_components": 0}, ParameterError, "'n_components' parameter of discover"),
        ({"n_components": 10_000}, ParameterError, "no more than the .* features"),
        ({"scaling": "rows"}, ParameterError, "There is no scaling of discover 'rows'"),
        ({"method": "wavelet"}, ParameterError, "There is no method of discover 'wavelet'"),
        ({"baselines": ("twin",)}, ParameterError, "There is no baseline of discover 'twin'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(kwargs: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        discovered(**kwargs)


def test_a_cache_and_a_site_of_too_many_features_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapter().model
    _, cache = model.run_with_cache(torch.tensor([[1, 2, 3]]))
    with pytest.raises(ModelError, match="discover needs a model that can be run"):
        discovered(model=cache)
    monkeypatch.setattr("resonance_lens.discovering.asked.WIDEST", 8)
    with pytest.raises(ParameterError, match="has 32 features, and components are found in up to 8"):
        discovered()
