"""The benchmarks of the search run, continue, and say what they lack."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bitq.store import Store

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def benchmark(name, *args):
    environment = {name: value for name, value in os.environ.items() if name not in ("BITQ_CIFAR10", "BITQ_RESNET20")}
    return subprocess.run(
        [sys.executable, BENCHMARKS / name, *map(str, args)],
        capture_output=True,
        text=True,
        env={**environment, "OMP_NUM_THREADS": "1"},
    )


def test_contenders_are_compared_and_nothing_is_measured_twice(tmp_path):
    words = ["tradeoff.py", "--contenders", "uniform", "hessian", "bitq", "--plans", 1, "--seeds", 0, "--steps", 1]
    first = benchmark(*words, "--run", tmp_path)
    assert first.returncode == 0, first.stderr
    rows = [line.split() for line in first.stdout.splitlines() if line.startswith(("uniform", "hessian", "bitq "))]
    assert [row[0] for row in rows] == ["uniform", "hessian", "bitq"]
    assert all(0 < float(row[1]) < 1.1 and 0 < float(row[2]) < 100 for row in rows)
    (folder,) = (path.parent for path in tmp_path.rglob("results.sqlite"))
    assert "hessian, the best of 1" in (folder / "report.html").read_text()
    with Store(folder / "results.sqlite") as store:
        known = store.evaluations()
    again = benchmark(*words, "--run", tmp_path)
    assert again.stdout == first.stdout
    with Store(folder / "results.sqlite") as store:
        assert store.evaluations() == known


def test_the_demo_is_compared_with_uniform_formats(tmp_path):
    told = benchmark("demo.py", "--uniforms", 1, "--plans", 1, "--steps", 1, "--run", tmp_path)
    assert "chosen by validation" in told.stdout, told.stderr
    assert told.returncode == (0 if told.stdout.strip().endswith("yes") else 1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tradeoff.py", ["--networks", "resnet20"]),
        ("predictors.py", ["--network", "resnet20"]),
    ],
)
def test_missing_data_are_told(tmp_path, name, options):
    told = benchmark(name, *options, "--run", tmp_path)
    assert told.returncode == 0
    assert "resnet20: skipped: looked for CIFAR-10 as an .npz" in told.stdout
