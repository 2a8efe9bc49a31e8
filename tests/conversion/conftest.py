import os

import pytest

from tests.conversion.samples import model_config, model_state


@pytest.fixture
def state():
    return model_state()


@pytest.fixture
def config():
    return model_config()


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
