"""An account of memory is checked against sizes worked out by hand."""

import torch

from planning.memory import Account, resizing_seen
from planning.operations import Onlooker

KIB = 1024


def test_views_count_once_and_what_is_dropped_does_not_count() -> None:
    account = Account()
    with Onlooker(account, without_values=False):
        account.begin("forward")
        kept = torch.zeros(256)  # 1 KiB
        view = kept.view(16, 16).T
        dropped = torch.zeros(512)  # 2 KiB: 3 in all
        del dropped
        more = torch.zeros(128)  # half a KiB
    assert account.peak().bytes == 3 * KIB
    assert view.shape == (16, 16) and more.numel() == 128


def test_kinds_follow_from_a_life() -> None:
    weight = torch.zeros(256, requires_grad=True)  # 1 KiB
    account = Account()
    with Onlooker(account, without_values=False):
        account.label([weight], "weights")
        account.begin("forward")
        loss = weight.exp().sum()  # exp saves its result, 1 KiB; the sum has 4 bytes
        account.begin("backward")
        loss.backward()
        account.label([weight.grad], "gradients")
    peak = account.peak()
    assert peak.phases["forward"] == 2 * KIB + 4
    assert peak.phase == "backward"
    assert peak.kinds == {"weights": KIB, "gradients": KIB, "activations": KIB + 4, "temporary": 4}  # of the loss: 1


def test_blocks_and_resized_storages() -> None:
    account = Account(512)
    with resizing_seen(account), Onlooker(account, without_values=False):
        account.begin("forward")
        gathered = torch.zeros(100)  # 400 bytes take a block of 512
        gathered.untyped_storage().resize_(0)
        gathered.untyped_storage().resize_(4 * 400)  # 1,600 bytes take four
    assert account.peak().bytes == 4 * 512


def test_arithmetic_of_a_product() -> None:
    account = Account()
    account.begin("forward")
    with Onlooker(account, without_values=False) as onlooker:
        torch.zeros(3, 5) @ torch.zeros(5, 7)
    assert onlooker.flops == {"forward": 2 * 3 * 5 * 7}
