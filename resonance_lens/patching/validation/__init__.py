"""Does a number of an analysis predict what its places do, beyond what is known of them anyway?"""

from resonance_lens.patching.validation.validity import validate

__all__ = ["validate"]
