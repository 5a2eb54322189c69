"""The page as it answers requests: what it shows, what it refuses."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from corpus.browsing.app import make_app
from corpus.browsing.clips import Clips
from corpus.browsing.index import CorpusIndex
from corpus.browsing.labels import LabelFile
from corpus.browsing.place import place_of
from records.clips import Clip
from records.records import Verdict, read_jsonl, write_jsonl
from tests.support.dataset_files import tone, write_mp4

HOST = "127.0.0.1:8765"


def client_of(corpus: Path, labels: LabelFile | None) -> TestClient:
    place = place_of(corpus, "train", [], [], None)
    index = CorpusIndex(place)
    index.read_records()
    return TestClient(make_app(index, Clips(place, count=3), labels, [HOST]), base_url=f"http://{HOST}")


@pytest.fixture
def client(corpus: Path) -> TestClient:
    return client_of(corpus, None)


@pytest.fixture
def judging(corpus: Path) -> Iterator[tuple[TestClient, Path]]:
    labels = LabelFile(corpus / "labels", "ann")
    yield client_of(corpus, labels), labels.path
    labels.close()


def test_list_and_filters(client: TestClient) -> None:
    everything = client.get("/").text
    assert "6 questions" in everything and everything.count('class="row"') == 6
    assert "1 question<" in client.get("/", params={"gate": "accepted"}).text
    assert "No question is like that" in client.get("/", params={"words": "nothing like it"}).text
    assert client.get("/", params={"gate": "nonsense"}).status_code == 404
    assert "6 questions" in client.get("/", params={"start": 4000}).text


def test_question(client: TestClient) -> None:
    page = client.get("/question/0").text
    assert "ear: rejected, yes with 0.250 (accepted from 0.500)" in page and "<li>a bark</li>" in page
    assert "<script>document" not in page and "&lt;script&gt;document" in page
    assert page.count("<img") == 3 and 'href="/question/1?' in page
    assert client.get("/question/99").status_code == 404


def test_clip_and_frames(client: TestClient) -> None:
    part = client.get("/clip/0", headers={"Range": "bytes=0-99"})
    assert part.status_code == 206 and len(part.content) == 100 and part.headers["content-type"] == "video/mp4"
    frame = client.get("/frame/0/2")
    assert frame.headers["content-type"] == "image/jpeg" and frame.content[:2] == b"\xff\xd8"
    assert client.get("/frame/0/3").status_code == 404


def test_a_clip_outside_of_the_corpus_is_not_shown(client: TestClient, corpus: Path) -> None:
    assert (corpus / "outside.mp4").exists()
    assert client.get("/clip/5").status_code == 200  # videos/../outside.mp4 lies within the corpus
    (corpus.parent / "secret.mp4").write_bytes((corpus / "outside.mp4").read_bytes())
    rows = (corpus / "train_qa.json").read_text()
    (corpus / "train_qa.json").write_text(rows.replace("../outside", "../../secret"))
    again = client_of(corpus, None)
    assert again.get("/clip/5").status_code == 404 and "leads out of it" in again.get("/question/5").text


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"Host": "evil.example"}, "the host"),
        ({"Host": "127.0.0.1:9999"}, "the host"),
        ({"Sec-Fetch-Site": "cross-site"}, "another site"),
        ({"Sec-Fetch-Site": "same-site"}, "another site"),
        ({"Origin": "http://evil.example"}, "the origin"),
        ({"Origin": "null"}, "the origin"),
    ],
)
def test_strangers(judging: tuple[TestClient, Path], headers: dict[str, str], why: str) -> None:
    client, file = judging
    for answer in (
        client.get("/", headers=headers),
        client.get("/clip/0", headers=headers),
        client.get("/page/browse.js", headers=headers),
        client.post("/label", json={"n": 0, "sample": 0, "accepted": True}, headers=headers),
    ):
        assert answer.status_code == 403 and why in answer.text
    assert file.read_text() == ""


def test_read_only_unless_told(client: TestClient, corpus: Path) -> None:
    for answer in (client.post("/label", json={"n": 0, "sample": 0, "accepted": True}), client.post("/undo")):
        assert answer.status_code == 403 and "--label NAME" in answer.json()["detail"]
    assert not (corpus / "labels").exists() and "accept</button>" not in client.get("/question/0").text


def test_judging(judging: tuple[TestClient, Path], corpus: Path) -> None:
    client, file = judging
    for sample, accepted in ((0, False), (1, True), (1, False)):
        assert client.post("/label", json={"n": 0, "sample": sample, "accepted": accepted}).status_code == 200
    assert client.post("/label", json={"n": 0, "sample": 7, "accepted": True}).status_code == 404
    assert client.post("/label", json={"n": 4, "sample": 0, "accepted": True}).status_code == 404
    assert client.post("/undo").json() == {"question_id": "avqa/train/0", "sample": 1, "accepted": True}
    verdicts = list(read_jsonl(file, Verdict))
    assert [(v.sample, v.accepted, v.checker) for v in verdicts] == [(0, False, "person:ann"), (1, True, "person:ann")]
    assert len(verdicts[0].question_fingerprint) == 12
    assert "1 question<" in client.get("/", params={"judged": "label differs from the checker"}).text
    page = client.get("/question/0").text
    assert 'data-label="rejected"' in page and 'data-label="accepted"' in page


def test_clips_that_are_parts_of_files(corpus: Path) -> None:
    film = write_mp4(corpus.parent / "films" / "film.mp4", tone(4.0))
    shard = corpus.parent / "films" / "shard.tar"
    with tarfile.open(shard, "w") as archive:
        archive.add(film, "a.mp4")
    with tarfile.open(shard) as archive:
        member = archive.getmember("a.mp4")
    size = film.stat().st_size
    inside = Clip("clip1", "shard.tar", 0.0, 2.0, member="a.mp4", offset=member.offset_data, size=size)
    write_jsonl(corpus / "clips" / "a.jsonl", [Clip("clip0", "film.mp4", 1.0, 2.5), inside])
    place = place_of(corpus, clips=[str(corpus / "clips")], clips_root=corpus.parent / "films")
    index = CorpusIndex(place)
    client = TestClient(make_app(index, Clips(place, count=3), None, [HOST]), base_url=f"http://{HOST}")
    page = client.get("/question/0").text
    assert 'src="/clip/0#t=1,2.5"' in page and page.count("<img") == 3
    assert client.get("/clip/0").content == client.get("/clip/1").content == film.read_bytes()
    assert client.get("/frame/0/0").content != client.get("/frame/1/0").content  # 1.25 s and a third of a second
    assert "no such clip among the 2" in client.get("/question/2").text
