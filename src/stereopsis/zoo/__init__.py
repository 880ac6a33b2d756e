"""The models a user can name, and their weights."""

from stereopsis.zoo.registry import ModelEntry, get_entry, list_models, load, register
from stereopsis.zoo.weights import (
    ModelCard,
    load_into,
    read_card,
    read_weights,
    record_checksums,
    save_weights,
    verify_shipped,
    write_card,
)

__all__ = [
    "ModelCard",
    "ModelEntry",
    "get_entry",
    "list_models",
    "load",
    "load_into",
    "read_card",
    "read_weights",
    "record_checksums",
    "register",
    "save_weights",
    "verify_shipped",
    "write_card",
]
