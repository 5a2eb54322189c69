"""Items are prepared when they are asked for; batches that are sent away stay where they are."""

from lightning.fabric.utilities import move_data_to_device

from datamodules.batching.items import Prepared, TeacherExample
from datamodules.batching.loading import SentBatch
from records.records import Question


def test_an_item_is_prepared_when_it_is_asked_for_and_kept_where_that_is_wanted() -> None:
    asked: list[int] = []

    def double(item: int) -> int:
        asked.append(item)
        return 2 * item

    fresh, kept = Prepared([3, 4], double), Prepared([3, 4], double, keep=True)
    assert len(fresh) == 2 and asked == []
    assert [fresh[1], fresh[1], kept[0], kept[0]] == [8, 8, 6, 6]
    assert asked == [4, 4, 3]


def test_a_batch_that_is_sent_away_is_not_taken_apart_on_its_way_to_a_device() -> None:
    # Lightning copies lists and refuses the frozen dataclasses in them
    batch = SentBatch([TeacherExample(Question("q", "avqa", "a.mp4", "What?", ("a dog",), 0, "Which"))])
    assert move_data_to_device(batch, "meta") is batch
