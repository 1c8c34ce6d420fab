import subprocess
import sys
import threading
from pathlib import Path

import pytest

from index import workers

ROOT = Path(workers.__file__).parents[1]


def test_work_is_done_side_by_side_and_comes_back_in_order():
    met = threading.Barrier(workers.count_workers(), timeout=10)

    assert workers.work_on(range(workers.count_workers()), lambda part: (met.wait(), part)[1]) == list(range(workers.count_workers()))


def test_a_fault_in_a_worker_is_raised():
    with pytest.raises(ZeroDivisionError):
        workers.work_on([1, 0], lambda part: 1 / part)


def test_a_worker_computes_with_one_thread_and_all_others_as_before():
    """In a process of its own with three threads; a forked child has workers of its own."""
    code = """
import os, threading, torch
torch.set_num_threads(3)
from index.workers import count_workers, work_on
assert count_workers() == 3
assert work_on(range(6), lambda _: torch.get_num_threads()) == [1] * 6
seen = [torch.get_num_threads()]
other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
other.start(); other.join()
assert seen == [3, 3], seen
torch.set_num_threads(1)
assert count_workers() == 1  # a caller who computes with one thread is served by one
child = os.fork()
if child == 0:
    os._exit(0 if work_on([2], lambda part: part) == [2] else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=60).returncode == 0
