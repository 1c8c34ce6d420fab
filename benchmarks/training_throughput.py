"""How fast a training step is, beside the same step written plainly, in one run.

python benchmarks/training_throughput.py [--device cuda] [--batches 256 1024 4096] [--chunks 0 256] [--rounds 7]

"medret" is the step of a ConVIRT run, with all that it does: films from the host as uint8, augmentation, tokenising, autocast,
the loss, clipping, fused AdamW; whole batches (chunks of 0) or in chunks, each encoded twice. "plain" is what one writes at
first, in the style of open_clip: pixels and token ids made beforehand that lie on the device, the same two networks as
transformers has them, autocast, one graph of the whole batch, the symmetric loss with a learned scale, torch's own AdamW. So
"plain" does less.

All take turns, step for step, after two steps to warm up; the medians of their times are compared. Memory is the most that
torch had allocated in two steps of one of them alone. Model FLOP are those of the plain step, forward and backward, without
what is computed twice; their share is of the rate of a matrix product in the same dtype, measured in this run. Without CUDA:
small encoders, float32, steps a second.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from encoders.device import choose_device
from encoders.dual import DualEncoder, build_encoder
from train.batches import Batch
from train.config import TrainConfig
from train.distributed import Group
from train.parameters import autocast_dtype, place_encoder, prepare_encoder
from train.step import Learner

Step = Callable[[], object]
WORDS = [f"{first}{last}" for first in ("kar", "pleu", "atel", "pneu", "con") for last in ("dia", "ral", "ectasis", "monia", "tour", "ia")]


@dataclass(frozen=True)
class Case:
    """What is measured: encoders, input and precision."""

    image: str
    text: str
    size: int
    tokens: int
    device: torch.device

    def encoder(self) -> DualEncoder:
        encoder = build_encoder(self.image, self.text, texts_of(200, self.tokens), size=self.size, max_tokens=self.tokens)
        return encoder.to(self.device)

    def config(self, batch: int, chunk: int) -> TrainConfig:
        return TrainConfig(batch_size=batch, chunk_size=chunk, texts_per_image=1)

    def autocast(self) -> torch.autocast:
        dtype = autocast_dtype("auto", self.device)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class PlainModel(nn.Module):
    """The two networks as transformers has them, projections and a scale; pixels and token ids in, loss out."""

    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__()
        self.image, self.image_head = encoder.image.model.to(memory_format=torch.contiguous_format), encoder.image_head
        self.text, self.text_head = encoder.text.model, encoder.text_head
        self.log_scale = nn.Parameter(torch.tensor(2.3))

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        images = self.image_head(self.image(pixels).last_hidden_state.mean(dim=(2, 3)))
        hidden = self.text(input_ids=ids, attention_mask=mask).last_hidden_state
        texts = self.text_head(hidden.masked_fill(mask[:, :, None] == 0, -torch.inf).amax(dim=1))
        logits = self.log_scale.exp() * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
        own = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def texts_of(count: int, tokens: int) -> tuple[str, ...]:
    """Texts that are cut at so many tokens, or nearly as long."""
    rng = np.random.default_rng(0)
    return tuple(" ".join(rng.choice(WORDS, tokens)) for _ in range(count))


def plain_step(case: Case, batch: int) -> Step:
    """The step as one writes it at first, on inputs that are ready on the device."""
    encoder = case.encoder()
    tokens = encoder.tokenizer(texts_of(batch, case.tokens), case.tokens)
    ids, mask = tokens.ids.to(case.device), tokens.mask.to(case.device)
    pixels = torch.randn(batch, 3, case.size, case.size, device=case.device)
    model = PlainModel(encoder).to(case.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> float:
        optimizer.zero_grad()
        with case.autocast():
            loss = model(pixels, ids, mask)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def medret_step(case: Case, batch: int, chunk: int) -> Step:
    """The step of a training run, of one batch time and again."""
    encoder, config = case.encoder(), case.config(batch, chunk)
    prepare_encoder(encoder, config)
    group = Group(device=case.device)
    place_encoder(encoder, config, group)
    learner = Learner(encoder, config, group)
    learner.begin()
    side = case.size * 8 // 7
    films = torch.randint(0, 256, (batch, side, side), dtype=torch.uint8)
    films = films.pin_memory() if case.device.type == "cuda" else films
    drawn = Batch(
        step=0,
        rows=np.arange(batch),
        texts=texts_of(batch, case.tokens),
        image_labels=np.zeros((batch, 0), dtype=np.float32),
        text_labels=np.zeros((batch, 0), dtype=np.float32),
        partners=np.eye(batch, dtype=bool),
    )
    return lambda: learner.step(drawn, films, 1e-3)


def candidates(case: Case, batch: int, chunks: Sequence[int]) -> dict[str, Callable[[], Step]]:
    """What can be measured at this batch size, by name."""
    found: dict[str, Callable[[], Step]] = {"plain": lambda: plain_step(case, batch)}
    for chunk in chunks:
        if chunk < batch:
            name = f"medret, chunks of {chunk}" if chunk else "medret, whole"
            found[name] = lambda chunk=chunk: medret_step(case, batch, chunk)
    return found


def peak_memory(case: Case, make: Callable[[], Step]) -> float | None:
    """GiB that two steps of one alone take on CUDA; None if they do not fit."""
    if case.device.type != "cuda":
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    try:
        step = make()
        step()
        step()
        peak = torch.cuda.max_memory_allocated() / 2**30
    except torch.OutOfMemoryError:
        peak = None
    step = None
    gc.collect()
    torch.cuda.empty_cache()
    return peak


def timed(case: Case, step: Step) -> float:
    """Seconds until the device is done with it."""
    case.wait()
    began = time.perf_counter()
    step()
    case.wait()
    return time.perf_counter() - began


def matrix_rate(case: Case) -> float:
    """FLOP/s of a square matrix product in the dtype of the encoders' products; the best of several."""
    side = 8192 if case.device.type == "cuda" else 2048
    dtype = autocast_dtype("auto", case.device) or torch.float32
    factors = [torch.randn(side, side, device=case.device, dtype=dtype) for _ in range(2)]
    times = [timed(case, lambda: torch.mm(*factors)) for _ in range(12)]
    return 2 * side**3 / min(times[2:])


def step_flop(case: Case) -> float:
    """FLOP of a plain step, an image with its text: the difference of two batches, so that nothing fixed is counted."""
    counts = []
    for batch in (4, 8):
        step = plain_step(case, batch)
        with FlopCounterMode(display=False) as counter:
            step()
        counts.append(counter.get_total_flops())
    return (counts[1] - counts[0]) / 4


def measure(case: Case, batch: int, chunks: Sequence[int], rounds: int, flop: float, rate: float) -> None:
    """Print a row of the table for each of the candidates."""
    makers = candidates(case, batch, chunks)
    peaks = {name: peak_memory(case, make) for name, make in makers.items()}
    steps = {name: make() for name, make in makers.items() if peaks[name] is not None}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(2 + rounds):
        for name, step in steps.items():
            seconds = timed(case, step)
            if number >= 2:
                times[name].append(seconds)
    for name, peak in peaks.items():
        if peak is None:
            print(f"| {batch} | {name} | does not fit | | | | |")
            continue
        seconds = statistics.median(times[name])
        beside = f"{statistics.median(times['plain']) / seconds:.2f}" if "plain" in times else "–"
        share = f"{flop * batch / seconds / rate:.0%}"
        memory = f"{peak:.1f}" if peak else "–"
        spread = f"{min(times[name]):.3f}–{max(times[name]):.3f}"
        print(f"| {batch} | {name} | {batch / seconds:.1f} | {1 / seconds:.3f} ({spread} s) | {beside} | {share} | {memory} |", flush=True)


def main() -> None:
    """Measure all batch sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device")
    parser.add_argument("--image")
    parser.add_argument("--text")
    parser.add_argument("--size", type=int)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--chunks", type=int, nargs="+", help="0: the whole batch")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    device = torch.device(choose_device(given.device))
    large = device.type == "cuda"
    case = Case(
        image=given.image or ("resnet50" if large else "tiny"),
        text=given.text or ("bert-base" if large else "tiny"),
        size=given.size or (224 if large else 128),
        tokens=given.tokens or (64 if large else 32),
        device=device,
    )
    flop, rate = step_flop(case), matrix_rate(case)
    where = torch.cuda.get_device_name() if large else f"{torch.get_num_threads()} threads of a CPU"
    print(f"{case.image} + {case.text}, {case.size} px, {case.tokens} tokens, {autocast_dtype('auto', device) or torch.float32}, {where},")
    print(f"torch {torch.__version__}; {flop / 1e9:.1f} GFLOP an image and text; a matrix product runs at {rate / 1e12:.2f} TFLOP/s")
    print("| batch | step | images/s | steps/s (fastest to slowest) | speed, plain = 1 | share of the matrix rate | GiB |")
    print("|---|---|---|---|---|---|---|")
    for batch in given.batches or ([256, 1024, 4096] if large else [64]):
        measure(case, batch, given.chunks or ([0, 256] if large else [0, 16]), given.rounds, flop, rate)


if __name__ == "__main__":
    main()
