"""A machine of given rates, for predictions that no other machine changes."""

from index.calibration import Calibration

MACHINE = Calibration(
    flat_bytes=25e9,
    code_bytes=25e9,
    list_bytes=10e9,
    float_flops=200e9,
    gather_s=5e-7,
    half_gather_s=1e-6,
    insert_s=2e-5,
    visit_s=4e-7,
    graph_rows=6000,
    memory=24_000_000_000,
)
