"""What every test shares: seeds, one thread, and where the real images lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Seed torch before every test; one thread, so that sums are added in one order."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images: ``MEDSAL_TEST_DATA``, else ``shared/data`` beside the checkout; skips where absent."""
    folder = Path(os.environ.get("MEDSAL_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}; set MEDSAL_TEST_DATA to the folder that holds them")
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-networks", action="store_true", help="write docs/networks.md from what is found")
