"""A trainer that stops in the midst of sending weights, until it is killed."""

import tempfile
import time
from pathlib import Path

from callbacks.rollout.transfer_pusher import TransferPusher
from inference.server_pool import ServerPool
from inference.weight_transfer.gloo import GlooTransfer
from lightning_modules.models.student import Student
from tests.callbacks.rollout.test_weight_pusher import Rank


def send_half(weights: str, urls: list[str], under_way: str) -> None:
    """Send the weights one by one, and stop after half of them.

    Args:
        weights: The student's checkpoint.
        urls: The servers.
        under_way: File that is made when they have half of the weights.
    """
    student = Student(weights)
    whole = student.hub_tensors

    def slowly(*args, **kwargs):
        for place, one in enumerate(whole(*args, **kwargs)):
            if place == len(student.hub_shapes()) // 2:
                Path(under_way).touch()
                time.sleep(600)
            yield one

    student.hub_tensors = slowly  # type: ignore[method-assign]
    way = GlooTransfer(seconds=60.0)
    way.bucket_bytes = 1
    pool = ServerPool(urls, retry_seconds=60)
    pool.wait(1)
    TransferPusher(pool, way).push(Rank(Path(tempfile.mkdtemp())), student, "killed")
