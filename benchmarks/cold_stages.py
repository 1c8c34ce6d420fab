"""What `medret query --text` has done by when, in a process of its own: see cold_query.py.

python benchmarks/cold_stages.py INDEX TEXT BEGAN
"""

import json
import os
import sys
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command does

folder, text, began = sys.argv[1], sys.argv[2], float(sys.argv[3])
done = {"interpreter": time.time() - began}


def stage(name: str) -> None:
    """Note that a stage is done."""
    done[name] = time.time() - began


import numpy  # noqa: E402, F401

stage("numpy")
import retrieval.cli  # noqa: E402, F401

stage("command line")
from retrieval.engine import SearchEngine  # noqa: E402

engine = SearchEngine.load(folder)
stage("index open")
engine.encode_texts([text])
stage("text encoded")
engine.search(text)
stage("answered (the text encoded again)")
print(json.dumps(done))
