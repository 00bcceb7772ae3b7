"""What every test of transfers needs: a folder to send from and one to receive into."""

from __future__ import annotations

import pytest


@pytest.fixture
def here(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


@pytest.fixture
def there(tmp_path):
    folder = tmp_path / "there"
    folder.mkdir()
    return folder
