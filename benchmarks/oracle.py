"""What each trick buys, where truth is known: every method on the exact Gaussian video, at equal cost.

    python benchmarks/oracle.py            rows in benchmarks/results/oracle.jsonl, figure docs/figures/oracle.svg

The oracle's latents have covariance rho^|i - j|, so a perfect long video has variance 1 and lag correlation rho^d. A
method that reads only a window of f latents, or rows at other levels than a clip's, makes another: this measures
which. Steps are chosen so that every method reads nearly as many rows (frame-NFE) a latent over 96 latents, start and
end included: within 3 % of `fifo` with its defaults. The rows of results say each.

This process is Markov: one clean latent tells all about what comes next, which real video does not grant. So it shows
what levels and windows cost, and it flatters methods that read finished latents.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import torch

from longtake.core.engine import Engine
from longtake.core.noise import normal, root
from longtake.core.rollout import Timeline
from longtake.core.schedule import flow
from longtake.core.stream import stream
from longtake.models.analytic import GaussianVideo
from longtake.rollouts.chunk import Chunk
from longtake.rollouts.fifo import Fifo
from longtake.rollouts.freenoise import FreeNoise
from longtake.rollouts.miga import Miga
from longtake.rollouts.progressive import Progressive
from longtake.rollouts.replace import Replace
from longtake.rollouts.rolling import Rolling
from longtake.rollouts.windows import Windows

OUT = Path("benchmarks/results/oracle.jsonl")
FIGURE = Path("docs/figures/oracle.svg")
SHAPE, WINDOW, RHO = (4, 8, 8), 12, 0.95
LAGS = (1, 2, 4, 8, 16, 24)


def methods(num: int) -> dict[str, Any]:
    """Each with steps that bring its cost near the others'; what it is stands in the rows."""

    def s(steps: int) -> Any:
        return flow(steps, 3.0)

    return {
        "chunk, overlap 2": Chunk(SHAPE, s(64), window=WINDOW, overlap=2),
        "chunk, overlap 6": Chunk(SHAPE, s(43), window=WINDOW, overlap=6),
        "replace, overlap 6": Replace(SHAPE, s(43), window=WINDOW, overlap=6),
        "fifo": Fifo(SHAPE, s(36), window=WINDOW),
        "fifo, no lookahead": Fifo(SHAPE, s(60), window=WINDOW, lookahead=False),
        "progressive": Progressive(SHAPE, s(70), window=10),
        "progressive, chunk 2": Progressive(SHAPE, s(65), window=10, chunk=2, prefix=2),
        "rolling": Rolling(SHAPE, s(49), window=WINDOW, block=2, delay=4, overlap=2),
        "miga": Miga(SHAPE, s(28), window=WINDOW),
        "miga, no anchors": Miga(SHAPE, s(28), window=WINDOW, anchors=0),
        "windows": Windows(SHAPE, s(43), window=WINDOW, num_latents=num),
        "freenoise": FreeNoise(SHAPE, s(22), window=WINDOW, num_latents=num),
    }


def latents(rollout: Any, num: int, seed: int) -> tuple[torch.Tensor, Engine]:
    """(N, C, H, W) and the engine that counted."""
    engine = Engine(GaussianVideo(rollout.schedule, SHAPE, WINDOW, RHO), batch=64)
    state = engine.drive(rollout.init(seed, Timeline.of("")))
    made = [x for _, emission in stream(rollout, engine, state, num) for x in emission.latents]
    return torch.stack(made[:num]), engine


def truth(num: int, seed: int) -> torch.Tensor:
    """The process itself: x_i = rho x_(i-1) + sqrt(1 - rho^2) eps."""
    eps = torch.stack([normal(SHAPE, root(seed), "truth", index) for index in range(num)])
    x = [eps[0]]
    for index in range(1, num):
        x.append(RHO * x[-1] + (1 - RHO**2) ** 0.5 * eps[index])
    return torch.stack(x)


def statistics(x: torch.Tensor) -> dict[str, Any]:
    """Variance and correlation by lag, of the later half of the video."""
    late = x[len(x) // 2 :]
    variance = float(late.square().mean())
    lag = {d: float((late[d:] * late[:-d]).mean()) / variance for d in LAGS}
    return {"variance": variance, "correlation": lag, "jump": float((x[1:] - x[:-1]).square().mean())}


def measure(num: int, seeds: int) -> list[dict[str, Any]]:
    """One row a method, with standard errors over seeds."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    rows = []
    for name, rollout in {"truth": None, **methods(num)}.items():
        runs, cost = [], 0.0
        for seed in range(seeds):
            if rollout is None:
                runs.append(statistics(truth(num, seed)))
                continue
            made, engine = latents(rollout, num, seed)
            cost = engine.meter.frame_nfe / num
            runs.append(statistics(made))
        row: dict[str, Any] = {"method": name, "latents": num, "seeds": seeds, "frame_nfe_per_latent": round(cost, 1)}
        row |= {"variance": spread([run["variance"] for run in runs]), "jump": spread([run["jump"] for run in runs])}
        row["correlation"] = {d: spread([run["correlation"][d] for run in runs]) for d in LAGS}
        rows.append(row | {"rho": RHO, "date": date.today().isoformat(), "commit": commit})
        print(name, row["frame_nfe_per_latent"], row["variance"], row["correlation"], flush=True)
    return rows


def spread(values: list[float]) -> list[float]:
    """[mean, standard error]."""
    x = torch.tensor(values)
    return [round(float(x.mean()), 4), round(float(x.std() / len(values) ** 0.5), 4)]


def figure(rows: list[dict[str, Any]]) -> str:
    """Correlation against lag, a line a method, the truth dashed; variance beside the name."""
    width, height, left, top = 760, 420, 60, 20
    plot_w, plot_h = 430, 350

    def x(lag: float) -> float:
        return left + plot_w * (LAGS.index(int(lag)) / (len(LAGS) - 1))

    def y(value: float) -> float:
        return top + plot_h * (1 - (value + 0.1) / 1.1)

    colours = ["#111", "#1b6ca8", "#5aa0d0", "#8b5fbf", "#c0392b", "#e67e22", "#27ae60", "#7dcea0", "#b7950b"]
    colours += ["#d81b60", "#f48fb1", "#607d8b", "#00838f"]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="#fff"/>'
    ]
    for value in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line x1="{left}" x2="{left + plot_w}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for lag in LAGS:
        parts.append(f'<text x="{x(lag):.1f}" y="{top + plot_h + 18}" text-anchor="middle">{lag}</text>')
    parts.append(f'<text x="{left + plot_w / 2}" y="{height - 12}" text-anchor="middle">lag in latents</text>')
    parts.append(f'<text x="{left}" y="{top - 6}">correlation of latents</text>')
    for number, row in enumerate(rows):
        line = " ".join(f"{x(float(d)):.1f},{y(v[0]):.1f}" for d, v in row["correlation"].items())
        dash = ' stroke-dasharray="6 4"' if row["method"] == "truth" else ""
        colour = colours[number % len(colours)]
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        at = top + 14 + 26 * number
        parts.append(f'<line x1="{left + plot_w + 20}" x2="{left + plot_w + 44}" y1="{at}" y2="{at}" stroke="{colour}" '
                     f'stroke-width="3"{dash}/>')  # fmt: skip
        told = f"{row['method']}: variance {row['variance'][0]:.2f}"
        parts.append(f'<text x="{left + plot_w + 50}" y="{at + 4}">{told}</text>')
    return "".join(parts) + "</svg>\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--latents", type=int, default=96)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    rows = measure(args.latents, args.seeds)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    FIGURE.write_text(figure(rows))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
