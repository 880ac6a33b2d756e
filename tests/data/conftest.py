"""Fixtures of the data's tests."""

import pytest

from stereopsis.data.textures import TextureBank, make_bank


@pytest.fixture(scope="session")
def drawn_bank() -> TextureBank:
    """Drawn textures alone: the same on every machine, whatever photos its wheels carry."""
    return make_bank(photo_crops=0, drawn=10)
