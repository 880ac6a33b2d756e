"""Fixtures that every test may use."""

from collections.abc import Callable
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """``shared_data("data/stereo/manifest.json")``: a path in the folder ``shared`` beside the checkout, or a skip."""

    def locate(relative: str) -> Path:
        path = SHARED / relative
        if not path.exists():
            pytest.skip(f"shared/{relative} is not there; it is real data that is not part of the project")
        return path

    return locate


@pytest.fixture(autouse=True)
def _no_photo_bank(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests see no photo bank of the machine they run on."""
    monkeypatch.setenv("STEREOPSIS_PHOTOS", str(tmp_path_factory.getbasetemp() / "no-photo-bank"))
