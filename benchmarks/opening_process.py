"""The process that opening.py measures: it imports no more than it opens with."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from clock import resident

ASKED = 12_345  # a stored row, modulo the rows


def main(kind: str, place: str, began: str) -> None:
    """Open, answer twice, and print seconds and bytes: imports (since the process was started), first, second, anonymous, file."""
    if kind == "medret":
        from index.folder import open_index  # as the command imports it
    else:
        import faiss
    imported = time.time()

    if kind == "medret":
        searched = open_index(Path(place)).index("images")
        asked = searched.table.vectors("joint", np.array([ASKED % searched.rows]))

        def answer() -> Any:
            return searched.search(asked, 10)
    else:
        faiss.omp_set_num_threads(1)
        opened = faiss.read_index(place, faiss.IO_FLAG_MMAP_IFC if kind == "mapped" else 0)
        asked = np.load(Path(place).with_suffix(".npy"))  # an IVF would have to look through its lists for a stored vector
        parameters = faiss.SearchParametersIVF(nprobe=32) if isinstance(opened, faiss.IndexIVF) else None

        def answer() -> Any:
            return opened.search(asked, 10, params=parameters)

    answer()
    first = time.time()
    answer()
    second = time.time()
    memory = resident()
    figures = {"imports": imported - float(began), "first": first - imported, "second": second - first}
    print(json.dumps({**figures, "anonymous": memory["anonymous"], "file": memory["file"]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
