"""How a server was started is found out by what it does."""

from pathlib import Path

import pytest
import torch

from benchmarks.fake_server import FakeServer
from inference.vllm.client import GaveUp, ServerRefused, ServerUnreachable, VLLMClient
from inference.vllm.server_info import ServerInfo, ask, read_dtype, read_limit, read_processed
from runtime.errors import UserError
from tests.callbacks.rollout.test_vllm_rollout import rollouts, trainer
from tests.support.questions import Learner, Questions


def test_without_the_route_that_fails(server_weights: Path):
    with FakeServer(server_weights) as server:
        assert ask(VLLMClient(server.url), 8) == ServerInfo(str(server_weights), 768, 32, "float32", True)
        assert "/server_info" not in [route for route, _ in server.calls]


@pytest.mark.parametrize(
    ("started", "found"),
    [
        ({"dtype": "bfloat16"}, {"dtype": "bfloat16", "processed": True}),
        ({"dtype": "float16"}, {"dtype": "bfloat16", "processed": True}),
        ({"logprobs_mode": "raw_logprobs"}, {"dtype": "float32", "processed": False}),
        ({"logprobs_mode": "raw_logits"}, {"dtype": "float32", "processed": False}),
        ({"logprobs_mode": "processed_logits"}, {"dtype": "float32", "processed": False}),
        ({"max_num_seqs": 5000, "max_model_len": None}, {"max_num_seqs": None, "max_model_len": None}),
    ],
    ids=str,
)
def test_each_setting_shows(server_weights: Path, started, found):
    with FakeServer(server_weights, settings=started) as server:
        info = ask(VLLMClient(server.url))
    assert {name: getattr(info, name) for name in found} == found


def test_by_hand():
    """Tokens of probability 4/5 and 1/5: twice the temperature makes them 2/3 and 1/3, logits only half as large."""
    one = {7: -0.22314355, 8: -1.60943791}
    assert read_processed(one, {7: -0.40546511, 8: -1.09861229, 9: -9999.0}) is True
    assert read_processed(one, one) is False  # at temperature 1 whatever is asked
    assert read_processed(one, {token: value / 2 for token, value in one.items()}) is False  # logits
    assert read_processed({7: -0.69314718, 8: -0.69314718}, one) is None  # all alike
    assert read_processed({7: -9999.0}, {7: -9999.0}) is None
    eighths = {token: -0.3 - token / 8 for token in range(12)}  # 12 logits with three bits behind the point
    assert read_dtype(eighths) == "bfloat16"
    assert read_dtype({**eighths, 3: -0.301 - 3 / 8}) == "float32"
    assert read_dtype(dict.fromkeys(range(12), -2.5)) is None
    assert read_limit("n must be at most the server's max_num_seqs (256), got 4096.") == 256
    assert read_limit("n must be at most 16384, got 20000") is None


@pytest.mark.parametrize("scale", [0.05, 1.0, 8.0])
@pytest.mark.parametrize("vocabulary", [64, 156_032])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_types_of_models_small_and_large(scale, vocabulary, dtype):
    for seed in range(5):
        logits = scale * torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed))
        scores = logits.to(getattr(torch, dtype)).float().log_softmax(-1)
        assert read_dtype(dict(enumerate(scores.sort(descending=True).values[:20].tolist()))) == dtype


def test_a_probe_that_fails_ends_no_run(tmp_path: Path, server_weights: Path, caplog):
    def fail(route, body):
        if route.endswith("generate") and "content_parts" not in body:
            return 500, "no prompt without a clip"

    module = Learner(str(server_weights))
    with FakeServer(server_weights, behave=fail) as server:
        trainer(tmp_path, rollouts(server)).fit(module, Questions(module.student.processor, 2, 2))
        assert len(server.pushes()) == 2
    assert "could not be found out in full" in caplog.text and "no prompt without a clip" in caplog.text


def test_a_limit_that_nobody_names_is_tried(server_weights: Path):
    def refuse(route, body):
        if route.endswith("generate") and body["sampling_params"]["n"] > 4:
            return 400, "that is too many"

    with FakeServer(server_weights, behave=refuse) as server:
        assert ask(VLLMClient(server.url), 4).max_num_seqs is None
        with pytest.raises(ServerRefused, match="that is too many; 5 completions are wanted"):
            ask(VLLMClient(server.url), 5)


def test_a_server_without_the_route_is_refused(server_weights: Path):
    server = FakeServer(server_weights, behave=lambda route, body: (404, "") if "generate" in route else None)
    with server, pytest.raises(ServerRefused, match="--enable-scale-out"):
        ask(VLLMClient(server.url))


def test_a_server_that_was_left_paused_is_asked_after_the_push(tmp_path: Path, server_weights: Path):
    module = Learner(str(server_weights), num_completions=3)
    data = Questions(module.student.processor, 2, 2)
    with FakeServer(server_weights) as server:
        server.paused = True
        trainer(tmp_path, rollouts(server)).fit(module, data)
        assert len(module.train_batches) == 1 and server.sampled_while_paused == 0
    with FakeServer(server_weights, settings={"max_num_seqs": 2}) as server:
        server.paused = True
        with pytest.raises(UserError, match="--max-num-seqs 3"):
            trainer(tmp_path, rollouts(server)).fit(module, data)


def test_a_request_that_is_given_up_is_not_an_unreachable_server(server_weights: Path):
    def abort(choice):
        return VLLMClient("http://127.0.0.1:9")._sample(choice)

    with pytest.raises(GaveUp, match=r"gave up a request \(abort\)"):
        abort({"finish_reason": "abort"})
    assert issubclass(GaveUp, ServerUnreachable)
