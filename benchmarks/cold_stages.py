"""What `medret query --text` has done by when, in a process of its own: see cold_query.py.

python benchmarks/cold_stages.py INDEX TEXT BEGAN
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command does

folder, text, began = sys.argv[1], sys.argv[2], float(sys.argv[3])
done = {"interpreter": time.time() - began}


def stage(name: str) -> None:
    """Note that a stage is done."""
    done[name] = time.time() - began


import retrieval.cli  # noqa: E402
import retrieval.commands.asking  # noqa: E402, F401

stage("command line")
from retrieval.early_texts import begin_early  # noqa: E402

early = begin_early(Path(folder), [text])
stage("another process begins with the text")
from retrieval.engine import SearchEngine  # noqa: E402

engine = SearchEngine.load(folder)
engine.texts.early = early
engine.prepare("images")
stage("index open")
engine.encode_texts([text])
stage("text encoded")
engine.search(text)
stage("answered")
print(json.dumps(done))
