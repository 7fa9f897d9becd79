"""The miniature of NSD that several files of tests read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.datasets import miniatures


@pytest.fixture(scope="session")
def nsd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniatures.nsd(tmp_path_factory.mktemp("nsd"), subject=1)
