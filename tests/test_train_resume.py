"""A run that is killed, at any step or in the midst of writing, ends with the very weights of one that was not.

Real processes are killed by real signals: this file, run as a script, trains in forks of itself and prints what became of them.
"""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

STEPS, EVERY, KILLED_AT = 9, 3, 5
RENAMES = (4, 7)  # of the first validation, one for each of best/, last/, state/ and metrics.csv; of the second, two for each folder
SMALL = {"size": 32, "dimension": 8, "max_tokens": 16, "batch_size": 8, "epochs": 0, "max_steps": STEPS, "validate_every": EVERY}
CASES = {
    "convirt": {"objective": "convirt", "text_sample": "sentences", "texts_per_image": 2},
    "medclip": {"objective": "medclip", "schedule": "plateau", "plateau_patience": 1},
    "umcl": {"objective": "umcl", "chunk_size": 3, "optimizer": "adam"},
    "umcl with continuous prompts": {"objective": "umcl", "prompts": "continuous", "prompt_length": 2},
}


def write_corpora(folder: Path) -> list[Path]:
    """Films with reports and labels, films with labels alone, and reports with labels alone."""
    rng = np.random.default_rng(0)
    paths = []
    for corpus, (films, reports) in {"pairs": (True, True), "films": (True, False), "reports": (False, True)}.items():
        paths.append(folder / f"{corpus}.csv")
        with paths[-1].open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "patient", "split", "Edema", "Fracture", *(["path"] if films else []), *(["text"] if reports else [])])
            for number in range(20):
                edema, fracture = number % 2, number % 3 == 0
                row = [f"r{number}", f"p{number}", "validate" if number >= 16 else "train", edema, int(fracture)]
                if films:
                    Image.fromarray(rng.integers(0, 255, (36, 36), dtype=np.uint8)).save(folder / f"{corpus}{number}.png")
                    row.append(f"{corpus}{number}.png")
                if reports:
                    row.append(
                        f"{'Edema' if edema else 'No edema'} of both lungs. {'A rib is broken.' if fracture else 'The ribs are whole.'}"
                    )
                writer.writerow(row)
    return paths


def learn(
    paths: list[Path], out: Path, settings: dict[str, object], *, resume: bool = False, step: Callable[[int], None] | None = None
) -> None:
    from index.corpora.readers import open_corpus
    from train.config import load_config
    from train.run import train_corpora
    from train.samples import Source

    used = paths[:1] if settings["objective"] == "convirt" else paths
    train_corpora(
        [Source(open_corpus(path)) for path in used],
        load_config(None, **{**SMALL, **settings}),
        out,
        cache_folder=out.parent / "cache",
        resume=resume,
        progress=lambda done, total, loss: step and step(done),
    )


def in_a_fork(work: Callable[[], object]) -> int:
    """The signal that ended the work, or 0."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


def kill_at(wanted: int, number: int) -> Callable[[int], None]:
    def step(done: int) -> None:
        if done == wanted:
            os.kill(os.getpid(), number)

    return step


def kill_at_rename(validation: int, wanted: int) -> Callable[[int], None]:
    """Die in the place of a rename of a validation: the first has nothing to go back to, the second replaces what that one wrote."""
    renames = -1

    def hook(event: str, arguments: object) -> None:
        nonlocal renames
        if event == "os.rename" and renames >= 0:
            if renames == wanted:
                os.kill(os.getpid(), signal.SIGKILL)
            renames += 1

    def step(done: int) -> None:
        nonlocal renames
        if done == validation * EVERY:
            renames = 0

    sys.addaudithook(hook)
    return step


def written(out: Path) -> str:
    """A digest of all weights of the run: the encoder's, the objective's and the optimizer's."""
    files = [*sorted((out / "state").glob("*.safetensors")), out / "last" / "model.safetensors", out / "best" / "model.safetensors"]
    hidden = [path.name for path in out.iterdir() if path.name.startswith(".") and path.name != ".lock"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest() + "".join(sorted(hidden))


def main(folder: Path) -> None:
    paths = write_corpora(folder)
    ends: dict[str, list[object]] = {}
    for name, settings in CASES.items():
        whole = folder / name / "whole"
        learn(paths, whole, settings)  # in this process, which imports and warms up for the forks
        kills: dict[str, Callable[[], Callable[[int], None]]] = {
            sign.name: lambda sign=sign: kill_at(KILLED_AT, sign) for sign in (signal.SIGKILL, signal.SIGTERM)
        }
        if name == "medclip":
            kills |= {
                f"rename {number} of validation {validation}": lambda place=(validation, number): kill_at_rename(*place)
                for validation, renames in enumerate(RENAMES, 1)
                for number in range(renames)
            }
        for kind, kill in kills.items():
            out = folder / name / kind
            first = in_a_fork(lambda settings=settings, out=out, kill=kill: learn(paths, out, settings, step=kill()))
            second = in_a_fork(lambda settings=settings, out=out: learn(paths, out, settings, resume=True))
            ends[f"{name}, {kind}"] = [first, second, written(out) == written(whole)]
    print(json.dumps(ends))


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, int, bool]]:
    """Case and kill to the signals that ended the first and the second process, and whether the weights are the same."""
    folder = tmp_path_factory.mktemp("killed")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True, env=environment, timeout=540)
    assert done.returncode == 0, done.stderr
    return {case: tuple(end) for case, end in json.loads(done.stdout).items()}


@pytest.mark.parametrize("case", CASES)
def test_a_run_killed_between_validations_ends_with_the_weights_of_one_that_was_not(ends, case):
    assert ends[f"{case}, SIGKILL"] == (signal.SIGKILL, 0, True)


@pytest.mark.parametrize("case", CASES)
def test_a_run_told_to_stop_saves_its_step_and_ends_with_the_weights_of_one_that_was_not(ends, case):
    assert ends[f"{case}, SIGTERM"] == (0, 0, True)


def test_a_run_killed_at_any_rename_of_what_it_writes_ends_with_the_weights_of_one_that_was_not(ends):
    """Of each folder that it replaces: before the old one is put aside, and before the new one is in its place."""
    killed = {case: end for case, end in ends.items() if "rename" in case}

    assert len(killed) == sum(RENAMES)
    assert {case: end for case, end in killed.items() if end != (signal.SIGKILL, 0, True)} == {}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
