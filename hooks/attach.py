"""Finding the adapter of a host: ours first, then those of third parties."""

from __future__ import annotations

import warnings
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from resonance_lens.errors import AdapterError, PluginWarning
from resonance_lens.hooks.activation_cache import ActivationCacheAdapter
from resonance_lens.hooks.adapter import Adapter
from resonance_lens.hooks.hooked_transformer import HookedTransformerAdapter
from resonance_lens.hooks.transformer_bridge import TransformerBridgeAdapter
from resonance_lens.plugins import PLUGINS, package_of, permitted

GROUP = "resonance_lens.adapters"
"""Entry-point group under which a package declares an adapter class of its own."""

BUILT_IN: tuple[type[Any], ...] = (
    TransformerBridgeAdapter,
    HookedTransformerAdapter,
    ActivationCacheAdapter,
)
"""Our adapters. Each takes the host as its only argument, as those of other packages do."""


def attach(host: object) -> Adapter:
    """Return an adapter for a model or a cache.

    Other packages are asked only about what none of our adapters serves.

    Raises
    ------
    AdapterError
        If no adapter serves this kind of object, or two packages bring one that does.
    """
    if isinstance(host, Adapter):
        return host
    for cls in BUILT_IN:
        if cls.matches(host):
            return _made(cls, host)
    kind = f"{type(host).__module__}.{type(host).__qualname__}"
    matching = {package: cls for package, cls in third_party() if cls.matches(host)}
    if len(matching) > 1:
        raise AdapterError(
            f"Several packages bring an adapter for a {kind}: {', '.join(sorted(matching))}; uninstall "
            f"all but one, or set {PLUGINS} to the one that you want."
        )
    for cls in matching.values():
        return _made(cls, host)
    raise AdapterError(
        f"No adapter serves a {kind}; give a TransformerBridge, a HookedTransformer or an "
        "ActivationCache, or install a package that brings an adapter for it."
    )


def third_party() -> list[tuple[str, type[Any]]]:
    """Return the adapters of other packages with the packages' names; a broken one is a warning."""
    found = []
    for point in entry_points(group=GROUP):
        package = package_of(point)
        if permitted(package):
            try:
                found.append((package, _load(point)))
            except Exception as error:  # whatever a third party's module raises is reported
                warnings.warn(
                    f"The adapter {point.name!r} of {package} is left out: {error}.",
                    PluginWarning,
                    stacklevel=3,
                )
    return found


def _load(point: EntryPoint) -> type[Any]:
    cls = point.load()
    if not (isinstance(cls, type) and issubclass(cls, Adapter)):
        raise TypeError(f"{point.value} is not a subclass of resonance_lens.hooks.Adapter")
    return cls


def _made(cls: type[Any], host: object) -> Adapter:
    adapter: Adapter = cls(host)
    return adapter
