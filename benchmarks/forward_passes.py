"""Forward passes of the encoders' networks, beside the rate of a matrix product in bfloat16: the last section of encoding.py.

Fp32 and bf16 are medret's own ways (channels-last convolutions; products in bfloat16 by autocast), eager and, in batches, compiled as
for encoding. Plain is the same network eagerly in fp32 with contiguous pixels, as transformers has it. The share is of the rate of a
bf16 product that takes its turn with the passes (medians); operations are counted by torch; the cosine is the lowest between the
vectors of a way and those of medret's fp32.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from clock import CORES, in_turns, matrix_rate, median
from results_file import table
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from encoders.checkpoint import default_checkpoint, load_checkpoint
from encoders.dual import DualEncoder, build_encoder
from encoders.execution import compile_encoder, constant_weights
from encoders.precision import computing

TOKENS = 64
SIDE = 2048  # of the product
PRODUCT = "product"


class Case(NamedTuple):
    """One row of the table: a network, its input, and how to run it plainly."""

    name: str
    make: Callable[[], DualEncoder]
    side: str
    batch: int


def cases() -> list[Case]:
    """Return what is measured."""
    resnet = partial(build_encoder, "resnet50", texts=["left effusion"], dimension=512)
    bert = partial(build_encoder, "tiny", "bert-base", texts=["left effusion"], dimension=512, max_tokens=TOKENS)
    found = [Case("ResNet-50, 224 px", resnet, "images", batch) for batch in (1, 16, 32)]
    found += [Case("the default encoder's images", partial(load_checkpoint, default_checkpoint()), "images", 32)]
    return found + [Case(f"BERT-base, {TOKENS} tokens", bert, "texts", batch) for batch in (1, 16)]


def measure_forward(quick: bool) -> dict[str, Any]:
    """Time every case in turns; seconds are medians."""
    torch.set_num_threads(CORES)
    rates = {dtype: matrix_rate(dtype, 1024 if quick else 2048)[CORES] for dtype in ("float32", "bfloat16")}
    return {"rates": rates, "cases": [_measure(case, quick) for case in (cases()[:1] if quick else cases())]}


def forward_table(figures: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    rows = []
    for case in figures["cases"]:
        plain = case["seconds"]["plain, fp32"]
        rate = 2 * SIDE**3 / case["seconds"][PRODUCT]
        for way, seconds in case["seconds"].items():
            if way == PRODUCT:
                continue
            share = case["flop"] * case["batch"] / seconds / rate
            cosine = case["cosine"].get(way)
            row = [case["name"], case["batch"], way, f"{case['batch'] / seconds:.1f}", f"{plain / seconds:.2f}", f"{share:.0%}"]
            rows.append([*row, None if cosine is None else f"{cosine:.6f}"])
    fp32, bf16 = (figures["rates"][dtype] / 1e9 for dtype in ("float32", "bfloat16"))
    said = f"Matrix products: {fp32:,.0f} GFLOP/s in fp32, {bf16:,.0f} in bf16, at best."
    return (
        f"{said}\n\n{table(['network', 'batch', 'way', 'items/s', 'plain = 1', 'share of the bf16 rate', 'lowest cosine to fp32'], rows)}"
    )


def _measure(case: Case, quick: bool) -> dict[str, Any]:
    encoder, plain = case.make().eval(), case.make().eval()
    given, product = _input(case, encoder), torch.randn(SIDE, SIDE).bfloat16()
    ways = {
        "plain, fp32": lambda: _plain(case, plain, given),
        "medret, fp32": lambda: _medret(case, encoder, given, "float32"),
        "medret, bf16": lambda: _medret(case, encoder, given, "bfloat16"),
        PRODUCT: lambda: product @ product.T,
    }
    if case.batch > 1:  # single items are what queries are, which are not compiled
        compiled = case.make().eval()
        compile_encoder(compiled)
        ways["medret, bf16, compiled"] = lambda: _medret(case, compiled, given, "bfloat16")
    exact = ways["medret, fp32"]()
    cosines = {
        way: float(F.cosine_similarity(call().float(), exact, dim=-1).min()) for way, call in ways.items() if way.startswith("medret, b")
    }
    with FlopCounterMode(display=False) as counter:
        ways["plain, fp32"]()
    times = in_turns(ways, 2 if quick else 5, patience=8)
    seconds = {way: median(taken) for way, taken in times.items()}
    return {"name": case.name, "batch": case.batch, "flop": counter.get_total_flops() / case.batch, "seconds": seconds, "cosine": cosines}


def _input(case: Case, encoder: DualEncoder) -> Any:
    """Films as uint8 squares with structure, not noise alone; or token ids and their mask, none cut."""
    if case.side == "images":
        size = encoder.config.preprocessing.size
        coarse = torch.rand(case.batch, 1, 14, 14, generator=torch.Generator().manual_seed(0))
        smooth = F.interpolate(coarse, (size, size), mode="bicubic")[:, 0]
        return (smooth.clamp(0, 1) * 255).to(torch.uint8)
    ids = torch.randint(5, encoder.text.vocabulary_size, (case.batch, TOKENS), generator=torch.Generator().manual_seed(0))
    return ids, torch.ones_like(ids)


def _medret(case: Case, encoder: DualEncoder, given: Any, precision: str) -> torch.Tensor:
    with constant_weights(), computing(torch.device("cpu"), precision):
        if case.side == "images":
            return encoder.encode_images(given).joint
        return encoder.text_head(encoder.text(*given))


def _plain(case: Case, encoder: DualEncoder, given: Any) -> torch.Tensor:
    with torch.inference_mode():
        if case.side == "texts":
            return encoder.text.model(input_ids=given[0], attention_mask=given[1]).last_hidden_state.amax(dim=1)
        model = encoder.image.model.to(memory_format=torch.contiguous_format)
        output = model(encoder.config.preprocessing.normalise(given).contiguous())
        return output if isinstance(output, torch.Tensor) else output.last_hidden_state.mean(dim=(2, 3))
