"""Benchmarks of a student whose weights only the servers load."""

from pathlib import Path

import pytest
import yaml

from benchmarks.fake_server import FakeServer
from lightning_modules.models.student import Student
from lightning_modules.served_qa import ServedQAModule
from runtime.errors import UserError
from tests.callbacks.rollout.test_vllm_rollout import rollouts, trainer
from tests.cli.test_configs import printed
from tests.support.questions import Questions
from tests.support.tiny_model import build

BENCHMARKS = ("avqa", "mmau", "music_avqa")


@pytest.fixture
def no_weights(monkeypatch):
    def load(self, *args, **kwargs):
        pytest.fail("weights were loaded")

    monkeypatch.setattr(Student, "__init__", load)


def test_servers_load_the_weights_from_where_they_are(tmp_path: Path, server_weights: Path, no_weights, monkeypatch):
    """Also those of another student of the same kind than the server was started with."""
    other = build(tmp_path / "other", seed=1, seconds=2)
    monkeypatch.chdir(tmp_path)
    seen = []
    module = ServedQAModule("other")
    assert list(module.parameters()) == []
    with FakeServer(server_weights) as server:
        server.paused = True  # as a killed run has left it
        server.behave = lambda route, body: seen.append(body) if route == "/collective_rpc" else None
        run = trainer(tmp_path, rollouts(server, run_id="run"))
        run.test(module, Questions(module.student.processor, 4, 4), verbose=False)
        assert not server.paused
    assert [body["kwargs"] for body in seen] == [{"weights_path": str(other)}]
    assert [one["version"] for one in server.generated] == ["run:0"] * 4
    assert len(module.predictions) == 4


def test_another_model_is_refused(tmp_path: Path, server_weights: Path):
    module = ServedQAModule(str(build(tmp_path / "other", seconds=1)))
    with FakeServer(server_weights) as server, pytest.raises(UserError, match=r"nothing was sent: audio_tower\.embed"):
        trainer(tmp_path, rollouts(server)).test(module, Questions(module.student.processor, 4, 4))
    assert server.pushes() == []


def test_weights_that_the_server_does_not_see(tmp_path: Path, server_weights: Path):
    module = ServedQAModule(str(server_weights))
    with FakeServer(server_weights) as server:
        server.behave = lambda route, body: (500, "Cannot find any") if route == "/collective_rpc" else None
        with pytest.raises(UserError, match=rf"must see {server_weights} .*AudioQAModule .*sends them"):
            trainer(tmp_path, rollouts(server)).test(module, Questions(module.student.processor, 4, 4))


def test_a_server_that_does_not_hear_is_refused(tmp_path: Path, server_weights: Path):
    module = ServedQAModule(str(server_weights))
    with FakeServer(server_weights) as server:
        answer = server._generate

        def generate(body):
            body["sampling_params"].setdefault("seed", 0)
            rows = [{str(token): {"logprob": -1.0}} for token in body["token_ids"]]
            return answer(body) | {"prompt_logprobs": rows}

        server._generate = generate  # type: ignore[method-assign]
        with pytest.raises(UserError, match="replacing the audio by silence changes nothing"):
            run = trainer(tmp_path, rollouts(server, parity_gate=True))
            run.test(module, Questions(module.student.processor, 4, 4))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmarks_take_no_gpu_and_load_nothing(name: str, capsys):
    values = printed(["test", "--config", f"benchmark/{name}.yaml"], capsys)
    assert (values["trainer"]["accelerator"], values["trainer"]["devices"]) == ("cpu", 1)
    assert values["model"]["class_path"].endswith("ServedQAModule")
    kept = ["--config", f"benchmark/{name}.yaml", "--model.init_args.weights=runs/x/best"]
    for more in (["--config", "benchmark/in_process.yaml"], ["--model=lightning_modules.AudioQAModule"]):
        values = printed(["test", *kept, *more], capsys)
        assert values["model"]["class_path"].endswith("AudioQAModule")
        assert values["model"]["init_args"]["weights"] == values["data"]["init_args"]["processor"] == "runs/x/best"
    values = printed(["test", "--config", f"benchmark/{name}.yaml", "--config", "benchmark/in_process.yaml"], capsys)
    assert values["trainer"]["accelerator"] == "auto" and values["data"]["init_args"]["eval_batch_size"] == 32
    assert yaml.safe_dump(values)
