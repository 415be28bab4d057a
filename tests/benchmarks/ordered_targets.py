"""Fourier head against linear head on a model: ``python -m tests.benchmarks.ordered_targets --folder F``.

Features of one layer, split by document; a hidden layer and either head behind it, with as many parameters
and as many networks trained to tune them: two learning rates, two sizes of the head, and two penalties (the
paper's gamma or none; weaker or stronger weight decay). Validation stops the training of each and chooses
the setting, which is trained from other starts as well; all that is printed is of test documents.
Activations stay in ``--folder``, and so do the figures.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

import resonance_lens as rl
from resonance_lens.hooks import attach
from resonance_lens.nn import HiddenHead, smoothness
from resonance_lens.probing.bins import bin_edges, bin_of
from resonance_lens.probing.controls import labellings
from resonance_lens.probing.documents import PARTS, Documents, make_documents, split
from resonance_lens.probing.labels import make_labels
from resonance_lens.probing.linear import Linear
from resonance_lens.probing.material import Material
from resonance_lens.probing.places import fit_and_score
from resonance_lens.probing.store import Store, fill, plan_store, width_of
from resonance_lens.probing.tally import influence
from resonance_lens.provenance import weights_fingerprint
from resonance_lens.stats.intervals import bootstrap_mean
from resonance_lens.stats.streams import stream

TARGETS = (
    "position_in_sentence", "sentence_length", "position", "sentence", "count", "bracket_depth", "number",
    "month",
)  # fmt: skip
CHARACTERS = 2400
"""Of each document, from its beginning."""

HIDDEN = 64
"""Units of the hidden layer before the largest head; before a smaller one a few more: networks are of one
size."""

MOST_TOKENS = 20_000
"""Tokens of training, drawn at random where there are more."""

FEWEST_TOKENS, FEWEST_DOCUMENTS = 500, 8
"""Labelled tokens of training, and documents of validation and test that have some: below, no verdict."""

BATCH, EPOCHS, PATIENCE = 256, 12, 2
RATES = (1e-3, 3e-3)
PENALTIES = {
    "fourier": [(0.0, 1.0), (1e-6, 1.0)],
    "linear": [(0.0, 0.3), (0.0, 1.0)],
}
"""Gamma and weight decay. The linear head has no gamma, and gets another weight decay to choose from: without
any, networks of this size overfit in an epoch or two, with either head."""

HEADS = ("fourier", "linear")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """What is tuned; of the linear head the size is that which goes with so many frequencies."""

    head: str
    rate: float
    n_frequencies: int
    gamma: float = 0.0
    decay: float = 0.0


def settings(head: str, n_bins: int) -> list[Setting]:
    """Return what one head is tuned over: as many for each head."""
    most = max(n_bins // 2 - 1, 1)  # as large as a full linear head
    sizes = dict.fromkeys((most, max(most // 2, 1)))
    return [Setting(head, rate, size, *each) for rate in RATES for size in sizes for each in PENALTIES[head]]


def network(setting: Setting, n_features: int, n_bins: int, seed: int) -> HiddenHead:
    """Return a network of the size that all have, whichever its head."""
    total = HIDDEN * (n_features + 1) + n_bins * (HIDDEN + 1)
    head = 2 * (setting.n_frequencies + 1)
    n_hidden = round((total - head) / (n_features + 1 + head))
    made = HiddenHead(
        n_features, n_hidden, n_bins, n_frequencies=setting.n_frequencies, gamma=setting.gamma, seed=seed
    )
    return made if setting.head == "fourier" else HiddenHead.as_large_as(made)


@dataclass(frozen=True, eq=False)
class Rows:
    """Labelled tokens of one part: standardised features, values, bins, documents."""

    x: Tensor
    values: Floats
    bins: Tensor
    documents: NDArray[np.int64]


def rows_of(material: Material, store: Store, layer: int) -> tuple[dict[str, Rows], Floats]:
    """Return the labelled tokens of each part, and the edges of the bins; what is fitted is of training."""
    found = {}
    for part in PARTS:
        examples = material.examples(material.stored(store, layer), store.width, "all", part, n_labellings=1)
        each = [windows.rows() for windows in examples]
        x = torch.cat([x for x, _, _ in each])
        values, of = (np.concatenate([one[k] for one in each]) for k in (1, 2))
        found[part] = (x, values[:, 0], of)
    kept = np.sort(stream(0, "tokens").permutation(len(found["train"][0]))[:MOST_TOKENS])
    x, values, of = found["train"]
    found["train"] = (x[torch.from_numpy(kept)], values[kept], of[kept])
    mean, scale = found["train"][0].mean(0), found["train"][0].std(0).clamp_min(1e-6)
    edges = bin_edges(found["train"][1])
    return {
        part: Rows((x - mean) / scale, values, torch.from_numpy(bin_of(values, edges)), of)
        for part, (x, values, of) in found.items()
    }, edges


def trained(setting: Setting, parts: dict[str, Rows], n_bins: int, seed: int) -> tuple[HiddenHead, float]:
    """Return a network at its best epoch by validation, and its loss there."""
    train, validation = parts["train"], parts["validation"]
    module = network(setting, train.x.shape[1], n_bins, seed)
    adam = torch.optim.AdamW(module.parameters(), lr=setting.rate, weight_decay=setting.decay)
    best, kept, waited = np.inf, {}, 0
    for epoch in range(EPOCHS):
        order = torch.from_numpy(stream(seed, "order", epoch).permutation(len(train.x)))
        for at in order.split(BATCH):
            loss = functional.cross_entropy(module(train.x[at]), train.bins[at])
            if setting.gamma:
                loss = loss + module.regularisation(train.x[at])
            adam.zero_grad()
            loss.backward()
            adam.step()
        with torch.no_grad():
            score = float(functional.cross_entropy(module(validation.x), validation.bins))
        if score < best:
            best, waited = score, 0
            kept = {name: value.clone() for name, value in module.state_dict().items()}
        else:
            waited += 1
            if waited == PATIENCE:
                break
    module.load_state_dict(kept)
    return module, best


def tested(module: HiddenHead, rows: Rows, edges: Floats) -> dict[str, Floats]:
    """Return what each token of a part gives: loss, squared error of the expectation, smoothness."""
    centres = torch.from_numpy((edges[1:] + edges[:-1]) / 2)
    with torch.no_grad():
        logits = module(rows.x).double()
    loss = functional.cross_entropy(logits, rows.bins, reduction="none")
    said = logits.softmax(-1)
    error = (said @ centres - torch.from_numpy(rows.values)).square()
    return {"nll": loss.numpy(), "error": error.numpy(), "smoothness": smoothness(said).numpy()}


def by_document(rows: Rows, values: Floats, against: Floats | None = None) -> Floats:
    """Return a value for each document whose mean is the mean over tokens, or the ratio of two such means."""
    of = np.unique(rows.documents, return_inverse=True)[1]
    top, bottom = (np.bincount(of, each).astype(np.float64) for each in (values, against))
    return influence(top, bottom)


def measures(module: HiddenHead, rows: Rows, edges: Floats) -> dict[str, Floats]:
    """Return the three measures by test document."""
    found = tested(module, rows, edges)
    spread = (rows.values - rows.values.mean()) ** 2
    return {
        "nll": by_document(rows, found["nll"]),
        "r2": 1 - by_document(rows, found["error"], spread),
        "smoothness": by_document(rows, found["smoothness"]),
    }


def interval(values: Floats) -> tuple[float, float, float]:
    """Return mean and bounds over documents."""
    mean, low, high = bootstrap_mean(values, np.random.default_rng(0))
    return float(mean), float(low), float(high)


def compared(material: Material, store: Store, layer: int, n_seeds: int) -> dict[str, Any]:
    """Return all figures of one target."""
    parts, edges = rows_of(material, store, layer)
    n_bins, test = len(edges) - 1, parts["test"]
    began = time.perf_counter()
    found: dict[str, Any] = {
        "bins": n_bins,
        "tokens": {part: len(rows.x) for part, rows in parts.items()},
        "documents": {part: len(np.unique(rows.documents)) for part, rows in parts.items()},
    }
    counts = np.bincount(parts["train"].bins, minlength=n_bins) + 1.0
    flat = -np.log(counts / counts.sum())[test.bins]
    found["histogram"] = {"nll": interval(by_document(test, flat))}
    train, validation, held_out = (
        material.examples(material.stored(store, layer), store.width, "all", part, n_labellings=1)
        for part in PARTS
    )
    scored, _ = fit_and_score(Linear(), train, validation, held_out, len(material.documents))
    found["ridge"] = {"r2": interval(scored.test[0].rows()), "parameters": scored.n_parameters}
    of_head: dict[str, dict[str, Floats]] = {}
    for head in HEADS:
        tuned = [(one, *trained(one, parts, n_bins, 0)) for one in settings(head, n_bins)]
        setting, module, _ = min(tuned, key=lambda each: each[2])
        modules = [module] + [trained(setting, parts, n_bins, seed)[0] for seed in range(1, n_seeds)]
        each = [measures(one, test, edges) for one in modules]
        of_head[head] = {name: np.mean([one[name] for one in each], axis=0) for name in each[0]}
        found[head] = {name: interval(values) for name, values in of_head[head].items()}
        found[head] |= {
            "parameters": module.n_parameters,
            "setting": asdict(setting),
            "trained": len(tuned),
            "between_seeds": {name: float(np.std([one[name].mean() for one in each])) for name in each[0]},
        }
    found["difference"] = {
        name: interval(of_head["fourier"][name] - of_head["linear"][name]) for name in of_head["linear"]
    }
    found["seconds"] = round(time.perf_counter() - began, 1)
    return found


def too_few(material: Material) -> str | None:
    """Return why a target has too few labels for a verdict, or ``None``."""
    known = ~np.isnan(material.labels.values)
    of = np.repeat([w.document for w in material.documents.windows], np.diff(material.rows))
    tokens = int((known & (material.part[of] == 0)).sum())
    documents = min(len(np.unique(of[known & (material.part[of] == part)])) for part in (1, 2))
    if tokens < FEWEST_TOKENS or documents < FEWEST_DOCUMENTS:
        return f"too few labels: {tokens} tokens to train on, {documents} documents to validate or test on"
    return None


def described(name: str, found: dict[str, Any]) -> Iterator[str]:
    """Yield lines of a table."""

    def shown(three: tuple[float, float, float], sign: str = "") -> str:
        return f"{three[0]:{sign}.3f} [{three[1]:{sign}.3f}, {three[2]:{sign}.3f}]"

    tokens, documents = found["tokens"], found["documents"]
    yield (
        f"{name}: {found['bins']} bins, {tokens['train']} tokens to train on, {tokens['test']} of "
        f"{documents['test']} documents to test on; {found['seconds']:.0f} s"
    )
    yield f"  histogram of training   nll {shown(found['histogram']['nll'])}"
    ridge = found["ridge"]
    yield f"  ridge, no hidden layer  R2 {shown(ridge['r2'])}; {ridge['parameters']} parameters"
    for head in HEADS:
        one = found[head]
        setting = {k: v for k, v in one["setting"].items() if v and k != "head"}
        yield (
            f"  {head:8} nll {shown(one['nll'])}  R2 {shown(one['r2'])}  smoothness "
            f"{shown(one['smoothness'])}; {one['parameters']} parameters; best of {one['trained']}: {setting}"
        )
    more = found["difference"]
    yield (
        f"  fourier - linear: nll {shown(more['nll'], '+')}  R2 {shown(more['r2'], '+')}  smoothness "
        f"{shown(more['smoothness'], '+')}"
    )


def streamed(options: argparse.Namespace) -> tuple[Documents, Store]:
    """Return documents, and the features of one layer, which stay in the folder."""
    model = rl.load_model(options.model, progress=False)
    adapter = attach(model)
    documents = rl.corpus()
    if options.documents is not None:
        step = len(documents) / options.documents
        documents = [documents[int((i + 0.5) * step)] for i in range(options.documents)]
    cut = [replace(document, text=document.text[:CHARACTERS]) for document in documents]
    made = make_documents(cut, adapter.tokenizer, adapter.facts)
    store = plan_store(
        options.folder / f"layer-{options.layer}-{len(made)}",
        adapter,
        made,
        site="resid_post",
        layers=(options.layer,),
        width=width_of("resid_post", adapter.facts, adapter),
        dtype="float16",
        fingerprint=weights_fingerprint(model),
    )
    fill(store, adapter, made, batch_tokens=2048)
    return made, store


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.ordered_targets", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="a name for load_model")
    parser.add_argument("--folder", type=Path, required=True, help="for activations and figures")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--documents", type=int, help="so many documents, evenly spread, not all")
    parser.add_argument("--layer", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3, help="starts of the best setting")
    parser.add_argument("--quick", action="store_true", help="30 documents, two targets, one start")
    options = parser.parse_args()
    if options.quick:
        options.documents, options.seeds = 30, 1
        options.targets = ["position_in_sentence", "position"]
    options.folder.mkdir(parents=True, exist_ok=True)
    documents, store = streamed(options)
    part = split(documents)
    figures = {}
    for name in options.targets:
        labels = make_labels(name, documents)
        columns, names = labellings(labels, documents, part >= 0, n_shuffles=1, seed=0)
        material = Material(documents, labels, columns, names, part, "dct", 0)
        why = too_few(material)
        if why is not None:
            print(f"{name}: {why}", flush=True)
            continue
        figures[name] = compared(material, store, options.layer, options.seeds)
        print("\n".join(described(name, figures[name])), flush=True)
        (options.folder / "figures.json").write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
