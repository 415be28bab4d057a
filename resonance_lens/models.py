"""Loading a model by name: the bundled one, a local folder, or any name that TransformerLens knows."""

from __future__ import annotations

import contextlib
import difflib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resonance_lens.bundled import BUNDLED, converted
from resonance_lens.errors import ModelError, ParameterError, unknown, wrong_parameter
from resonance_lens.loading import (
    explain,
    load_bridge,
    load_bridge_as,
    load_hooked,
    load_hooked_as,
    transformer_lens_version,
    without_bars,
)

# Importing this module is light: torch, transformers and TransformerLens come when a model is loaded.
if TYPE_CHECKING:
    import torch
    from transformer_lens import HookedTransformer
    from transformer_lens.model_bridge import TransformerBridge

__all__ = ["ModelInfo", "list_models", "load_model"]

TESTBED = "testbed:"
"""What the name of a model whose truth is known begins with."""

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What is known of a model before it is loaded.

    Attributes
    ----------
    name : str
        What to give to `load_model`.
    description : str
        One sentence.
    licence : str
        Licence of the weights, or "" if it depends on the model.
    parameters, layers, heads : int or None
        Size; None if it depends on the model.
    available : bool
        Whether it can be loaded now, without installing or downloading anything.
    note : str
        How to get it.
    """

    name: str
    description: str
    licence: str
    parameters: int | None
    layers: int | None
    heads: int | None
    available: bool
    note: str


def list_models() -> list[ModelInfo]:
    """List the models that `load_model` accepts, without importing torch.

    Returns
    -------
    list of ModelInfo
        The bundled models, then one entry for every other name or folder.

    Examples
    --------
    >>> [model.name for model in list_models()]
    ['smollm2-135m', 'testbed:NAME', 'NAME or FOLDER']
    """
    models = [
        ModelInfo(
            name=model.name,
            description=model.description,
            licence=model.licence,
            parameters=model.parameters,
            layers=model.layers,
            heads=model.heads,
            available=model.available,
            note=model.install,
        )
        for model in BUNDLED.values()
    ]
    other = ModelInfo(
        name="NAME or FOLDER",
        description="Any name that TransformerLens loads, or a folder in Hugging Face format.",
        licence="",
        parameters=None,
        layers=None,
        heads=None,
        available=transformer_lens_version() is not None,
        note="pip install transformer-lens; a name is fetched from the Hugging Face hub",
    )
    known = ModelInfo(
        name=f"{TESTBED}NAME",
        description="A tiny model whose truth is known: testbed:induction, testbed:modular_addition, ...",
        licence="MIT",
        parameters=None,
        layers=None,
        heads=None,
        available=transformer_lens_version() is not None,
        note="built on the spot; see docs/testbed.md",
    )
    return [*models, known, other]


def given_or_loaded(model: Any, progress: bool) -> Any:
    """Return a model as it was given, or load it if a name or a folder was."""
    return load_model(model, progress=progress) if isinstance(model, str | Path) else model


def load_model(
    name: str | Path,
    *,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    progress: bool = True,
    revision: str | None = None,
) -> TransformerBridge | HookedTransformer:
    """Load a model, in evaluation mode and with its tokenizer.

    Parameters
    ----------
    name : str or Path
        A bundled model (see `list_models`), ``testbed:`` and the name of a model whose truth is known,
        a local folder in Hugging Face format, or any name that the installed TransformerLens loads.
    device : str, optional
        "cpu", "cuda", "cuda:1", "mps"; TransformerLens's own choice if not given.
    dtype : torch.dtype or {"float32", "bfloat16", "float16"}, optional
        Type of the weights; float32 if not given.
    progress : bool, default True
        Show progress bars on stderr.
    revision : str, optional
        Branch, tag or commit of a model on the hub.

    Returns
    -------
    TransformerBridge or HookedTransformer
        A TransformerBridge with TransformerLens 3 and 4, a HookedTransformer with TransformerLens
        2, in both cases with the weights as they are (nothing folded or centred). The context of a
        folder and of a bundled model is at most 2048 tokens with TransformerLens 2.

    Raises
    ------
    ModelError
        If the model cannot be found, read or loaded: one sentence that says why and what to do.
    ParameterError
        If the device or the dtype does not exist here.

    Notes
    -----
    The bundled model has 4-bit weights: its numbers differ a little from those of the original.
    """
    version = transformer_lens_version()
    if version is None:
        raise ModelError(
            "TransformerLens, which loads every model, is not installed: run `pip install transformer-lens`."
        )
    if str(name).startswith(TESTBED):
        from resonance_lens.testbed import load_model_named

        if dtype not in (None, "float32") or revision is not None:
            raise ParameterError(f"The model {name!r} has float32 weights and no revisions.")
        _check_device(device)
        return load_model_named(str(name), device=device)
    name = _known_name(name)
    bundled = BUNDLED.get(name)
    folder = Path(name) if bundled is None and Path(name).is_dir() else None
    if revision is not None and (bundled or folder):
        raise ParameterError(
            wrong_parameter("load_model", "revision", "None for a bundled model or a folder", revision)
        )
    torch_dtype = _dtype(dtype)
    _check_device(device)
    bars = contextlib.nullcontext() if progress and bundled is None else without_bars()
    with bars, contextlib.redirect_stdout(sys.stderr):
        official = name
        if bundled is not None:
            official, folder = bundled.official, converted(bundled, progress)
        old = int(version.partition(".")[0]) < 3
        try:
            if folder is not None and (old or bundled is not None):
                load_as = load_hooked_as if old else load_bridge_as
                model = load_as(official, folder, device, torch_dtype)
            else:
                load = load_hooked if old else load_bridge
                model = load(name, device, torch_dtype, revision)
        except ModelError:
            raise
        except Exception as error:  # whatever the libraries below raise becomes one sentence
            raise ModelError(explain(error, name, BUNDLED)) from error
    model.eval()
    return model


def name_to_load(recorded: str) -> str:
    """Return the name under which `load_model` finds a model that calls itself so, as a record has it.

    A bundled model calls itself by its official name, or by the end of it.
    """
    for model in BUNDLED.values():
        if recorded in (model.official, model.official.rpartition("/")[2]):
            return model.name
    return recorded


def _known_name(name: str | Path) -> str:
    """Return the name, or the full path of a folder; refuse what can only be a mistake."""
    text = str(name)
    path = Path(name).expanduser()
    if text in BUNDLED and not isinstance(name, Path):
        return text
    if not text.strip():
        raise ModelError("The name of the model is empty.")
    if path.is_dir():
        _check_folder(path.resolve())
        return str(path.resolve())
    if isinstance(name, Path) or text.startswith((".", "/", "~", "\\")) or path.is_file():
        what = "is a file, not a folder" if path.is_file() else "does not exist"
        raise ModelError(f"The model folder {text!r} {what}.")
    if "/" not in text and difflib.get_close_matches(text.lower(), BUNDLED, n=1, cutoff=0.65):
        raise ModelError(unknown("model", text, BUNDLED))
    return text


def _check_folder(folder: Path) -> None:
    """Check that a folder is a model in Hugging Face format, before anything heavy is imported."""
    names = [path.name for path in folder.iterdir()]
    if "config.json" not in names:
        problem = "is not a model in Hugging Face format: it has no config.json"
    elif not any(name.endswith((".safetensors", ".bin")) for name in names):
        problem = "has a config.json but no weights (*.safetensors or *.bin)"
    elif not any(name.startswith(("tokenizer", "vocab", "spiece")) for name in names):
        problem = "has no tokenizer: save it there as well"
    else:
        return
    raise ModelError(f"The folder {str(folder)!r} {problem}.")


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    import torch

    if dtype is None:
        return torch.float32
    known: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPES}
    if isinstance(dtype, str) and dtype in known:
        return known[dtype]
    if isinstance(dtype, torch.dtype) and dtype in known.values():
        return dtype
    choices = "one of " + ", ".join(repr(name) for name in DTYPES)
    raise ParameterError(wrong_parameter("load_model", "dtype", choices, dtype))


def _check_device(device: str | None) -> None:
    import torch

    if device is None:
        return
    present = {"cpu": 1, "cuda": torch.cuda.device_count()}
    present["mps"] = int(torch.backends.mps.is_available())
    try:
        wanted = torch.device(device)
        if (wanted.index or 0) < present.get(wanted.type, 0):
            return
    except (RuntimeError, TypeError):
        pass
    choices = "a device of this machine (" + ", ".join(d for d, n in present.items() if n) + ")"
    raise ParameterError(wrong_parameter("load_model", "device", choices, device))
