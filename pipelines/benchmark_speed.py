"""Print what anomgen costs: its flows next to zuko's, its VAE and GAN next to PyOD's, every family next to the limit.

Both sides train the same architecture on the same rows in this process, in turns, on one thread, in CPU-seconds; the
median of the ratios is reported. "x limit" is the time in multiples of what the matrix products alone would take at the
rate this machine reaches on large ones. zuko runs in the usual loop: DataLoader, Adam. PyOD runs as it comes; both of
its detectors see rows on the scale that ours make for themselves, and fit includes the threshold on either side.

    python pipelines/benchmark_speed.py [--quick]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measure import DIM, duel, matmul_rate, peak_megabytes, run_child, seconds, table
from sklearn.exceptions import ConvergenceWarning
from torch.utils.flop_counter import FlopCounterMode

from anomgen import FlowDetector, GANDetector, GenerativeModel, Space, VAEDetector, families, runtime
from anomgen.encode import Encoded
from anomgen.families.flow import Flow
from anomgen.train import Callback, Run, Trainer

try:
    import pyod.models.alad
    import pyod.models.vae
    import zuko
except ImportError as error:
    sys.exit(f"this benchmark compares with zuko and PyOD ({error}): pip install 'anomgen[bench]'")

TRANSFORMS, BINS = 5, 8
CPU = torch.device("cpu")


def ours(univariate: str, hidden: int) -> Flow:
    """Build a masked flow of zuko's architecture."""
    return Flow(
        DIM,
        coupling="autoregressive",
        univariate=univariate,
        transforms=TRANSFORMS,
        hidden=(hidden, hidden),
        bins=BINS,
    )


def theirs(univariate: str, hidden: int) -> Any:
    options: dict[str, Any] = {"transforms": TRANSFORMS, "randperm": True, "hidden_features": (hidden, hidden)}
    return zuko.flows.NSF(DIM, bins=BINS, **options) if univariate == "spline" else zuko.flows.MAF(DIM, **options)


def fit_ours(
    model: GenerativeModel, z: np.ndarray, batch: int, epochs: int = 1, compiled: bool = False, **options: Any
) -> Run:
    trainer = Trainer(max_epochs=epochs, batch_size=batch, noise=0.0, compile=compiled, verbose=False, device="cpu")
    rows = Encoded(z, np.zeros(len(z)), z, z)
    return Trainer(**{**vars(trainer), **options.pop("trainer", {})}).fit(model, Space.real(DIM), rows, **options)


def fit_theirs(flow: Any, z: np.ndarray, batch: int, epochs: int = 1) -> None:
    data = torch.utils.data.TensorDataset(torch.from_numpy(z))
    optimizer = torch.optim.Adam(flow.parameters(), 1e-3)
    for _ in range(epochs):
        for (rows,) in torch.utils.data.DataLoader(data, batch_size=batch, shuffle=True):
            loss = -flow().log_prob(rows).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def score_ours(model: Flow, z: np.ndarray, compiled: bool) -> np.ndarray:
    with runtime.compiling(compiled):
        height = runtime.tile_height(sum(p.numel() for p in model.parameters()), CPU)
        return runtime.map_rows(model.log_prob, [torch.from_numpy(z)], device=CPU, height=height)


def score_theirs(flow: Any, z: np.ndarray, batch: int = 4096) -> np.ndarray:
    with torch.inference_mode():
        return torch.cat([flow().log_prob(rows) for rows in torch.from_numpy(z).split(batch)]).numpy()


def flops_per_row(univariate: str, hidden: int) -> float:
    outputs = DIM * (3 * BINS - 1 if univariate == "spline" else 2)
    return 2.0 * TRANSFORMS * (DIM * hidden + hidden * hidden + hidden * outputs)


def compare(univariate: str, hidden: int, z: np.ndarray, turns: int) -> None:
    """Training and scoring of one architecture, eager and compiled."""
    limit = flops_per_row(univariate, hidden) * len(z) / matmul_rate()
    peer = theirs(univariate, hidden)
    for compiled in (False, True) if univariate == "spline" else (False,):
        mode = "compiled" if compiled else "eager"
        model = ours(univariate, hidden)
        for batch in (256, 4096):
            fit_ours(model, z[: 2 * batch], batch, compiled=compiled)
            a, b, ratio = duel(
                lambda m=model, n=batch, c=compiled: fit_ours(m, z, n, compiled=c),
                lambda n=batch: fit_theirs(peer, z, n),
                turns,
            )
            line(f"{univariate} 2x{hidden} train {batch} {mode}", a, b, ratio, 3 * limit)
        score_ours(model, z[:4096], compiled)
        a, b, ratio = duel(lambda m=model, c=compiled: score_ours(m, z, c), lambda: score_theirs(peer, z), turns)
        line(f"{univariate} 2x{hidden} score {mode}", a, b, ratio, limit, len(z))


def line(
    what: str, a: float, b: float, ratio: float, limit: float | None = None, rows: int = 0, peer: str = "zuko"
) -> None:
    rates = f"  {rows / a / 1e3:5.0f}k / {rows / b / 1e3:.0f}k rows/s" if rows else ""
    mine, other = (f" ({t / limit:4.1f} x limit)" if limit else "" for t in (a, b))
    print(f"{what:34s} {a:6.3f} s{mine}   {peer} {b:6.3f} s{other}   {ratio:5.2f} times faster{rates}", flush=True)


def compare_vae(z: np.ndarray, turns: int) -> None:
    """PyOD's VAE with its default network and ours with the same, one draw in scoring as PyOD's, equal schedules."""
    for batch in (32, 256):
        ours = VAEDetector(
            hidden=(128, 64, 32),
            latent_dim=2,
            draws=1,
            batch_size=batch,
            max_epochs=10,
            validation_fraction=0.0,
            contamination=0.1,
            random_state=0,
            verbose=False,
            device="cpu",
        )
        theirs = pyod.models.vae.VAE(
            epoch_num=10, batch_size=batch, dropout_rate=0.0, verbose=0, device=CPU, random_state=0
        )
        ours.fit(z[:512])
        theirs.fit(z[:512])
        line(f"VAE fit {batch}", *duel(lambda o=ours: o.fit(z), lambda t=theirs: t.fit(z), turns), peer="PyOD")
        scored = duel(lambda o=ours: o.score_samples(z), lambda t=theirs: t.decision_function(z), turns)
        line(f"VAE score {batch}", *scored, rows=len(z), peer="PyOD")


def compare_gan(z: np.ndarray, turns: int) -> None:
    """PyOD's ALAD and ours at the same widths, rows a step and steps: an epoch of ALAD is a single batch."""
    widths, epochs, batch = [64, 64], 2, 128
    ours = GANDetector(
        hidden=tuple(widths),
        batch_size=batch,
        max_epochs=epochs,
        validation_fraction=0.0,
        contamination=0.1,
        random_state=0,
        verbose=False,
        device="cpu",
    )
    theirs = pyod.models.alad.ALAD(
        latent_dim=ours.latent,
        enc_layers=widths,
        dec_layers=widths,
        disc_xx_layers=widths,
        disc_zz_layers=widths,
        disc_xz_layers=widths,
        preprocessing=True,
        epochs=epochs * round(len(z) / batch),
        batch_size=batch,
        device=CPU,
    )
    quiet(ours.fit)(z[:512])
    line(f"GAN fit {batch}", *duel(lambda: quiet(ours.fit)(z), lambda: theirs.fit(z), turns), peer="PyOD ALAD")


def quiet(action: Callable[..., object]) -> Callable[..., object]:
    """So few steps do not satisfy a GAN, which says so."""

    def silent(*arguments: object) -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return action(*arguments)

    return silent


def cost_of_families(z: np.ndarray, turns: int) -> None:
    """One epoch of every family that trains, in multiples of its own matrix products, forward and backward."""
    rate = matmul_rate()
    variants = [(name, {}) for name in families.names()]
    variants += [("flow", {"coupling": "spline"}), ("autoregressive", {"backbone": "attention"})]
    for name, options in variants:
        detector = families.get(name)(**options)
        with runtime.seeded(0):
            model = detector.build(Space.real(DIM))
        if hasattr(model, "fit_closed_form"):
            cost = statistics.median(
                seconds(lambda d=detector: d.set_params(verbose=False).fit(z)) for _ in range(turns)
            )
            print(f"{name:34s} {cost:6.3f} s to fit {len(z)} rows in closed form", flush=True)
            continue
        fits = [
            lambda m=model, n=count: fit_ours(m, z, 4096, n, trainer={"noise": 0.05})
            for count in (1, 3)  # type: ignore[misc]
        ]
        fits[0]()
        model.train()
        with FlopCounterMode(display=False) as counter:
            for _, loss in model.objectives():
                loss(torch.from_numpy(z[:4096])).mean().backward()
        limit = counter.get_total_flops() * len(z) / 4096 / rate
        # What comes once a fit, such as the constant of a Boltzmann machine, is no part of an epoch.
        once, thrice = (statistics.median(seconds(fit) for _ in range(turns)) for fit in fits)
        cost = (thrice - once) / 2
        what = " ".join([name, *map(str, options.values())])
        print(f"{what + ' epoch 4096 eager':34s} {cost:6.3f} s ({cost / limit:4.1f} x limit)", flush=True)


class Clock(Callback):
    """CPU-seconds and held-out nats at every check."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def on_fit_begin(self, run: Run) -> None:
        self.start = time.process_time()

    def on_epoch_end(self, run: Run) -> None:
        self.seen.append((time.process_time() - self.start, run.history[-1]["held_out_nats"]))


def race(univariate: str, epochs: int, z: np.ndarray, held_out: np.ndarray, compiled: bool) -> None:
    """Time until held-out nats reach what zuko ends with, under the shortest schedule that reaches them."""
    flow = theirs(univariate, 64)
    cost = seconds(lambda: fit_theirs(flow, z, 256, epochs))
    target = float(score_theirs(flow, held_out).mean())
    rows = Encoded(held_out, np.zeros(len(held_out)), held_out, held_out)
    fit_ours(ours(univariate, 64), z[:512], 256, compiled=compiled)
    what = f"{univariate} 2x64 to zuko's {target:.3f} nats after {cost:.1f} s, {'compiled' if compiled else 'eager'}"
    for share in (0.4, 0.7, 1.0, 1.5):
        clock = Clock()
        plan = max(1, round(share * epochs))
        fit_ours(ours(univariate, 64), z, 256, plan, compiled, held_out=rows, trainer={"callbacks": (clock,)})
        reached = next((t for t, nats in clock.seen if nats >= target), None)
        if reached is not None:
            print(f"{what}: {reached:.1f} s, {reached / cost:.2f} of zuko's, {plan} epochs for {epochs}", flush=True)
            return
    print(f"{what}: not reached in {clock.seen[-1][0]:.1f} s ({max(n for _, n in clock.seen):.3f} nats)", flush=True)


def peak_memory(who: str, univariate: str) -> float:
    """Peak megabytes of a fresh process that trains one epoch and scores."""
    return float(run_child(__file__, who, univariate))


def child(who: str, univariate: str) -> None:
    z = table(20_000, 1)
    if who == "ours":
        model = ours(univariate, 64)
        fit_ours(model, z, 4096)
        score_ours(model, z, False)
    else:
        flow = theirs(univariate, 64)
        fit_theirs(flow, z, 4096)
        score_theirs(flow, z)
    print(peak_megabytes())


def start_up(turns: int) -> None:
    """Import, help and one-row latency, in wall-clock seconds."""

    def wall(*arguments: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        return time.perf_counter() - start

    empty = min(wall("-c", "pass") for _ in range(turns))
    print(f"import anomgen: {min(wall('-c', 'import anomgen') for _ in range(turns)) - empty:.3f} s over an empty one")
    help_command = "import sys; sys.argv = ['anomgen', '--help']; from anomgen.cli import main; main()"
    print(f"anomgen --help: {min(wall('-c', help_command) for _ in range(turns)):.3f} s")
    detector = FlowDetector(max_epochs=2, verbose=False, random_state=0).fit(table(2_000, 0))
    one = table(2_000, 1)[:1]
    times = []
    for _ in range(200):
        start = time.perf_counter()
        detector.score_samples(one)
        times.append(time.perf_counter() - start)
    print(f"score_samples of one row, default flow: {1e3 * statistics.median(times):.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=7, help="repeats of every comparison")
    parser.add_argument("--quick", action="store_true", help="fewer rows and turns: a minute instead of a quarter hour")
    parser.add_argument(
        "--only", choices=["speed", "race", "memory", "start", "families"], help="one part instead of all"
    )
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        child(*options.child)
        return
    turns, n = (3, 4096) if options.quick else (options.turns, options.rows)
    z = table(n, 1)
    print(f"{n} rows x {DIM}, {TRANSFORMS} transforms, torch {torch.__version__}, {matmul_rate() / 1e9:.0f} GFLOP/s")
    if options.only in (None, "speed"):
        for univariate in ("affine", "spline"):
            for hidden in (64, 128):
                compare(univariate, hidden, z, turns)
    if options.only in (None, "race"):
        race("affine", 6 if options.quick else 20, z, table(4_000, 2), compiled=False)
        for compiled in (False, True):
            race("spline", 3 if options.quick else 8, z, table(4_000, 2), compiled)
    if options.only in (None, "memory"):
        for univariate in ("affine", "spline"):
            mine, other = peak_memory("ours", univariate), peak_memory("zuko", univariate)
            print(f"{univariate} 2x64 peak memory: {mine:.0f} MB, zuko {other:.0f} MB")
    if options.only in (None, "start"):
        start_up(turns)
    if options.only in (None, "families"):
        compare_vae(z, turns)
        compare_gan(z, turns)
        cost_of_families(z, turns)


if __name__ == "__main__":
    main()
