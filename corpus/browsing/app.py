"""The page: lists of questions, one question with everything that is known of it, and a person's verdicts on traces."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, select_autoescape
from pydantic import BaseModel

from corpus.browsing.clips import Clips
from corpus.browsing.index import GATES, JUDGED, CorpusIndex, Selection, Shown
from corpus.browsing.labels import LabelFile
from corpus.browsing.same_origin import guard
from datamodules.media.media_files import MediaError
from datamodules.media.segments import Segment, file_of
from datamodules.reading.annotations import RowError, check_options
from records.records import Question, RecordError

PAGE = Path(__file__).parent / "page"
ROWS = 50
"""Questions on a page of the list."""


class Judgement(BaseModel):
    """What a person says of a trace.

    Attributes:
        n: The question's place in the annotation file.
        sample: The trace's sample.
        accepted: Whether its claims fit the sound.
    """

    n: int
    sample: int
    accepted: bool


def make_app(index: CorpusIndex, clips: Clips, labels: LabelFile | None, hosts: Collection[str]) -> FastAPI:
    """Return the page as an application.

    Args:
        index: What is in the corpus.
        clips: Its clips.
        labels: Takes what a person says; None shows only.
        hosts: The names and ports by which the page is reached; requests for others are refused.
    """
    app = FastAPI(title="Corpus", docs_url=None, redoc_url=None, openapi_url=None)
    app.middleware("http")(guard(hosts))
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    templates = Environment(
        loader=FileSystemLoader(PAGE), autoescape=select_autoescape(default=True, default_for_string=True)
    )
    for verdict in labels.current().values() if labels else ():
        index.set_label(verdict.question_id, verdict.sample, verdict.accepted)

    def page(name: str, **values: Any) -> HTMLResponse:
        values |= {
            "gates": index.gates(),
            "kinds": index.kinds(),
            "all_judged": JUDGED,
            "can_label": labels is not None,
        }
        values["status"] = index.status
        return HTMLResponse(templates.get_template(name).render(values))

    def shown(n: int) -> Shown:
        found = index.question(n)
        if found is None:
            raise HTTPException(404, f"there is no question {n}")
        return found

    @app.exception_handler(MediaError)
    @app.exception_handler(RecordError)
    def unusable(request: Request, error: Exception) -> Response:
        return JSONResponse({"detail": str(error)}, 404)

    @app.get("/")
    def questions(chosen: Annotated[Selection, Depends()], start: int = 0) -> HTMLResponse:
        if chosen.gate not in ("", *GATES) or chosen.judged not in ("", *JUDGED):
            raise HTTPException(404, "there is no such gate")
        count = index.count(chosen)
        start = max(0, min(start, (count - 1) // ROWS * ROWS))
        return page(
            "list.html.j2", chosen=chosen, rows=index.page(chosen, start, ROWS), count=count, start=start, step=ROWS
        )

    @app.get("/question/{n}")
    def question(n: int, chosen: Annotated[Selection, Depends()]) -> HTMLResponse:
        one = shown(n)
        before, after = index.neighbours(chosen, n)
        error, frames = "", 0
        try:
            frames = len(clips.frames(one.row))
        except MediaError as failure:
            error = str(failure)
        return page(
            "question.html.j2",
            chosen=chosen,
            one=one,
            traces=index.traces(one.id),
            before=before,
            after=after,
            frames=frames,
            error=error,
            part=clips.fragment(one.row),
            is_sound=clips.media_type(one.row).startswith("audio/"),
        )

    @app.get("/clip/{n}")
    def clip(n: int) -> Response:
        row = shown(n).row
        found = clips.find(row)
        if isinstance(found, Segment) and found.member:
            with found.opened() as whole:
                return Response(whole.read_bytes(), media_type=clips.media_type(row))
        return FileResponse(file_of(found), media_type=clips.media_type(row))

    @app.get("/frame/{n}/{number}")
    def frame(n: int, number: int) -> Response:
        frames = clips.frames(shown(n).row)
        if not 0 <= number < len(frames):
            raise HTTPException(404, f"there is no frame {number}")
        return Response(frames[number], media_type="image/jpeg")

    @app.post("/label")
    def label(said: Judgement) -> dict[str, Any]:
        if labels is None:
            raise HTTPException(403, "this page shows only: start it with --label NAME to judge traces")
        one = shown(said.n)
        if all(trace.sample != said.sample for trace, _, _ in index.traces(one.id)):
            raise HTTPException(404, f"the question has no trace {said.sample}")
        labels.add(one.id, said.sample, said.accepted, _fingerprint(one))
        index.set_label(one.id, said.sample, said.accepted)
        return {"accepted": said.accepted}

    @app.post("/undo")
    def undo() -> dict[str, Any]:
        if labels is None:
            raise HTTPException(403, "this page shows only: start it with --label NAME to judge traces")
        taken = labels.undo()
        if taken is None:
            return {"question_id": None}
        before = labels.current().get((taken.question_id, taken.sample))
        index.set_label(taken.question_id, taken.sample, before.accepted if before else None)
        return {"question_id": taken.question_id, "sample": taken.sample, "accepted": before and before.accepted}

    return app


def _fingerprint(one: Shown) -> str:
    """Return what a question asks, as verdicts say it; empty where its row is not usable."""
    options = one.row.get("multi_choice")
    try:
        texts, _, _ = check_options(options if isinstance(options, list) else [], None)
    except RowError:
        return ""
    return Question(one.id, "avqa", "", str(one.row.get("question_text")), texts, None, "").fingerprint
