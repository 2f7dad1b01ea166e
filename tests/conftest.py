"""Shared fixtures: one torch thread, and small experiments that run in a second."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data sets; the test is skipped where GOSSAMER_DATA does not name one."""
    folder = os.environ.get("GOSSAMER_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs real data: set GOSSAMER_DATA to a folder of data sets")
    return Path(folder)
