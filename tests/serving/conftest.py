"""Services that the tests share."""

import contextlib

import pytest

from tests.serving.services import running


@pytest.fixture(scope="session", autouse=True)
def _needs_serving():
    pytest.importorskip("fastapi", reason="needs `make setup EXTRAS=serve`")


@pytest.fixture(scope="session")
def service():
    """One service of all tasks, for tests that leave it as it is."""
    with running(models=("pretraining", "classification", "question_answering", "token_classification")) as made:
        yield made


@pytest.fixture
def start():
    """A function that starts a service with its own flags, which ends with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *flags, **options: stack.enter_context(running(*flags, **options))
