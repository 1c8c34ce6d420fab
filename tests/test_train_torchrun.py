"""`torchrun ... medret train`: two processes learn what one learns, stop together and leave one run behind."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from encoders.checkpoint import load_checkpoint
from index.corpora.phantom import write_phantoms

LIMIT = 240  # seconds for any command: longer is a hang
MEDRET = str(Path(sys.executable).with_name("medret"))
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
STEPS = 40
# Batches of 8 in chunks of 3: uneven shares. With dropout, augmentation and a learned temperature
SETTINGS = f"""
objective = "umcl"
temperature = 0.07
batch_size = 8
chunk_size = 3
size = 32
dimension = 16
max_tokens = 32
epochs = 0
max_steps = {STEPS}
validate_every = 8
batchnorm = "running"
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torchrun") / "corpus"
    write_phantoms(folder, 24, 0)
    (folder.parent / "run.toml").write_text(SETTINGS)
    return folder


def start(corpus: Path, out: Path, *more: str, launcher: Sequence[str] = TORCHRUN) -> "subprocess.Popen[str]":
    """`medret train`: two processes, or one without a launcher; each with one thread."""
    train = [MEDRET, "train", str(corpus), "--config", str(corpus.parent / "run.toml"), "--out", str(out), "--device", "cpu", *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*launcher, *train], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    try:
        stdout, stderr = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, stdout, stderr


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + LIMIT
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, f"no {path.name}"
        time.sleep(0.02)


def read_rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_two_processes_stopped_and_resumed_learn_what_one_learns_without_a_stop(tmp_path, corpus):
    """Compared are losses and temperature of every validation and the vectors of the last encoder, up to rounding.

    Not its weights: a gradient that is nothing but rounding becomes a whole step in Adam. Of that, one process with one thread
    and one with two differ by 0.003 in a component of a vector, so that two processes may differ from one by as much.
    """
    alone, together = tmp_path / "alone", tmp_path / "together"
    code, _, stderr = finish(start(corpus, alone, launcher=()))  # a process of its own: with as many threads, sums round alike
    assert code == 0, stderr
    process = start(corpus, together)
    wait_for(together / "state" / "state.json", process)

    process.send_signal(signal.SIGTERM)
    code, stdout, stderr = finish(process)

    assert code != 0
    assert stdout.count("interrupted after") == 1, stderr
    assert stderr.count("go on with: medret train") == 1
    stopped_at = int(stdout.split("interrupted after ")[1].split()[0])
    assert 8 <= stopped_at < STEPS

    code, stdout, stderr = finish(start(corpus, together, "--resume"))

    assert code == 0, stderr
    assert stdout.count(f"finished after {STEPS} steps") == stdout.count("encoder: ") == 1  # rank 0 alone speaks
    assert {path.name for path in together.iterdir()} == {path.name for path in alone.iterdir()}
    for found, expected in zip(read_rows(together), read_rows(alone), strict=True):
        for column in ("step", "epoch", "lr", "train_loss", "validation_loss", "temperature"):
            assert float(found[column]) == pytest.approx(float(expected[column]), rel=1e-4), column
    first, second = (load_checkpoint(run / "last").eval() for run in (together, alone))
    films = torch.randint(0, 256, (16, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    texts = ["Small left pleural effusion.", "The heart is enlarged.", "No pneumothorax."]
    with torch.inference_mode():
        torch.testing.assert_close(first.encode_images(films).joint, second.encode_images(films).joint, rtol=0, atol=0.01)
        torch.testing.assert_close(first.encode_texts(texts).joint, second.encode_texts(texts).joint, rtol=0, atol=0.01)


def test_a_fault_of_the_data_ends_both_processes_with_its_message(tmp_path, corpus):
    code, stdout, stderr = finish(start(corpus, tmp_path / "run", "--set", 'findings=["Sunburn"]'))

    assert code == 1
    assert stdout == ""
    assert 1 <= stderr.count("Sunburn") <= 2
    assert "internal error" not in stderr
    assert not (tmp_path / "run" / "last").exists()
