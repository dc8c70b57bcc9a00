"""Planning a grid of 1,000 cells, start-up included, beside Hydra composing the same cells one by one.

python benchmarks/planning.py
"""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

CELLS = "['noise.alpha=' + ','.join(map(str, range(100))), 'seed=' + ','.join(map(str, range(10)))]"
OURS = f"from neft_lab.plan import make_plan; assert len(make_plan({CELLS}).cells) == 1000"
SAMPLE = 50
HYDRA = f"""
import time
from neft_lab.plan.compose import compose_config, hydra_session
with hydra_session():
    began = time.perf_counter()
    for number in range({SAMPLE}):
        compose_config([f'noise.alpha={{number}}', 'seed=0'])
    print(time.perf_counter() - began)
"""


def seconds(code: str) -> float:
    """Seconds of a fresh interpreter, or what the code itself prints (Hydra's start-up must not be scaled)."""
    began = time.perf_counter()
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return float(told) if told.strip() else time.perf_counter() - began


def main() -> None:
    """Run both in turn, three times, and print the medians and their ratio."""
    pairs = [(seconds(OURS), seconds(HYDRA)) for _ in range(3)]
    ours, hydra = median(one for one, _ in pairs), median(two for _, two in pairs) / SAMPLE * 1000
    print(f"1,000 cells planned and keyed: {ours:.2f} s (min {min(one for one, _ in pairs):.2f})")
    print(f"Hydra's compose of 1,000 cells: {hydra:.1f} s ({SAMPLE} composed, scaled)")
    print(f"ratio {hydra / ours:.0f}")


if __name__ == "__main__":
    main()
