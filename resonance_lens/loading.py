"""What each TransformerLens, 2 or later, needs to load a model, and one sentence for each of its failures."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import pickle
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resonance_lens.errors import ModelError, nearest

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

CONTEXT_2 = 2048  # TransformerLens 2 keeps a mask of context x context per layer: 2 GB at 8192


def transformer_lens_version() -> str | None:
    """Return the version of the installed TransformerLens, if there is one."""
    try:
        return importlib.metadata.version("transformer-lens")
    except importlib.metadata.PackageNotFoundError:
        return None


# TransformerLens -------------------------------------------------------------------------------


def load_bridge(name: str, device: str | None, dtype: torch.dtype, revision: str | None) -> Any:
    """Load a name or a folder with TransformerLens 3 or later."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(name, device=device, dtype=dtype, revision=revision)


def load_bridge_as(name: str, folder: Path, device: str | None, dtype: torch.dtype) -> Any:
    """Load a folder under the name that the model has on the hub, with TransformerLens 3 or later."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.utilities import get_device

    device = device or str(get_device())
    network, tokenizer = _network(folder, device, dtype)
    return TransformerBridge.boot_transformers(
        name, hf_model=network, tokenizer=tokenizer, device=device, dtype=dtype
    )


def load_hooked(name: str, device: str | None, dtype: torch.dtype, revision: str | None) -> Any:
    """Load a name with TransformerLens 2."""
    from transformer_lens import HookedTransformer
    from transformer_lens.loading_from_pretrained import OFFICIAL_MODEL_NAMES, get_official_model_name

    try:
        get_official_model_name(name)
    except ValueError as error:
        close = nearest(name, OFFICIAL_MODEL_NAMES)
        raise ModelError(
            f"TransformerLens {transformer_lens_version()} has no model {name!r}.{close} "
            "TransformerLens 3 and later load any supported architecture by its hub name."
        ) from error
    extra = {} if revision is None else {"revision": revision}
    return HookedTransformer.from_pretrained_no_processing(name, device=device, dtype=dtype, **extra)


def load_hooked_as(name: str, folder: Path, device: str | None, dtype: torch.dtype) -> Any:
    """Load a folder with TransformerLens 2, whose from_pretrained knows names only: its own steps."""
    from transformer_lens import HookedTransformer
    from transformer_lens.loading_from_pretrained import (
        get_pretrained_model_config,
        get_pretrained_state_dict,
    )
    from transformer_lens.utils import get_device

    device = device or str(get_device())
    network, tokenizer = _network(folder, device, dtype)
    config = network.config
    if not hasattr(config, "n_ctx"):  # 2.x reads it for GPT-2; configs of our day have it not
        config.n_ctx = getattr(config, "max_position_embeddings", None)
    # 2.x looks for "llama" and "gemma" anywhere in a path: it is shown one that is not the user's.
    with tempfile.TemporaryDirectory() as neutral:
        config.save_pretrained(neutral)
        cfg = get_pretrained_model_config(neutral, hf_cfg=config.to_dict(), device=device, dtype=dtype)
        weights = get_pretrained_state_dict(neutral, cfg, network, dtype=dtype)
    cfg.model_name, cfg.tokenizer_name = name.rsplit("/", 1)[-1], str(folder)
    if cfg.positional_embedding_type == "rotary":  # 2.x ignores it in the Llama family
        cfg.rotary_base = getattr(config, "rope_theta", cfg.rotary_base)
    cfg.initializer_range = getattr(config, "initializer_range", cfg.initializer_range)  # of a random twin
    if cfg.n_ctx > CONTEXT_2:
        _log.info("The context of %r is %d tokens instead of %d.", name, CONTEXT_2, cfg.n_ctx)
        cfg.n_ctx = CONTEXT_2
    model: Any = HookedTransformer(cfg, tokenizer, move_to_device=False)
    # load_and_process_state_dict walks all modules once per weight: seconds, for nothing here.
    model.load_state_dict(model.fill_missing_keys(weights), strict=False)
    model.move_model_modules_to_device()
    if name == str(folder):  # the bundled model is compared by our tests, once for all
        _check_same(model.eval(), network, name)
    return model


def _network(folder: Path, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Load a folder with transformers: the network and its tokenizer."""
    import transformers

    network: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", local_files_only=True
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return network.to(device).eval(), tokenizer


def _check_same(model: Any, network: Any, name: str) -> None:
    """Refuse a model that TransformerLens 2 read wrongly: it ignores some fields of a config."""
    import torch

    tokens = torch.arange(12, device=network.device)[None] % network.config.vocab_size
    with torch.no_grad():
        ours, theirs = model(tokens).float(), network(tokens).logits.float()
    error = float((ours - theirs).abs().max() / theirs.abs().max())
    if error > (1e-3 if model.cfg.dtype == torch.float32 else 0.1):
        raise ModelError(
            f"TransformerLens {transformer_lens_version()} computes {name!r} differently from "
            f"transformers (logits differ by {error:.1%}): use TransformerLens 3 or later for it."
        )


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Silence the progress bars of transformers and huggingface_hub inside."""
    from huggingface_hub import utils as hub
    from transformers.utils import logging as transformers

    hub_was_off, transformers_was_on = (
        hub.are_progress_bars_disabled(),
        transformers.is_progress_bar_enabled(),
    )
    hub.disable_progress_bars()
    transformers.disable_progress_bar()
    try:
        yield
    finally:
        if transformers_was_on:
            transformers.enable_progress_bar()
        if not hub_was_off:
            hub.enable_progress_bars()


# Failures --------------------------------------------------------------------------------------

# Names of the errors of httpx and urllib3, of which huggingface_hub uses one or the other.
_UNREACHABLE = {"ConnectError", "ConnectTimeout", "ReadTimeout", "MaxRetryError"}

# What TransformerLens and transformers say, in errors of no class of their own.
_UNSUPPORTED = (
    "Unsupported architecture",
    "Could not determine supported architecture",
    "is not currently supported",
    "does not recognize this architecture",
    "Unrecognized model in",
    "Unrecognized configuration class",
)


def explain(error: Exception, name: str, bundled: Iterable[str]) -> str:
    """Say in one sentence why a model could not be loaded, whichever library raised what."""
    from huggingface_hub import errors as hub
    from safetensors import SafetensorError

    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__

    def raised(*kinds: type[BaseException]) -> BaseException | None:
        return next((link for link in chain if isinstance(link, kinds)), None)

    text = str(error)
    lens = f"TransformerLens {transformer_lens_version()}"
    instead = "use a local folder or the bundled model " + ", ".join(map(repr, bundled))
    if raised(hub.GatedRepoError):
        return (
            f"The model {name!r} is gated: accept its terms on its page on the Hugging Face hub, "
            "and set HF_TOKEN or run `hf auth login`."
        )
    if raised(hub.RevisionNotFoundError):
        return f"The model {name!r} has no such revision on the Hugging Face hub."
    if raised(hub.RepositoryNotFoundError):
        return (
            f"There is no model {name!r} on the Hugging Face hub, or it is private and needs "
            f"HF_TOKEN: correct the name, or {instead}."
        )
    if any(getattr(getattr(link, "response", None), "status_code", None) in (401, 403) for link in chain):
        return f"The Hugging Face hub refuses the model {name!r} to you: set HF_TOKEN or run `hf auth login`."
    if raised(hub.HFValidationError):
        return f"There is no folder {name!r}, and no model on a hub can have this name."
    if raised(
        hub.OfflineModeIsEnabled, hub.LocalEntryNotFoundError, ConnectionError, TimeoutError
    ) or _UNREACHABLE.intersection(type(link).__name__ for link in chain):
        return (
            f"The model {name!r} is not on this machine and the Hugging Face hub cannot be reached "
            f"(no network, or HF_HUB_OFFLINE is set): connect once, or {instead}."
        )
    damage = raised(
        SafetensorError, json.JSONDecodeError, UnicodeDecodeError, EOFError, pickle.UnpicklingError
    )
    if damage or "PytorchStreamReader" in text:
        return f"A file of the model {name!r} is damaged ({first_line(damage or error)})."
    if any(sign in text for sign in _UNSUPPORTED):
        return f"{lens} does not support the architecture of {name!r}{_architecture(name)}."
    if "ignore_mismatched_sizes" in text or "Error(s) in loading state_dict" in text:
        return f"The weights of the model {name!r} do not have the shapes that its config.json says."
    if raised(hub.EntryNotFoundError) or "not appear to have a file named" in text:
        return f"The model {name!r} lacks a file that transformers needs ({first_line(error)})."
    return f"{lens} could not load the model {name!r} ({first_line(error)})."


def first_line(error: BaseException) -> str:
    """Return the beginning of a message that may go on for pages."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    line = line.rstrip(".") if len(line) <= 200 else line[:200] + "..."
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _architecture(name: str) -> str:
    """Read the architecture from a local config.json, for an error message."""
    try:
        config = json.loads((Path(name) / "config.json").read_text())
        return f", {(config.get('architectures') or [config['model_type']])[0]}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""
