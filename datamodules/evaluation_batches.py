"""The batches of validation, test and prediction, for a model that is loaded here or for one behind an endpoint."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from torch.utils.data import DataLoader

from datamodules.batching.batch import AudioQABatch
from datamodules.batching.clip_requests import ClipRequests, clip_request
from datamodules.batching.collate import Example
from datamodules.batching.items import Item, Prepared, decoded
from datamodules.batching.loading import loader_settings
from datamodules.media.audio import ClipFolder
from datamodules.media.probes import Clips
from datamodules.media.video import FrameFolder
from datamodules.settings import DataSettings
from records.records import Question


def evaluation_batches(
    asked: Sequence[Question], settings: DataSettings, heard: Clips, collate: Callable[[list[Example]], AudioQABatch]
) -> DataLoader[Any]:
    """Return batches for a model that is loaded here.

    Args:
        asked: This rank's questions, as the model is asked them.
        settings: Of the DataModule.
        heard: Gives the sound of a clip.
        collate: Makes a batch.
    """
    items = [Item(question, question.answer_text) for question in asked]
    return _loader(Prepared(items, partial(decoded, clips=heard)), settings, collate)


def evaluation_requests(
    asked: Sequence[Question], settings: DataSettings, heard: Clips, clips: ClipFolder, answered: Collection[str]
) -> DataLoader[Any]:
    """Return batches for a model behind an endpoint.

    Args:
        asked: This rank's questions, as the model is asked them.
        settings: Of the DataModule, with ``requests``.
        heard: Gives the sound of a clip.
        clips: Where the clips are.
        answered: Ids of questions that were answered before: their clips are not decoded.
    """
    assert settings.requests is not None
    prepare = partial(
        clip_request,
        prompt=settings.whole_prompt,
        settings=settings.requests,
        heard=heard,
        seen=FrameFolder(
            clips.root, follow_links=clips.follow_links, corpus=clips.corpus, sampling=settings.requests.frames
        ),
        answered=frozenset(answered),
    )
    return _loader(Prepared(asked, prepare), settings, ClipRequests)


def _loader(
    dataset: Prepared[Any, Any], settings: DataSettings, collate: Callable[[list[Any]], Any]
) -> DataLoader[Any]:
    workers = loader_settings(settings.num_workers)
    return DataLoader(dataset, batch_size=settings.evaluated_at_once, collate_fn=collate, **workers)
