"""Hook-point adapters: one file for each host, one vocabulary of sites for all of them."""

if __name__ != "resonance_lens.hooks":
    # Started from the repository root, `import hooks` would load a second copy of this
    # package and fill the registry twice.
    raise ImportError("import resonance_lens.hooks; this folder is not importable on its own")

from resonance_lens.hooks.activation_cache import ActivationCacheAdapter
from resonance_lens.hooks.adapter import Adapter, ModelAdapter
from resonance_lens.hooks.attach import attach
from resonance_lens.hooks.hooked_transformer import HookedTransformerAdapter
from resonance_lens.hooks.proof import Proof, prove
from resonance_lens.hooks.transformer_bridge import TransformerBridgeAdapter

__all__ = [
    "ActivationCacheAdapter",
    "Adapter",
    "HookedTransformerAdapter",
    "ModelAdapter",
    "Proof",
    "TransformerBridgeAdapter",
    "attach",
    "prove",
]
