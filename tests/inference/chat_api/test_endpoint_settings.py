"""Settings of an endpoint and of what is asked there that cannot work, or would make records false."""

from typing import Any

import pytest

from inference.chat_api.endpoint_settings import EndpointSettings
from inference.chat_api.retries import RetryPolicy
from lightning_modules.fact_verifier import FactVerifierModule
from lightning_modules.remote_qa import RemoteQAModule
from lightning_modules.teacher import TeacherModule
from runtime.errors import UserError

URL = "http://127.0.0.1:9/v1"


@pytest.mark.parametrize("name", ["", "  ", "None"])
def test_no_model_is_refused(name: str) -> None:
    """The command line makes the text "None" of null."""
    with pytest.raises(UserError, match=r"endpoint\.model must be"):
        EndpointSettings(URL, name)


@pytest.mark.parametrize(("name", "option"), [("model", r"endpoint\.model"), ("messages", "prompt"), ("n", "samples")])
def test_fields_that_are_set_elsewhere_are_refused(name: str, option: str) -> None:
    with pytest.raises(UserError, match=rf"extra_body must not hold '{name}'.* set with .*{option}"):
        EndpointSettings(URL, "m", extra_body={name: 1})


def test_a_trace_records_the_sampling_that_is_sent() -> None:
    """A field of ``extra_body`` wins over the stage's, null leaves it out."""
    body: dict[str, Any] = {"temperature": 0.5, "top_p": None, "top_k": 3}
    teacher = TeacherModule(EndpointSettings(URL, "m", extra_body=body), max_tokens=7)
    assert teacher.provenance["sampling"] == {"temperature": 0.5, "top_p": None, "max_tokens": 7}
    with pytest.raises(UserError, match=r"set with model\.seed"):
        TeacherModule(EndpointSettings(URL, "m", extra_body={"seed": 1}))


@pytest.mark.parametrize(
    ("name", "value"),
    [("attempts", 0), ("first_delay", -0.1), ("max_delay", -1.0), ("max_wait", -1.0), ("max_wait", float("nan"))],
)
def test_impossible_retries(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"endpoint\.retry\.{name} is "):
        RetryPolicy(**{name: value})


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (TeacherModule, "samples", 0),
        (TeacherModule, "samples", 10**6),
        (TeacherModule, "max_tokens", 0),
        (TeacherModule, "temperature", -0.1),
        (TeacherModule, "temperature", float("nan")),
        (TeacherModule, "top_p", 0.0),
        (TeacherModule, "top_p", 1.1),
        (RemoteQAModule, "max_tokens", -1),
        (RemoteQAModule, "temperature", -1.0),
        (FactVerifierModule, "max_tokens", 0),
        (FactVerifierModule, "max_claims", 0),
        (FactVerifierModule, "max_list_tokens", 0),
    ],
)
def test_impossible_sampling(module: Any, name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"model\.{name} "):
        module(EndpointSettings(URL, "m"), **{name: value})
