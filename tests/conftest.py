"""Settings of all tests."""

import os
import sys

import pytest
import torch
from hypothesis import HealthCheck, settings

from bitq.cli import main
from bitq.demo.resnet8 import resnet8
from bitq.tracing import trace

# Machines that run tests are shared: a slow example is no failure. A failing one is printed to be repeated. Where a
# test decides whether a change lands, chance does not: continuous integration (which sets CI) tries the same examples
# each time, developers explore.
settings.register_profile(
    "bitq",
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("bitq")


@pytest.fixture(scope="session", autouse=True)
def _cache_folder(tmp_path_factory):
    """Keep what the tests compute, here and in processes they start, out of the user's own cache, and tables wide.

    What one worker of pytest-xdist computed the others find.
    """
    own = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITQ_CACHE_DIR", str((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cache"))
        patch.delenv("COLUMNS", raising=False)  # which workers of pytest-xdist have, and bounds tables
        yield


@pytest.fixture(autouse=True)
def _compiled_afresh():
    """Let no test be the one too many that torch.compile compiles a function of PyTorch's for."""
    yield
    if dynamo := sys.modules.get("torch._dynamo"):
        dynamo.reset()


@pytest.fixture
def bitq(capsys, monkeypatch):
    """Run a command here, not on a terminal: exit code, stdout, stderr."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)

    def run(*args):
        with pytest.raises(SystemExit) as caught:
            main([str(arg) for arg in args])
        return caught.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def mistake(bitq):
    """Run a command that must fail: the sentence it says, after progress at most."""

    def run(*args):
        code, out, err = bitq(*args)
        assert (code, out) == (2, "")
        *before, last = err.splitlines()
        assert last.startswith("Error: ")
        assert not any(line.startswith(("Error", "Traceback")) for line in before)
        return last

    return run


@pytest.fixture(scope="session")
def demo_layers():
    return trace(resnet8(), torch.empty(1, 1, 28, 28, device="meta"))
