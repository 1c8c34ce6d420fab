"""Groups of processes: their gradients are those of one process on the joined batch, in float64, over gloo."""

import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from double_encoder import SoftTargets, chunks_of, double_encoder, gradients, seed_chunk
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from encoders.dual import DualEncoder
from train import distributed
from train.distributed import SOLO, Group, join_group, share_rows
from train.gradients import backward_in_chunks

LIMIT = 180  # seconds: a process that waits longer for another one hangs


# What each process of a group does: () -> what the tests compare


def learn(group: Group, encoder: DualEncoder, image_rows: int, text_rows: int) -> dict[str, Any]:
    """The gradients after this process's share of a batch of 7 films and 9 texts, in chunks of so many rows."""
    objective = SoftTargets()
    own, firsts = [], []
    for chunks, rows, total in zip(chunks_of(encoder, image_rows, text_rows), (image_rows, text_rows), (7, 9), strict=True):
        share = share_rows(total, rows, group.rank, group.size)
        own.append([chunk for place, chunk in enumerate(chunks) if place * rows in share])
        firsts.append(share.start)
    loss = backward_in_chunks(*own, objective, group=group, first_rows=(firsts[0], firsts[1]), totals=(7, 9), seed=seed_chunk)
    group.sum_gradients(encoder.parameters())
    return {"loss": loss, "chunks": [len(chunks) for chunks in own], **gradients(encoder, objective)}


def learn_in_chunks(group: Group) -> dict[str, Any]:
    return learn(group, double_encoder(dropout=True), 2, 3)


def learn_in_small_messages(group: Group) -> dict[str, Any]:
    usual, distributed.BUCKET = distributed.BUCKET, 1000
    try:
        return learn(group, double_encoder(dropout=True), 2, 3)
    finally:
        distributed.BUCKET = usual


def learn_in_one_chunk_each(group: Group) -> dict[str, Any]:
    return learn(group, double_encoder(), 4, 5)


def learn_with_live_batchnorm(group: Group) -> dict[str, Any]:
    return learn(group, double_encoder(running=False), 4, 5)


def learn_partly(group: Group) -> list[list[float] | None]:
    """Parameters that learn on both processes, on the last one, on none, and a frozen one with a stale gradient."""
    both, last, none, frozen = (nn.Parameter(torch.ones(2)) for _ in range(4))
    both.grad = torch.tensor([1.0, 10.0 * group.rank])
    if group.rank == group.size - 1:
        last.grad = torch.tensor([3.0, 4.0])
    frozen.grad = torch.tensor([5.0, 6.0])
    frozen.requires_grad_(False)
    group.sum_gradients([both, last, none, frozen])
    return [None if parameter.grad is None else parameter.grad.tolist() for parameter in (both, last, none, frozen)]


def gather_rows(group: Group) -> Tensor:
    """Row i of 5 holds a third of i; process 0 has 4 of them, the next one 1, a third one none."""
    rows = torch.arange(5.0)[:, None].expand(5, 2) / 3
    first, last = (0, 4, 5, 5)[group.rank : group.rank + 2]
    return group.gather(rows[first:last], first, 5)


def talk(group: Group) -> dict[str, Any]:
    group.wait()
    told = {"rank": group.rank, "loss": 0.1, "name": "größer"}
    return {
        "tell": group.tell(group.rank, 7),
        "any": [group.any(group.rank == 1), group.any(False)],
        "share": [group.share(told if group.rank == 0 else None), group.share(None)],
    }


def overlap(group: Group) -> str:
    """Both processes say that their rows are the first ones."""
    rows = [lambda: torch.ones(2, 3, requires_grad=True)]
    with pytest.raises(ValueError) as refused:
        backward_in_chunks(rows, rows, lambda images, texts: images.sum(), group=group, totals=(4, 4))
    return str(refused.value)


TASKS: tuple[Callable[[Group], Any], ...] = (
    learn_in_chunks,
    learn_in_one_chunk_each,
    learn_with_live_batchnorm,
    learn_partly,
    gather_rows,
    talk,
    overlap,
    learn_in_small_messages,
)


def work(rank: int, folder: Path) -> None:
    """Be one of three processes, then, but for the last, one of two."""
    torch.set_num_threads(1)
    for size in (3, 2):
        if rank < size:
            meeting = f"file://{folder}/{size}"
            dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size, timeout=timedelta(seconds=LIMIT))
            torch.save({task.__name__: task(Group(rank, size)) for task in TASKS}, folder / f"{rank} of {size}.pt")
            dist.destroy_process_group()


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What each process found, by task, for groups of two and three."""
    folder = tmp_path_factory.mktemp("groups")
    started = torch.multiprocessing.spawn(work, args=(folder,), nprocs=3, join=False)
    until = time.monotonic() + LIMIT
    try:
        while not started.join(timeout=1):
            assert time.monotonic() < until, "the group hangs"
    finally:
        for process in started.processes:
            process.kill()
    return {size: [torch.load(folder / f"{rank} of {size}.pt", weights_only=True) for rank in range(size)] for size in (2, 3)}


@pytest.fixture(scope="module")
def two(groups: dict[int, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return groups[2]


@pytest.fixture(scope="module")
def three(groups: dict[int, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return groups[3]


def assert_same_learning(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert len(expected) > 40 and "1 log_scale" in expected
    for each in (found, expected):
        each.pop("chunks", None)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("task", [learn_in_chunks, learn_in_small_messages, learn_in_one_chunk_each])
def test_two_processes_have_the_gradients_of_one_on_the_joined_batch(two, task):
    """With dropout, uneven shares and a parameter of the loss's own."""
    for found in two:
        assert_same_learning(dict(found[task.__name__]), task(SOLO))


def test_shares_are_contiguous_chunks(two):
    assert [found["learn_in_chunks"]["chunks"] for found in two] == [[2, 1], [2, 2]]
    assert [found["learn_in_one_chunk_each"]["chunks"] for found in two] == [[1, 1], [1, 1]]


def test_processes_without_rows_have_the_gradients_of_the_others(three):
    """3 processes share 2 chunks of each side: the first has nothing, and does not know the width of a vector."""
    assert [found["learn_in_one_chunk_each"]["chunks"] for found in three] == [[0, 0], [1, 1], [1, 1]]
    for found in three:
        assert_same_learning(dict(found["learn_in_one_chunk_each"]), learn_in_one_chunk_each(SOLO))
        assert_same_learning(dict(found["learn_in_chunks"]), learn_in_chunks(SOLO))


def test_all_processes_have_bit_identical_gradients(two, three):
    """Else their encoders would drift apart."""
    for group in (two, three):
        for task in (learn_in_chunks, learn_with_live_batchnorm):
            first, *others = (found[task.__name__] for found in group)
            for other in others:
                torch.testing.assert_close({**other, "chunks": 0}, {**first, "chunks": 0}, rtol=0, atol=0)


def test_batchnorm_on_the_statistics_of_the_batch_sees_one_process_alone(two):
    """What the documentation warns of: then, and only then, a group's gradients differ from those of one chunk."""
    whole = learn(SOLO, double_encoder(running=False), 7, 9)

    name = "0 image_head.0.weight"
    assert not torch.allclose(two[0]["learn_with_live_batchnorm"][name], whole[name], rtol=1e-2)


@pytest.mark.parametrize(("size", "tens"), [(2, 10), (3, 30)])
def test_gradients_that_only_some_processes_have_are_summed_and_those_of_none_stay_away(groups, size, tens):
    found = [each["learn_partly"] for each in groups[size]]

    assert found == [[[size, tens], [3, 4], None, [5, 6]]] * size


def test_gathered_rows_are_exact_and_in_order(two, three):
    for found in (*two, *three):
        assert found["gather_rows"].equal(torch.arange(5.0)[:, None].expand(5, 2) / 3)


def test_numbers_and_decisions_are_the_same_everywhere(two):
    expected = {
        "tell": [(0, 7), (1, 7)],
        "any": [True, False],
        "share": [{"rank": 0, "loss": 0.1, "name": "größer"}, None],
    }

    assert [found["talk"] for found in two] == [expected, expected]


def test_shares_that_overlap_are_refused_on_every_process(two):
    assert {found["overlap"] for found in two} == {"image rows begin at 0, expected at 2, where those of the process before end"}


@given(total=st.integers(0, 60), chunk=st.integers(0, 20), size=st.integers(1, 9))
def test_the_shares_of_a_batch_cover_it_once_in_whole_chunks_and_nearly_evenly(total, chunk, size):
    shares = [share_rows(total, chunk, rank, size) for rank in range(size)]

    assert [row for share in shares for row in share] == list(range(total))
    rows = chunk or max(1, -(-total // size))
    assert all(share.start % rows == 0 for share in shares if share)
    counts = [-(-len(share) // rows) for share in shares]
    assert max(counts) - min(counts) <= 1
    if chunk == 0:
        assert max(counts) <= 1


def test_one_process_alone_asks_nobody():
    parameter = nn.Parameter(torch.ones(2))
    SOLO.sum_gradients([parameter])
    SOLO.wait()

    assert parameter.grad is None
    assert SOLO.share(value := object()) is value
    assert (SOLO.any(True), SOLO.any(False), SOLO.tell(1, 2)) == (True, False, [(1, 2)])
    assert SOLO.gather(torch.ones(2, 3), 0, 2).equal(torch.ones(2, 3))


def test_rows_beyond_the_total_are_refused():
    with pytest.raises(ValueError, match="rows 1 to 3 of 2, expected them to lie within"):
        SOLO.gather(torch.ones(2, 3), 1, 2)


def test_without_torchrun_the_group_is_one_process(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    with join_group("cpu") as group:
        assert (group.rank, group.size, group.device) == (0, 1, torch.device("cpu"))


def torchrun(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text("from train.distributed import join_group\n" + script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(folder / "script.py")]
    return subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=LIMIT, check=False)


def test_processes_that_torchrun_started_find_each_other(tmp_path):
    run = torchrun(
        f"""
from pathlib import Path
with join_group("cpu") as group:
    met = group.tell(group.rank, group.size)
    (Path({str(tmp_path)!r}) / str(group.rank)).write_text(f"{{met}} on {{group.device}}")
""",
        tmp_path,
    )

    assert run.returncode == 0, run.stderr
    assert [(tmp_path / name).read_text() for name in "01"] == ["[(0, 2), (1, 2)] on cpu"] * 2


def test_when_one_process_fails_the_others_end_too(tmp_path):
    run = torchrun(
        """
from encoders.errors import MedretError
with join_group("cpu") as group:
    group.wait()
    if group.rank == 1:
        raise MedretError("this film is no film")
    try:
        group.wait()
    except MedretError as error:
        print("told:", error)
        raise
""",
        tmp_path,
    )

    assert run.returncode == 1
    assert "this film is no film" in run.stderr
    assert "told: process 0 of 2: the others do not answer" in run.stdout or "told" not in run.stdout  # torchrun may be first
