"""CircuitsVis: the bundle, the props, and that no token becomes markup."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from resonance_lens.runs import Run
from resonance_lens.views import circuits
from resonance_lens.views.build import build
from resonance_lens.views.circuits import Packer, bundle, markup_safe, mounts, pack
from resonance_lens.views.content import Heads
from resonance_lens.views.exhibits import block_average
from resonance_lens.views.text import script_json
from resonance_lens.views.token_values import TokenValues
from tests.views.example_run import make_run


def attention(run: Run) -> Heads:
    shown = build(run["phase_coherence"].views[3], run["phase_coherence"])
    assert isinstance(shown, Heads)
    return shown


def tokens(run: Run) -> Heads:
    shown = build(run["attention_entropy"].views[2], run["attention_entropy"])
    assert isinstance(shown, Heads)
    return shown


def test_the_bundle_is_one_classic_script() -> None:
    code = bundle()
    assert code is not None
    assert "</script" not in code
    assert "sourceMappingURL" not in code
    assert "var CircuitsVis=" in code[:60]


def test_the_bundle_is_found_without_importing_circuitsvis() -> None:
    check = (
        "import sys; from resonance_lens.views.circuits import bundle; assert bundle();"
        "sys.exit('circuitsvis' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_without_the_package_there_is_no_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuits, "find_spec", lambda name: None)
    assert bundle() is None


def test_attention_heads_props(run: Run) -> None:
    shown = attention(run)
    mount = mounts(shown)[0]
    assert mount.component == "AttentionHeads"
    props = mount.props
    values = np.array(props["attention"])
    assert values.shape == (4, 24, 24)
    np.testing.assert_allclose(values, shown.exhibits[0].pattern, atol=1e-4)
    assert props["maxValue"] == pytest.approx(values.max(), abs=1e-4)
    assert props["minValue"] == -props["maxValue"]
    assert props["maskUpperTri"] is True
    assert props["attentionHeadNames"] == list(shown.exhibits[0].heads)
    assert len(props["tokens"]) == 24


def test_a_model_that_looks_ahead_is_not_masked(run: Run) -> None:
    assert run.exhibits is not None
    exhibits = run.exhibits.copy(deep=True)
    exhibits["pattern"][:] = 1 / 24
    shown = attention(dataclasses.replace(run, exhibits=exhibits))
    assert not shown.exhibits[0].causal
    assert mounts(shown)[0].props["maskUpperTri"] is False
    # Every query sees every key: a column's mean is over all of them.
    np.testing.assert_allclose(shown.exhibits[0].received, 1 / 24, rtol=1e-6)


def test_colored_tokens_are_column_means_over_the_queries_that_see_them(run: Run) -> None:
    shown = tokens(run)
    mount = mounts(shown)[0]
    assert mount.component == "ColoredTokensMulti"
    pattern = shown.exhibits[0].pattern
    values = np.array(mount.props["values"])  # [token, head]
    for key in (0, 5, 23):
        expected = pattern[:, key:, key].mean(axis=1)
        np.testing.assert_allclose(values[key], expected, atol=1e-4)
    assert "mean of its column" in mount.caption


def test_the_colour_bound_leaves_out_the_first_token(run: Run) -> None:
    mount = mounts(tokens(run))[0]
    values = np.array(mount.props["values"])
    assert mount.props["positiveBounds"] == [pytest.approx(values[1:].max(), abs=1e-4)] * 2
    assert values[0].max() > mount.props["positiveBounds"][0]


def values(run: Run, index: int = -2) -> TokenValues:
    shown = build(run["signals"].views[index], run["signals"])
    assert isinstance(shown, TokenValues)
    return shown


def test_values_of_tokens_are_a_view_for_each_unit(run: Run) -> None:
    shown = values(run)
    power, surprise = mounts(shown)
    assert power.component == surprise.component == "ColoredTokensMulti"
    data = run["signals"].data
    np.testing.assert_allclose(np.array(power.props["values"])[:, 0], data["band_power"], atol=1e-4)
    np.testing.assert_allclose(np.array(surprise.props["values"])[:, 0], data["surprise"], atol=1e-4)
    bound = float(np.abs(data["surprise"]).max())
    assert surprise.props["positiveBounds"] == [pytest.approx(bound, rel=1e-4)]
    assert surprise.props["negativeBounds"] == [pytest.approx(-bound, rel=1e-4)]
    assert "red is" in surprise.caption and "red is" not in power.caption
    assert ", in nats." in surprise.caption and ", dimensionless." in power.caption


def test_angles_have_no_view_of_circuitsvis(run: Run) -> None:
    assert mounts(values(run, -1)) == []


def test_a_token_without_a_value_is_zero_there_and_it_says_so(run: Run) -> None:
    data = run["signals"].data.copy(deep=True)
    data["band_power"][3] = np.nan
    result = dataclasses.replace(run["signals"], data=data)
    shown = build(result.views[-2], result)
    assert isinstance(shown, TokenValues)
    mount = mounts(shown)[0]
    assert mount.props["values"][3] == [0.0]
    assert "no value" in mount.caption
    json.dumps(mount.props, allow_nan=False)


def test_tokens_with_values_are_escaped(hostile_run: Run) -> None:
    assert mounts(values(hostile_run))[0].props["tokens"][0] == "<\u2060script>alert(1)<\u2060/script>"


def test_one_token() -> None:
    one = make_run(length=1, exhibits=1)
    assert mounts(attention(one))[0].props["attention"] == [[[1.0]]] * 4
    assert mounts(tokens(one))[0].props["positiveBounds"] == [1.0, 1.0]


def test_props_are_finite_json(run: Run) -> None:
    for mount in (*mounts(attention(run)), *mounts(tokens(run))):
        json.dumps(mount.props, allow_nan=False)


def test_nan_is_not_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json({"x": float("nan")})


@pytest.mark.parametrize(
    "text", ["</script>", "<!--<script>", "]]>", "&amp;", "\u2028\u2029", "\ud800", '"\\']
)
def test_json_in_a_script_stays_data(text: str) -> None:
    written = script_json({"token": text})
    assert not set("<>&\u2028\u2029") & set(written)
    assert written.isascii()
    assert json.loads(written) == {"token": text}


@pytest.mark.parametrize("token", ["<s>", "</script>", "&amp;", "<b>x", "a < b && c"])
def test_tokens_cannot_begin_a_tag_or_an_entity(token: str) -> None:
    safe = markup_safe(token)
    assert safe.replace("\u2060", "") == token
    for i, character in enumerate(safe):
        if character in "<&":
            assert safe[i + 1] == "\u2060"


def test_colored_tokens_are_escaped_and_canvas_tokens_are_not(hostile_run: Run) -> None:
    assert mounts(tokens(hostile_run))[0].props["tokens"][0] == "<\u2060script>alert(1)<\u2060/script>"
    assert mounts(attention(hostile_run))[0].props["tokens"][0] == "<script>alert(1)</script>"


def test_block_averages_keep_the_mean() -> None:
    pattern = np.random.default_rng(0).random((2, 10, 10))
    blocks = block_average(pattern, 4)
    assert blocks.shape == (2, 3, 3)
    np.testing.assert_allclose(blocks[:, 0, 0], pattern[:, :4, :4].mean(axis=(1, 2)))
    np.testing.assert_allclose(blocks[:, 2, 1], pattern[:, 8:, 4:8].mean(axis=(1, 2)))


def test_a_long_prompt_says_that_it_is_averaged() -> None:
    mount = mounts(attention(make_run(length=200, exhibits=1)))[0]
    assert len(mount.props["tokens"]) == 100
    assert mount.props["tokens"][1].startswith("2: ")
    assert "mean of 2 x 2 cells" in mount.caption


def test_packed_patterns_unpack_to_what_they_were(run: Run) -> None:
    mount = mounts(attention(run))[0]
    packer = Packer(10**6)
    assert packer.add("v", mount)
    rows = packer.patterns[packer.views["v"]["patterns"][0]]
    assert [len(row) for row in rows] == list(range(1, 25))
    unpacked = [[value / 1e4 for value in row] + [0.0] * (24 - len(row)) for row in rows]
    np.testing.assert_allclose(unpacked, mount.props["attention"][0], atol=1e-9)
    assert "attention" not in packer.views["v"]["props"]


def test_a_pattern_is_stored_once(run: Run) -> None:
    mount = mounts(attention(run))[0]
    packer = Packer(10**6)
    packer.add("a", mount)
    packer.add("b", mount)
    assert len(packer.patterns) == 4
    assert packer.views["a"]["patterns"] == packer.views["b"]["patterns"]


def test_a_view_beyond_the_budget_is_left_out(run: Run) -> None:
    first, second, *_ = mounts(attention(run))
    packer = Packer(6000)
    added: list[Any] = [packer.add("a", first), packer.add("b", second)]
    assert added == [True, False]
    assert list(packer.views) == ["a"]


def test_patterns_that_look_ahead_are_packed_whole() -> None:
    assert pack([[0.5, 0.25], [0.1, 0.00004]], causal=False) == [[5000, 2500], [1000, 0]]
