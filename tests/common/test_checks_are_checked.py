"""The checks catch what they are for: for each a twin of a sound analysis with one thing wrong."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import xarray as xr

from resonance_lens.checks import CHECKS, HOST_CHECKS, Check
from resonance_lens.contract import Accumulated, Analysis, Planted, Where, parameter
from resonance_lens.design import Condition, Design
from resonance_lens.errors import AdapterError, AnalysisError
from resonance_lens.facts import Facts
from resonance_lens.features import Features
from resonance_lens.hooks import attach
from resonance_lens.result import Result, Target, ViewSpec
from resonance_lens.signal import Signal
from resonance_lens.testing import PlantedAdapter, check_analysis, check_model, measure
from tests.models import build
from tests.plugin_package.attention_extras.to_self import AttentionToSelf
from tests.reference_transformer import GPT2

Signals = Mapping[str, Signal]
TWINS: list[tuple[str, type[Analysis], str]] = []
"""Name of a check, a twin that it catches, and a part of what it then says."""


def caught_by(check: str, says: str) -> Any:
    """Enter a twin in the list, as the dataclass that it is."""

    def enter(cls: type[Analysis]) -> type[Analysis]:
        if "__dataclass_fields__" not in vars(cls):
            cls = dataclass(frozen=True, kw_only=True)(cls)
        TWINS.append((check, cls, says))
        return cls

    return enter


def own(features: Features, values: Any, **others: Any) -> Features:
    """Return features with other values of the row that is measured."""
    return replace(features, rows={**features.rows, "own": np.asarray(values)}, **others)


# ------------------------------------------------------------------------------------ what it says


@caught_by("check_declarations", "neither a baseline nor a null")
class NoBaseline(AttentionToSelf):
    """A number that stands alone."""

    baselines: ClassVar[tuple[str, ...]] = ()


@caught_by("check_declarations", "cannot be registered: its site 'attention' is not one of")
class NoSuchSite(AttentionToSelf):
    """Wants what no adapter knows."""

    sites: ClassVar[tuple[str, ...]] = ("attention",)


@caught_by("check_declarations", "minimum_effect")
class NoEffectAtAll(AttentionToSelf):
    """Every difference counts."""

    minimum_effect: ClassVar[float] = 0.0


@caught_by("check_docstring", "no section Notes")
class NoNotes(AttentionToSelf):
    """Never misleads, or so it seems."""


@caught_by("check_docstring", "no section Notes")
class ShortNotes(AttentionToSelf):
    """Says too little.

    Notes
    -----
    To do.
    """


@caught_by("check_docstring", "one sentence on one line")
class Rambling(AttentionToSelf):
    """How much of its attention each token gives to itself, which is
    a long story.
    """


@caught_by("check_parameters_are_declared", "'width' has no help text")
class NoHelp(AttentionToSelf):
    """Nobody knows what the parameter does."""

    width: int = parameter(3, minimum=1, help="")


@caught_by("check_parameters_are_declared", "'shape' is a text and lists no choices")
class NoChoices(AttentionToSelf):
    """Takes any word."""

    shape: str = parameter("round", help="its shape")


@caught_by("check_parameters_are_refused", "min_keys=.* is accepted")
class TakesAnything(AttentionToSelf):
    """Does not look at its parameters."""

    def __post_init__(self) -> None:
        return None


@caught_by("check_parameters_are_refused", "raises ValueError, not ParameterError")
class RefusesInItsOwnWay(AttentionToSelf):
    """Raises what is none of our errors."""

    def __post_init__(self) -> None:
        if not isinstance(self.min_keys, int) or isinstance(self.min_keys, bool) or self.min_keys < 2:
            raise ValueError("no")


@caught_by("check_parameters_work", "scale='share' fails with KeyError")
class OneChoiceIsBroken(AttentionToSelf):
    """Offers what it cannot do."""

    def observe(self, signals: Signals, where: Where) -> Features:
        return super().observe(signals if self.scale == "weight" else {}, where)


@caught_by("check_documented_values", 'scale="percent"')
class SpeaksOfWhatIsNot(AttentionToSelf):
    """Read ``scale="percent"``, which it does not have."""


@caught_by("check_documented_values", "'first_position', which is no parameter")
class SpeaksOfAnotherAnalysis(AttentionToSelf):
    """Read ``first_position="drop"``, which others have."""


# -------------------------------------------------------------------------------- what it measures


@caught_by("check_planted_input", "other numbers from the same generator")
class PlantsAnew(AttentionToSelf):
    """Has a generator of its own."""

    def plant(self, rng: np.random.Generator) -> Planted:
        return super().plant(np.random.default_rng())


@caught_by("check_planted_input", "one length only")
class OneLength(AttentionToSelf):
    """Never meets padding."""

    def plant(self, rng: np.random.Generator) -> Planted:
        planted = super().plant(rng)
        return replace(planted, lengths=torch.full_like(planted.lengths, int(planted.lengths.max())))


@caught_by("check_planted_input", "its facts say 5")
class FalseFacts(AttentionToSelf):
    """Says that there are more layers than there are."""

    def plant(self, rng: np.random.Generator) -> Planted:
        planted = super().plant(rng)
        return replace(planted, facts=replace(planted.facts, n_layers=5))


@caught_by("check_plant_is_found", "planted heads were not found")
class Blind(AttentionToSelf):
    """Sees uniform attention everywhere."""

    def observe(self, signals: Signals, where: Where) -> Features:
        features = super().observe(signals, where)
        return own(features, features.rows["even"])


@caught_by("check_null_is_not_found", "found in noise")
class SeesThings(AttentionToSelf):
    """Sees more than there is."""

    def observe(self, signals: Signals, where: Where) -> Features:
        features = super().observe(signals, where)
        return own(features, features.rows["own"] + 0.2)


@caught_by("check_expectations_discriminate", "so it tests nothing")
class ExpectsNothing(AttentionToSelf):
    """Is content with any answer."""

    def plant(self, rng: np.random.Generator) -> Planted:
        return replace(super().plant(rng), expect=lambda data: None)


@caught_by("check_batch_of_one", "other results than the prompts alone")
class ComparesWithItsBatch(AttentionToSelf):
    """Takes the mean of the batch away."""

    def observe(self, signals: Signals, where: Where) -> Features:
        features = super().observe(signals, where)
        rows = features.rows["own"]
        return own(features, rows - 0.1 * rows.mean(0, keepdims=True))


@caught_by("check_batch_of_one", "other results than the prompts alone")
class AddsRowCounts(AttentionToSelf):
    """Adds up a mean of each batch as if it were a sum over prompts."""

    def observe(self, signals: Signals, where: Where) -> Features:
        features = super().observe(signals, where)
        return own(features, features.rows["own"], sums={"own": features.rows["own"].mean(0)})

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        data: xr.Dataset = super().conclude(seen)
        total = seen.plain.sums["own"] / len(seen.prompt_ids)
        data["self_weight_total"] = (("layer", "head"), total, {"long_name": "total", "units": "1"})
        return data


@caught_by("check_padding", "padding is measured")
@caught_by("check_host_batches", "other results than prompts alone")
class ForgetsTheMask(AttentionToSelf):
    """Counts the padding as queries."""

    def observe(self, signals: Signals, where: Where) -> Features:
        features = super().observe(signals, where)
        values = signals["pattern"].values.diagonal(dim1=2, dim2=3)
        return own(features, values.double().mean(-1))


@caught_by("check_merge_order", "depend on the order in which batches come")
class RemembersBatches(AttentionToSelf):
    """Gets more excited with every batch."""

    seen: ClassVar[list[int]] = []

    def observe(self, signals: Signals, where: Where) -> Features:
        self.seen.append(len(where.prompts))
        features = super().observe(signals, where)
        return own(features, features.rows["own"] * (1 + 1e-6 * len(self.seen)))


@caught_by("check_merge_order", "Merging its features fails with AnalysisError")
class OftenHasSums(AttentionToSelf):
    """Keeps something of the batch of its first prompt only."""

    def observe(self, signals: Signals, where: Where) -> Features:
        features = super().observe(signals, where)
        return replace(features, sums={"first": np.ones(1)} if 0 in where.prompts else {})


@caught_by("check_prompt_order", "The order of the prompts matters")
class CountsPrompts(AttentionToSelf):
    """Weighs prompts by their number."""

    def observe(self, signals: Signals, where: Where) -> Features:
        features = super().observe(signals, where)
        return own(features, features.rows["own"] * (1 + 0.01 * np.array(where.prompts)[:, None]))


@caught_by("check_signals_unchanged", "'pattern' at layer")
class WritesIntoItsSignal(AttentionToSelf):
    """Halves the attention of whoever comes next."""

    def observe(self, signals: Signals, where: Where) -> Features:
        features = super().observe(signals, where)
        signals["pattern"].values.mul_(0.5)
        return features


@caught_by("check_seed", "The same seed gives another result")
class ThrowsDice(AttentionToSelf):
    """Has intervals that nobody can compute again."""

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        data: xr.Dataset = super().conclude(seen)
        data["self_weight_low"] -= np.random.default_rng().uniform(0, 1e-3)
        return data


@caught_by("check_seed", "Another seed moves more than intervals")
class SeedMovesMeans(AttentionToSelf):
    """Lets the seed decide."""

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        data: xr.Dataset = super().conclude(seen)
        data["self_weight"] += 1e-3 * np.random.default_rng(seen.seed).uniform()
        return data


@caught_by("check_random_state", "random state of torch")
class UsesTorchDice(AttentionToSelf):
    """Draws from the user's generator."""

    def observe(self, signals: Signals, where: Where) -> Features:
        torch.rand(1)
        return super().observe(signals, where)


@caught_by("check_random_state", "random state of Python")
class UsesPythonDice(AttentionToSelf):
    """Draws from the user's generator."""

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        random.random()
        return super().conclude(seen)


@caught_by("check_single_precision", "Measuring in float32 fails with AnalysisError")
class Overflows(AttentionToSelf):
    """Takes a square that float32 cannot hold."""

    def observe(self, signals: Signals, where: Where) -> Features:
        pattern = signals["pattern"]
        big = replace(pattern, values=(pattern.values * 1e25) ** 2 * 1e-50, _memo={})
        return super().observe({"pattern": big}, where)


@caught_by("check_single_precision", "not those of float64: 'self_weight")
class Cancels(AttentionToSelf):
    """Takes a small difference of large numbers."""

    def observe(self, signals: Signals, where: Where) -> Features:
        pattern = signals["pattern"]
        rounded = replace(pattern, values=(pattern.values + 1e5) - 1e5, _memo={})
        return super().observe({"pattern": rounded}, where)


@caught_by("check_gpu", "Measuring on a GPU fails with RuntimeError")
class StaysOnTheProcessor(AttentionToSelf):
    """Makes its tensors where it likes."""

    def observe(self, signals: Signals, where: Where) -> Features:
        pattern = signals["pattern"]
        values = pattern.values * torch.ones(pattern.size("key"))
        return super().observe({"pattern": replace(pattern, values=values, _memo={})}, where)


@caught_by("check_shortest_prompts", r"min_tokens \(1\) tokens fails with AnalysisError")
class PromisesTooMuch(AttentionToSelf):
    """Says that one token will do."""

    @property
    def min_tokens(self) -> int:
        return 1


@caught_by("check_small_models", "one head fails with AnalysisError.*error in the analysis")
class NeedsTwoHeads(AttentionToSelf):
    """Divides by the number of other heads."""

    def observe(self, signals: Signals, where: Where) -> Features:
        features = super().observe(signals, where)
        with np.errstate(invalid="ignore", divide="ignore"):
            return own(features, features.rows["own"] / np.float64(where.facts.n_heads - 1))


@caught_by("check_small_models", "summary of one prompt speaks of numbers that do not exist")
class SpeaksOfOnePromptsInterval(AttentionToSelf):
    """Quotes a bound that one prompt does not have."""

    def summary(self, result: Result) -> str:
        return f"The lower bound is {float(result.data.self_weight_low.mean(skipna=False)):.2f}."


@caught_by("check_bad_activations", "neither refused nor left out")
class SwallowsBadNumbers(AttentionToSelf):
    """Makes zeros of what is no number."""

    def observe(self, signals: Signals, where: Where) -> Features:
        pattern = signals["pattern"]
        values = pattern.values.nan_to_num(0.0, 0.0, 0.0)
        return super().observe({"pattern": replace(pattern, values=values, _memo={})}, where)


@caught_by("check_bad_activations", "raises ValueError")
class StumblesOverBadNumbers(AttentionToSelf):
    """Raises an error that names neither site nor layer."""

    def observe(self, signals: Signals, where: Where) -> Features:
        if not bool(signals["pattern"].values.isfinite().all()):
            raise ValueError("bad")
        return super().observe(signals, where)


# ------------------------------------------------------------------------------- what it concludes


@caught_by("check_dimensions", "'layer' has no coordinate")
class NoCoordinate(AttentionToSelf):
    """Does not say which layers."""

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        data: xr.Dataset = super().conclude(seen)
        data = data.drop_vars("layer")
        return data

    def summary(self, result: Result) -> str:
        return "Nothing."

    def targets(self, result: Result, k: int) -> list[Target]:
        return []


@caught_by("check_dimensions", "'layer' is .*, and what was measured is")
class CountsLayersFromOne(AttentionToSelf):
    """Is off by one."""

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        data: xr.Dataset = super().conclude(seen)
        data = data.assign_coords(layer=data.layer + 1)
        return data


@caught_by("check_dimensions", "neither a category nor a prompt")
class NoCategories(AttentionToSelf):
    """Lumps all prompts together."""

    headline: ClassVar[str] = "total"

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        data: xr.Dataset = super().conclude(seen)
        data["total"] = data.self_weight.sel(category="all", drop=True)
        return data


@caught_by("check_units", "'self_weight' has no units")
class NoUnits(AttentionToSelf):
    """Gives bare numbers."""

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        data: xr.Dataset = super().conclude(seen)
        del data["self_weight"].attrs["units"]
        return data


@caught_by("check_headline", "'self_wait' is not in the result, which has self_weight")
class NoHeadline(AttentionToSelf):
    """Names what it does not have."""

    headline: ClassVar[str] = "self_wait"


@caught_by("check_headline", "No variable holds a baseline")
class ComparesWithNothing(AttentionToSelf):
    """Names a baseline and does not show it."""

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        data: xr.Dataset = super().conclude(seen)
        data = data.drop_vars(["self_weight_uniform", "self_weight_effect"])
        return data

    def summary(self, result: Result) -> str:
        return "Nothing."

    def targets(self, result: Result, k: int) -> list[Target]:
        return []


@caught_by("check_intervals", "'self_weight_low' is above 'self_weight'")
class UpsideDown(AttentionToSelf):
    """Mixes up its bounds."""

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        names = {"self_weight_low": "self_weight_high", "self_weight_high": "self_weight_low"}
        data: xr.Dataset = super().conclude(seen)
        data = data.rename_vars(names)
        return data


@caught_by("check_intervals", "there is no self_weight_high")
class OneBound(AttentionToSelf):
    """Has a floor and no ceiling."""

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        data: xr.Dataset = super().conclude(seen)
        data = data.drop_vars("self_weight_high")
        return data


@caught_by("check_finite", "'surprise' is infinite in places")
class LogOfZero(AttentionToSelf):
    """Takes the logarithm of nothing."""

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        data: xr.Dataset = super().conclude(seen)
        with np.errstate(divide="ignore"):
            surprise = np.log(data.self_weight * 0)
        data["surprise"] = surprise.assign_attrs(long_name="surprise", units="nat")
        return data


@caught_by("check_finite", "'strong' is not-a-number in places")
class LeavesHoles(AttentionToSelf):
    """Leaves out what is small, and does not say so."""

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        data: xr.Dataset = super().conclude(seen)
        data["strong"] = data.self_weight.where(data.self_weight > 0.1)
        return data


@caught_by("check_round_trip", "Saving the result fails with TypeError")
class CannotBeSaved(AttentionToSelf):
    """Selects with a number that JSON does not know."""

    def views(self, result: Result) -> list[ViewSpec]:
        view = super().views(result)[0]
        return [replace(view, select={"category": "all", "head": np.int64(0)})]


@caught_by("check_round_trip", "views is not the same")
class IsSavedAsSomethingElse(AttentionToSelf):
    """Selects with a tuple, which comes back as a list."""

    def views(self, result: Result) -> list[ViewSpec]:
        view = super().views(result)[0]
        return [replace(view, select={"category": "all", "head": (0, 1)})]


@caught_by("check_views", "names self_weight_null, which the result has not")
class ShowsWhatIsNot(AttentionToSelf):
    """Draws a variable that is not there."""

    def views(self, result: Result) -> list[ViewSpec]:
        return [replace(super().views(result)[0], references=("self_weight_null",))]


@caught_by("check_views", "selects category='everything', which does not exist")
class SelectsWhatIsNot(AttentionToSelf):
    """Draws a category that is not there."""

    def views(self, result: Result) -> list[ViewSpec]:
        return [replace(super().views(result)[0], select={"category": "everything"})]


@caught_by("check_views", "leaves 'misleads' empty")
class NeverMisleads(AttentionToSelf):
    """Has nothing to say against itself."""

    def views(self, result: Result) -> list[ViewSpec]:
        return [replace(super().views(result)[0], misleads="")]


@caught_by("check_views", "cannot be drawn: 'self_weight_prompt' needs a selection along prompt")
class WrongDimensions(AttentionToSelf):
    """Draws prompts as if they were layers."""

    def views(self, result: Result) -> list[ViewSpec]:
        view = super().views(result)[0]
        return [replace(view, variables=("self_weight_prompt",), references=(), select={})]


@caught_by("check_views", "has an axis 'frequency' whose coordinate does not say its long_name and units")
class UnnamedAxis(AttentionToSelf):
    """Draws over frequencies, and does not say per what."""

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        power = ("frequency", [1.0, 2.0], {"long_name": "power", "units": "1"})
        data: xr.Dataset = super().conclude(seen).assign(power=power).assign_coords(frequency=[0.1, 0.2])
        return data

    def views(self, result: Result) -> list[ViewSpec]:
        view = super().views(result)[0]
        return [replace(view, variables=("power",), references=(), select={}, over="frequency")]


@caught_by("check_views", "shows L7H0, which does not exist")
class ShowsNoHead(AttentionToSelf):
    """Draws a head that the model has not."""

    def views(self, result: Result) -> list[ViewSpec]:
        told = {"title": "Heads", "says": "This.", "misleads": "Always."}
        return [ViewSpec(kind="attention_heads", heads=((7, 0),), **told)]  # type: ignore[arg-type]


@caught_by("check_targets", "not sorted by score")
class WorstFirst(AttentionToSelf):
    """Patches what matters least."""

    def targets(self, result: Result, k: int) -> list[Target]:
        return super().targets(result, 50)[::-1][:k]


@caught_by("check_targets", "L9H0 does not exist")
class PatchesWhatIsNot(AttentionToSelf):
    """Names a layer that the model has not."""

    def targets(self, result: Result, k: int) -> list[Target]:
        return [Target(site="pattern", layer=9, head=0, score=1.0, reason="no reason")]


@caught_by("check_summary", "the summary is empty")
class Silent(AttentionToSelf):
    """Has nothing to say."""

    def summary(self, result: Result) -> str:
        return ""


@caught_by("check_summary", "speaks of a number that does not exist")
class SaysNan(AttentionToSelf):
    """Says what is no number."""

    def summary(self, result: Result) -> str:
        return f"The mean is {float('nan'):.2f}."


# --------------------------------------------------------------------------------- what it claims


@caught_by("check_calibrated", "The null permuted_keys is named, and nothing is claimed against it")
class NamesANull(AttentionToSelf):
    """Has a null to look at, and no test."""

    nulls: ClassVar[tuple[str, ...]] = ("permuted_keys",)


# --------------------------------------------------------------------------------- what it leaves


def model_of(where: Where) -> Any:
    """Return the model, which an analysis has no business to know."""
    return where.readout.__self__.model  # type: ignore[attr-defined]


@caught_by("check_host_left_alone", "the hooks of the model")
class KeepsHooks(AttentionToSelf):
    """Goes on listening."""

    def join(self, layers: Sequence[Features], where: Where) -> Features:
        model_of(where).hook_dict["blocks.0.hook_resid_pre"].add_hook(lambda value, hook: None)
        return super().join(layers, where)


@caught_by("check_host_left_alone", "the training mode of the model")
class Trains(AttentionToSelf):
    """Leaves dropout on."""

    def join(self, layers: Sequence[Features], where: Where) -> Features:
        model_of(where).train()
        return super().join(layers, where)


@caught_by("check_host_left_alone", "requires_grad of the model")
class Freezes(AttentionToSelf):
    """Lets nobody train."""

    def join(self, layers: Sequence[Features], where: Where) -> Features:
        model_of(where).requires_grad_(False)
        return super().join(layers, where)


@caught_by("check_host_left_alone", "a weight of the model")
class Learns(AttentionToSelf):
    """Changes the weights."""

    def join(self, layers: Sequence[Features], where: Where) -> Features:
        next(iter(model_of(where).parameters())).data.mul_(1.01)
        return super().join(layers, where)


@caught_by("check_host_left_alone", "the gradient of the model")
class ClearsGradients(AttentionToSelf):
    """Throws away what the user computed."""

    def join(self, layers: Sequence[Features], where: Where) -> Features:
        model_of(where).zero_grad()
        return super().join(layers, where)


@caught_by("check_host_left_alone", "the random state")
class Reseeds(AttentionToSelf):
    """Makes the user's next numbers the same every time."""

    def join(self, layers: Sequence[Features], where: Where) -> Features:
        torch.manual_seed(0)
        return super().join(layers, where)


@caught_by("check_host_left_alone_after_error", "the hooks of the model")
class TidiesUpTooLate(AttentionToSelf):
    """Takes its hook away, if nothing comes between."""

    handles: ClassVar[list[Any]] = []

    def observe(self, signals: Signals, where: Where) -> Features:
        if where.layer == 0:
            block = model_of(where).blocks[0]
            self.handles.append(block.register_forward_hook(lambda *_: None))
        return super().observe(signals, where)

    def join(self, layers: Sequence[Features], where: Where) -> Features:
        self.handles.pop().remove()
        return super().join(layers, where)


# ------------------------------------------------------------------------------------- the tests

ALL_CHECKS: dict[str, Check] = {check.__name__: check for check in (*CHECKS, *HOST_CHECKS)}


@pytest.mark.parametrize(
    ("check", "twin", "says"), TWINS, ids=[f"{check}-{twin.__name__}" for check, twin, _ in TWINS]
)
def test_a_twin_is_caught(check: str, twin: type[Analysis], says: str) -> None:
    if check == "check_gpu" and not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    host = attach(build(GPT2)) if ALL_CHECKS[check] in HOST_CHECKS else None
    with pytest.raises(AssertionError, match=rf"(?s){says}"):
        ALL_CHECKS[check](twin, host)


def test_every_check_has_a_twin() -> None:
    assert {check for check, _, _ in TWINS} == set(ALL_CHECKS)


def test_the_sound_one_passes() -> None:
    check_analysis(AttentionToSelf, build(GPT2))


def test_an_instance_is_checked_with_its_parameters() -> None:
    check_analysis(AttentionToSelf(min_keys=5, scale="share"))
    with pytest.raises(AnalysisError, match="check_plant_is_found"):
        check_analysis(AttentionToSelf(min_keys=30))


def test_one_message_says_all_that_is_missing() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Careless(AttentionToSelf):
        """Does much wrong."""

        baselines: ClassVar[tuple[str, ...]] = ()

        def summary(self, result: Result) -> str:
            return ""

        def views(self, result: Result) -> list[ViewSpec]:
            raise KeyError("no views yet")

    with pytest.raises(AnalysisError) as error:
        check_analysis(Careless)
    lines = str(error.value).splitlines()
    assert lines[0].startswith("attention_to_self fails ") and lines[0].endswith(" checks:")
    assert "  check_declarations: It names neither a baseline nor a null" in lines[1]
    assert any(line.startswith("  check_views: KeyError: 'no views yet'") for line in lines)


def test_what_is_no_analysis_at_all_is_told_so() -> None:
    class Unfinished(Analysis):
        """Only begun."""

        name: ClassVar[str] = "unfinished"

    with pytest.raises(AnalysisError, match="It cannot be registered: it does not declare"):
        check_analysis(Unfinished)


def test_conditions_cannot_be_planted() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Shuffled(AttentionToSelf):
        """Compares with shuffled tokens."""

        def design(self, facts: Facts, shortest: int) -> Design:
            return Design((Condition(), Condition("shuffled", "shuffled")))

    analysis = Shuffled()
    with pytest.raises(AnalysisError, match="conditions of its own"):
        measure(analysis, analysis.plant(np.random.default_rng(0)))


def test_a_planted_readout_is_asked_for() -> None:
    planted = AttentionToSelf().plant(np.random.default_rng(0))
    assert PlantedAdapter.matches(planted)
    with pytest.raises(AnalysisError, match="needs a readout"):
        PlantedAdapter(planted).readout(torch.zeros(1))
    with pytest.raises(AdapterError, match="holds no 'resid_post' at layer 0"):
        PlantedAdapter(planted).layers(["resid_post"])


def test_check_model_says_what_is_wrong() -> None:
    adapter = attach(build(GPT2))
    adapter.facts = replace(adapter.facts, n_heads=3)
    with pytest.raises(AdapterError, match="(?s)gpt2 has problems at .* sites:\n  pattern: "):
        check_model(adapter)
    _, cache = build(GPT2).run_with_cache(torch.tensor([[1, 2, 3]]))
    with pytest.raises(AdapterError, match="A cache holds one pass"):
        check_model(cache)
