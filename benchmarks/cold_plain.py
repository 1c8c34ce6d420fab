"""The plain way from cold to answer, in a process of its own: see cold_query.py.

python benchmarks/cold_plain.py NETWORK INDEX.faiss TEXT
"""

import sys

import faiss
import torch
from transformers import AutoModel, AutoTokenizer

network, path, text = sys.argv[1:]
tokenizer, model = AutoTokenizer.from_pretrained(network), AutoModel.from_pretrained(network).eval()
searched = faiss.read_index(path)
with torch.inference_mode():
    hidden = model(**tokenizer([text], return_tensors="pt")).last_hidden_state[0]
    features = hidden.amax(dim=0, keepdim=True)
    torch.manual_seed(0)
    joint = torch.nn.functional.normalize(features @ torch.randn(features.shape[1], searched.d), dim=-1)
scores, rows = searched.search(joint.numpy(), 10)
for score, row in zip(scores[0], rows[0], strict=True):
    print(f"{score:.3f} {row}")
