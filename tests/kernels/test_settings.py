"""Thread settings: what is set, what is kept, and the cores of each rank."""

import os

import pytest

from kernels import settings
from tests.programs import run_python

CONFIGURE = "import kernels; print(kernels.configure()['OMP_NUM_THREADS'])"


def configured(code=CONFIGURE, **environment):
    return run_python(code, **environment).strip()


def test_a_variable_that_is_already_set_stays():
    assert configured(OMP_NUM_THREADS="3") == "3"


def test_an_argument_replaces_the_variable():
    assert configured(CONFIGURE.replace("configure()", "configure(5)"), OMP_NUM_THREADS="3") == "5"


def test_only_the_first_call_has_an_effect():
    assert configured(CONFIGURE.replace("; print", "; kernels.configure(5); print")) == "5"
    assert configured(CONFIGURE.replace("; print", "; kernels.configure(5); kernels.configure(2); print")) == "5"


def test_the_launchers_one_thread_is_replaced_by_the_ranks_share_of_the_cores():
    cores = len(os.sched_getaffinity(0))
    launched = {"LOCAL_RANK": "0", "WORLD_SIZE": "1", "OMP_NUM_THREADS": "1"}
    assert configured(**launched) == str(cores)
    assert configured(**launched | {"WORLD_SIZE": "1000"}) == "1"
    assert configured(**launched | {"OMP_NUM_THREADS": "3"}) == "3"


def test_after_oneflow_is_imported_nothing_changes():
    late = CONFIGURE.replace("import kernels", "import oneflow, kernels").replace("configure()", "configure(5)")
    assert configured(late, OMP_NUM_THREADS="3") == "3"


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({}, 12),
        ({"WORLD_SIZE": "4"}, 12),  # not launched: the variable is someone else's
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "4"}, 3),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "2"}, 6),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "5"}, 2),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "99"}, 1),
    ],
)
def test_cores_are_divided_among_the_ranks_of_the_host(monkeypatch, environment, threads):
    for name in ("LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(settings.os, "sched_getaffinity", lambda _: range(12))
    assert settings._fair_share() == threads


def test_oneflow_is_imported_without_startup_messages():
    code = "import os; os.dup2(1, 2); import kernels; kernels.import_oneflow(); os.write(2, b'restored')"
    assert run_python(code) == "restored"


def test_compiled_graphs_use_one_stream_of_cpu_kernels():
    code = """
import kernels
import oneflow as flow
kernels.configure_graph()
print(flow.framework.session_context.GetDefaultSession().resource.cpu_device_num)
"""
    assert run_python(code).strip() == "1"
