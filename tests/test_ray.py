"""Plans measured on Ray workers are what this process measures, whatever happens to a worker."""

import os
import signal
import sys
import threading
import types

import pytest
import torch

import tiny
from bitq.accuracy.evaluate import top1
from bitq.accuracy.finetune import Training
from bitq.errors import BitqError
from bitq.files import RunFolder
from bitq.tradeoff.compare import Contest, compare
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.measure import Data, Subject, Task
from bitq.tradeoff.rules import rules_of
from bitq.usercode import UserCodeError

pytest.importorskip("ray", reason="needs Ray: pip install 'bitq[ray]'")


def killing_once(folder):
    """A metric that kills the worker which first takes it, after it has fine-tuned; the driver is no worker."""
    driver, marker = os.getpid(), str(folder / "killed")

    def metric(model, batches):
        if os.getpid() != driver:
            try:
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return top1(model, batches)

    return metric


def answer(number, frame):
    """To SIGTERM."""


@pytest.fixture(scope="module")
def workers():
    from bitq.tradeoff.ray_workers import RayWorkers

    before = signal.signal(signal.SIGTERM, answer)
    with RayWorkers(count=2) as found:
        yield found
    signal.signal(signal.SIGTERM, before)


def test_the_answer_to_a_signal_stays(workers):
    assert signal.getsignal(signal.SIGTERM) is answer


def test_a_killed_worker_changes_nothing(workers, tmp_path):
    here = tiny.search(tmp_path / "here", killing_once(tmp_path))
    listener = tiny.Listening()
    there = tiny.search(tmp_path / "there", killing_once(tmp_path), workers, listener)
    assert (tmp_path / "killed").exists()
    assert there.plan == here.plan
    for name in ("plan.json", "weights.safetensors"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    inputs = tiny.images(100, 9)[0]
    with torch.no_grad():
        assert torch.equal(there.model(inputs), here.model(inputs))
    assert any(what == "fine-tuning on Ray" and done == total > 0 for what, done, total in listener.steps)


def test_what_a_worker_refuses_is_told(workers, tmp_path):
    with pytest.raises(BitqError, match="diverged"):
        tiny.search(tmp_path, top1, workers, training=Training(steps=20, learning_rate=1e30))


def test_rules_are_compared_by_workers_as_here(workers, tmp_path):
    def compared(folder, using=None):
        offered = FormatSet.of("8:e2..e3:b8")
        contest, settings = Contest(rules_of("uniform,int-mixed"), 2), tiny.settings(scored_inputs=50)
        subject = Subject("tiny", tiny.trained(), Data(*tiny.loaders()), Task())
        listener = tiny.Listening()
        run = RunFolder(tmp_path / folder)
        found = compare(lambda _: subject, tiny.DEVICE, offered, settings, contest, (0,), run, listener, workers=using)
        return [(each.row, each.measured, each.fewest) for each in found.seeds[0].results], listener

    here, _ = compared("here")
    there, listener = compared("there", workers)
    assert there == here
    assert any(what == "fine-tuning on Ray" for what, _, _ in listener.steps)


def failing_away():
    """A metric that fails in workers, but not in this process."""
    driver = os.getpid()

    def metric(model, batches):
        if os.getpid() != driver:
            raise LookupError("only there")
        return top1(model, batches)

    return metric


def test_an_exception_in_a_worker_is_told_as_the_users_with_its_traceback(workers, tmp_path):
    said = r"^the metric failed: LookupError: only there \(.*test_ray\.py, line \d+\)$"
    with pytest.raises(UserCodeError, match=said) as caught:
        tiny.search(tmp_path, failing_away(), workers)
    assert 'raise LookupError("only there")' in str(caught.value.__cause__)


class Locked:
    """A metric that cannot be sent anywhere."""

    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self, model, batches):
        return top1(model, batches)


def test_what_cannot_be_sent_to_a_worker_is_told(workers, tmp_path):
    with pytest.raises(BitqError, match=r"one of them cannot be \(TypeError: cannot pickle '_thread.lock' object\)"):
        tiny.search(tmp_path, Locked(), workers)


def test_a_class_that_a_worker_lacks_is_told(workers, tmp_path, monkeypatch):
    module = types.ModuleType("only_here")
    exec("class Half:\n    def __call__(self, model, batches):\n        return 0.5", vars(module))
    monkeypatch.setitem(sys.modules, "only_here", module)
    with pytest.raises(BitqError, match=r"cannot take over .* \(No module named 'only_here'\); install all"):
        tiny.search(tmp_path, module.Half(), workers)


def test_a_worker_that_always_crashes_is_told(workers, tmp_path, monkeypatch):
    driver = os.getpid()
    monkeypatch.setattr("bitq.tradeoff.ray_workers.RETRIES", 1)

    def metric(model, batches):
        if os.getpid() != driver:
            os.kill(os.getpid(), signal.SIGKILL)
        return top1(model, batches)

    with pytest.raises(BitqError, match=r"a worker failed 2 times .*; all that was finished is kept"):
        tiny.search(tmp_path, metric, workers)
