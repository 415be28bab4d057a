"""What may be done to a place inside a model; each file beside this one holds operations of one kind."""

from resonance_lens.patching.operations.base import (
    OPERATIONS,
    TOKEN_SITES,
    Edit,
    Operation,
    Scene,
    get_operation,
    list_operations,
    operation,
)

__all__ = [
    "OPERATIONS",
    "TOKEN_SITES",
    "Edit",
    "Operation",
    "Scene",
    "get_operation",
    "list_operations",
    "operation",
]
