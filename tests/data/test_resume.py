"""No sample twice and none lost, over ranks and workers, and after going on in mid-epoch."""

import io
import pickle
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.transforms.v2.functional import pil_to_tensor

from foveal.data.dataset import ImageDataset, LabelledImages
from foveal.data.images import ImageError
from foveal.data.loader import StreamLoader, TrainLoader, eval_loader, train_loader
from foveal.data.sharding import pieces, share
from foveal.data.source import read_source
from foveal.data.stream import StreamDataset, StreamedImages
from foveal.errors import FovealError
from tests.data.formats import items, write_parquet, write_tars
from tests.pictures import write_folder

WORLD, WORKERS, BATCH = 2, 2, 3

Data = LabelledImages | StreamedImages


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Data]:
    """24 training images map-style, and as streams of files of unequal length."""
    root = tmp_path_factory.mktemp("shards")
    write_folder(root / "folder" / "train", 8)
    write_folder(root / "folder" / "val", 1, start=50)
    found, held = items(root / "folder" / "train"), items(root / "folder" / "val")
    write_parquet(found, root / "parquet" / "train")
    write_parquet(held, root / "parquet" / "val", 1)
    write_tars(found, root / "webdataset" / "train", 5)
    write_tars(held, root / "webdataset" / "val", 1)
    return {
        "folder": read_source(root / "folder"),
        "parquet": read_source(root / "parquet", streaming=True),
        "webdataset": read_source(root / "webdataset", streaming=True),
    }


def random_grey(image: Any) -> torch.Tensor:
    """Depends on the pixels and on the generators that a sample is given."""
    return pil_to_tensor(image).float().mean(0) + torch.rand(())


def dataset(data: Data) -> ImageDataset | StreamDataset:
    if isinstance(data, StreamedImages):
        return data.train_dataset(random_grey, buffer_size=5)
    return data.train_dataset(random_grey)


def loaders(data: Data, batch_size: int = BATCH, workers: int = WORKERS) -> list[TrainLoader]:
    """One for each rank, in the second epoch."""
    made = [
        train_loader(
            dataset(data), batch_size=batch_size, workers=workers, rank=rank, world=WORLD, seed=4
        )
        for rank in range(WORLD)
    ]
    for loader in made:
        loader.set_epoch(1)
    return made


Batches = list[list[dict[str, torch.Tensor]]]


def counted(ranks: Batches) -> Counter[int]:
    return Counter(index for rank in ranks for batch in rank for index in batch["index"].tolist())


def once(count: int = 24) -> Counter[int]:
    return Counter(range(count))


def interrupt(data: Data, after: int, workers: int = WORKERS) -> tuple[Batches, list[bytes]]:
    """The batches up to a point, and the state of each rank there, as bytes."""
    seen: Batches = []
    states: list[bytes] = []
    for loader in loaders(data, workers=workers):
        batches = iter(loader)
        seen.append([next(batches) for _ in range(after)])
        file = io.BytesIO()
        torch.save(loader.state_dict(), file)
        states.append(file.getvalue())
    return seen, states


def load(state: bytes) -> dict[str, Any]:
    return torch.load(io.BytesIO(state), weights_only=True)


def resume(data: Data, states: list[bytes] | None, workers: int = WORKERS) -> Batches:
    """What new loaders give with the state of the old ones, or with none."""
    made = loaders(data, workers=workers)
    for loader in made:
        if states is not None:
            # One rank's state is that of all.
            loader.load_state_dict(load(states[0]))
        loader.set_epoch(1)
    return [list(loader) for loader in made]


SOURCES = pytest.mark.parametrize("source", ["folder", "parquet", "webdataset"])


@SOURCES
@pytest.mark.parametrize("workers", [0, WORKERS, 3])
def test_an_epoch_has_every_sample_once(collections: dict[str, Data], source: str, workers: int):
    made = loaders(collections[source], workers=workers)
    ranks = [list(loader) for loader in made]
    assert [len(batches) for batches in ranks] == [len(loader) for loader in made] == [4, 4]
    assert all(len(batch["index"]) == BATCH for rank in ranks for batch in rank)
    assert counted(ranks) == once()


@SOURCES
@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_a_resumed_epoch_is_the_unbroken_one(collections: dict[str, Data], source: str, after: int):
    data = collections[source]
    whole = [list(loader) for loader in loaders(data)]
    seen, states = interrupt(data, after)
    assert load(states[0])["batch"] == after
    rest = resume(data, states)
    assert counted([*seen, *rest]) == once()
    for unbroken, before, later in zip(whole, seen, rest, strict=True):
        for one, other in zip(unbroken, before + later, strict=True):
            assert torch.equal(one["index"], other["index"])
            assert torch.equal(one["image"], other["image"])


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("source", ["parquet", "webdataset"])
def test_streams_go_on_with_any_number_of_workers(
    collections: dict[str, Data], source: str, workers: int
):
    seen, states = interrupt(collections[source], 2, workers)
    rest = resume(collections[source], states, workers)
    assert counted([*seen, *rest]) == once()


@SOURCES
def test_without_its_state_the_count_is_wrong(collections: dict[str, Data], source: str):
    data = collections[source]
    seen, states = interrupt(data, 2)
    assert counted([*seen, *resume(data, states)]) == once()
    afresh = resume(data, None)
    assert counted([*seen, *afresh]) != once()
    assert counted([*seen, *[batches[:2] for batches in afresh]]) != once()


@SOURCES
def test_a_state_can_be_saved_again_before_anything_is_read(
    collections: dict[str, Data], source: str
):
    data = collections[source]
    _, states = interrupt(data, 1)
    loader = loaders(data)[1]
    loader.load_state_dict(load(states[1]))
    again = loaders(data)[1]
    again.load_state_dict(loader.state_dict())
    assert len(list(again)) == 3
    again.set_epoch(2)
    assert len(list(again)) == 4, "another epoch begins at its beginning"


@SOURCES
def test_what_fills_no_batch_is_left_out_and_differs(collections: dict[str, Data], source: str):
    left = []
    for epoch in range(6):
        made = loaders(collections[source], batch_size=5, workers=0)
        for loader in made:
            loader.set_epoch(epoch)
        count = counted([list(loader) for loader in made])
        assert set(count.values()) == {1} and len(count) == 20
        left.append(frozenset(range(24)) - set(count))
    assert len(set(left)) > 1


@SOURCES
def test_a_state_of_another_run_is_refused(collections: dict[str, Data], source: str):
    loader, other = (loaders(collections[source], batch_size=size)[0] for size in (3, 4))
    with pytest.raises(FovealError, match="a batch size of 3, not 4"):
        other.load_state_dict(loader.state_dict())


@SOURCES
def test_workers_that_are_not_forked_get_the_same(collections: dict[str, Data], source: str):
    copied = pickle.loads(pickle.dumps(dataset(collections[source])))  # noqa: S301
    loader = train_loader(copied, batch_size=BATCH, workers=0)
    assert counted([list(loader)]) == once()


def test_workers_may_change_where_they_do_not_matter(collections: dict[str, Data]):
    _, states = interrupt(collections["folder"], 2)
    loader = loaders(collections["folder"], workers=0)[0]
    loader.load_state_dict(load(states[0]))
    assert len(list(loader)) == 2
    _, states = interrupt(collections["parquet"], 2)
    with pytest.raises(FovealError, match="number of workers of 2, not 0"):
        loaders(collections["parquet"], workers=0)[0].load_state_dict(load(states[0]))


def test_more_ranks_cut_the_same_batches_up(collections: dict[str, Data]):
    data = collections["folder"]
    alone = list(train_loader(dataset(data), batch_size=6, seed=4))
    halves = [
        list(train_loader(dataset(data), batch_size=3, seed=4, rank=rank, world=2))
        for rank in range(2)
    ]
    for whole, first, second in zip(alone, *halves, strict=True):
        assert torch.equal(whole["index"], torch.cat([first["index"], second["index"]]))


def test_streams_are_mixed_within_the_buffer(collections: dict[str, Data]):
    order = [index for b in loaders(collections["parquet"], workers=0)[0] for index in b["index"]]
    steps = [abs(int(b) - int(a)) for a, b in pairwise(order)]
    assert steps.count(1) < len(steps) / 2


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_has_every_sample_once(collections: dict[str, Data], world: int):
    data = ImageDataset(collections["folder"].train, random_grey)  # type: ignore[arg-type]
    ranks = [
        list(eval_loader(data, batch_size=5, workers=rank % 2, rank=rank, world=world))
        for rank in range(world)
    ]
    assert counted(ranks) == once()


@pytest.mark.parametrize("start", [0, 3, 11])
def test_pieces_are_the_order_of_the_epoch(start: int):
    def listed(first: int, last: int, epoch: int = 5) -> list[tuple[int, int]]:
        found = pieces([4, 0, 7, 2], first, last, seed=1, epoch=epoch)
        return [(file, place) for file, low, high in found for place in range(low, high)]

    everything = listed(0, 13)
    assert len(set(everything)) == 13
    assert listed(start, 13) == everything[start:]
    assert listed(0, start) == everything[:start]
    assert len({tuple(listed(0, 13, epoch)) for epoch in range(6)}) > 1


def test_even_one_file_is_begun_elsewhere_in_other_epochs():
    assert len({next(pieces([9], 0, 9, seed=1, epoch=epoch)) for epoch in range(6)}) > 1


def test_shares_that_cannot_be():
    assert share(5, 4, 0, 2).batch_size == 2
    with pytest.raises(FovealError, match="3 training images are too few for 4 processes"):
        share(3, 1, 0, 4)
    with pytest.raises(FovealError, match="rank 2 of 2"):
        share(8, 1, 2, 2)


Writer = Callable[..., Path]


def damaged(write: Writer, root: Path) -> Path:
    """Eight good images of a class, and the third of the blue ones cut short."""
    folder = write_folder(root / "pictures", 4)
    whole = items(folder)
    key, name, data = whole[6]
    write([*whole[:6], (key, name, data[:40]), *whole[7:]], root / "shards" / "train", 2)
    write(items(write_folder(root / "held", 1)), root / "shards" / "val", 1)
    (root / "shards" / "classes.txt").write_text("blue\ngreen\nred")
    return root / "shards"


@pytest.mark.parametrize("write", [write_parquet, write_tars])
def test_unreadable_images_of_a_stream_are_named_once_and_skipped(
    tmp_path: Path, write: Writer, caplog: pytest.LogCaptureFixture
):
    data = read_source(damaged(write, tmp_path), streaming=True, on_bad_image="skip")
    loader = train_loader(dataset(data), batch_size=4, workers=2)
    assert isinstance(loader, StreamLoader)
    for epoch in range(2):
        loader.set_epoch(epoch)
        count = counted([list(loader)])
        assert len(count) == 11 and set(count.values()) == {1}
    place = "blue/002" if write is write_tars else "row 6"
    assert [str(bad.path).endswith(place) for bad in loader.skipped] == [True]
    assert [f"{place} (" in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize("write", [write_parquet, write_tars])
def test_unreadable_images_of_a_stream_are_refused_by_name(tmp_path: Path, write: Writer):
    data = read_source(damaged(write, tmp_path), streaming=True)
    place = "blue/002" if write is write_tars else "row 6"
    with pytest.raises(ImageError, match=f"{place} is not an image that can be read"):
        list(train_loader(dataset(data), batch_size=4))


@pytest.mark.parametrize("write", [write_parquet, write_tars])
def test_unreadable_images_in_files_are_found_before_training(tmp_path: Path, write: Writer):
    shards = damaged(write, tmp_path)
    place = "blue/002" if write is write_tars else "row 6"
    with pytest.raises(FovealError, match=f"1 of 12 images cannot be read: .*{place}"):
        read_source(shards)
    data = read_source(shards, on_bad_image="skip")
    assert [str(bad.path).endswith(place) for bad in data.skipped] == [True]
    assert (len(data.train), len(data.val)) == (11, 3)


def test_a_file_that_shrinks_is_noticed(tmp_path: Path):
    shards = damaged(write_tars, tmp_path)
    data = read_source(shards, streaming=True, on_bad_image="skip")
    first, second = sorted((shards / "train").glob("*.tar"))
    write_tars(items(tmp_path / "pictures")[:2], tmp_path / "short", 1)
    first.write_bytes(next((tmp_path / "short").glob("*.tar")).read_bytes())
    with pytest.raises(FovealError, match="leave the files as they are"):
        list(train_loader(dataset(data), batch_size=4))
    assert second.exists()
