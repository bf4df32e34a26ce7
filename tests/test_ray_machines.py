"""Plans measured on a Ray cluster that is already running, of several machines."""

import pytest

import tiny
from bitq.accuracy.evaluate import top1
from bitq.accuracy.finetune import Training
from bitq.tradeoff.ray_workers import RayWorkers

pytest.importorskip("ray", reason="needs Ray: pip install 'bitq[ray]'")

from ray.cluster_utils import Cluster


def test_a_lost_machine_changes_nothing(tmp_path):
    """Two machines of unlike size; the larger one goes as soon as a worker has told that it trains."""
    slow = Training(steps=800, learning_rate=3e-3)
    here = tiny.search(tmp_path / "here", top1, rounds=1, plans=1, training=slow)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    other = cluster.add_node(num_cpus=2)

    class Losing(tiny.Listening):
        lost = False

        def step(self, what, done, total):
            super().step(what, done, total)
            if what == "fine-tuning on Ray" and 0 < done < total and not self.lost:
                self.lost = True
                cluster.remove_node(other, allow_graceful=False)

    listener = Losing()
    try:
        with RayWorkers(cluster.address) as workers:
            there = tiny.search(tmp_path / "there", top1, workers, listener, rounds=1, plans=1, training=slow)
    finally:
        cluster.shutdown()
    assert listener.lost
    assert there.plan == here.plan
    assert (tmp_path / "there" / "weights.safetensors").read_bytes() == here.folder.joinpath(
        "weights.safetensors"
    ).read_bytes()
