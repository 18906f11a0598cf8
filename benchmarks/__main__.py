"""Speed, memory and values compared with public libraries: ``python -m benchmarks``.

Method. Every contestant runs in its own process. All contestants of a row are set up first; then rounds alternate
between them, so that other load on the machine affects all of them, and a ratio is the median over rounds of the ratio
within a round. A measurement is forward and backward, float32, repeated for at least 0.2 s; times are CPU time of one
thread (``--threads 1``, the default), and wall and user time are recorded too. Peak memory is the maximum resident set
size during the first full step minus that before it, with the inputs allocated: it includes the gradients of the
inputs, but not the inputs. "Products alone" times only the matrix products that the exact computation needs (the upper
triangle once, its gradient once), as products of square tiles; the share of a row is this time divided by ours. Values
are printed too, to check that the contestants compute the same loss.

    python -m benchmarks                     # the table, about ten minutes
    python -m benchmarks --quick             # about a minute and a half
    python -m benchmarks --large             # and 65,536 rows a side: about four minutes more
    python -m benchmarks --device cuda       # in milliseconds of wall time, memory of the device
    python -m benchmarks --plot FILE         # draw the curves of a result again
"""

from __future__ import annotations

import argparse
import compileall
import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from mmda import instruction_set

ROOT = Path(__file__).resolve().parent.parent
EDGE = 512
PEERS = ("skada", "pytorch-adapt", "geomloss", "pytorch-metric-learning")


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of work at one size, by these contestants; ``goal``: minimum speedup over one of them."""

    kind: str
    n: int
    d: int
    who: tuple[str, ...]
    rounds: int = 7
    goal: tuple[str, float] | None = None
    memory_goal: float | None = None
    share_goal: float | None = None


MMD = ("ours", "ours, Laplacian", "ours, not compiled", "skada", "pytorch-adapt", "dense formula")
CLIP = ("ours", "ours, normalising", "ours, not compiled", "open_clip's form", "shared logits")
LIMIT = ("products alone",)
CORAL = ("ours", "skada", "pytorch-adapt")

TABLE = (
    Row("mmd", 64, 256, MMD, goal=("skada", 2.0)),
    Row("mmd", 256, 256, (*MMD, "geomloss"), goal=("skada", 3.5)),
    Row("mmd", 1024, 256, (*MMD, *LIMIT), goal=("skada", 3.7), share_goal=0.45),
    Row("mmd", 4096, 256, (*MMD[:5], *LIMIT), rounds=3, goal=("skada", 10.0), memory_goal=100, share_goal=0.45),
    Row("clip", 16, 256, CLIP, goal=("shared logits", 1.0)),
    Row("clip", 64, 256, CLIP, goal=("shared logits", 1.0)),
    Row("clip", 256, 256, CLIP),
    Row("clip", 1024, 256, (*CLIP, *LIMIT), goal=("open_clip's form", 3.0)),
    Row("clip", 4096, 256, (*CLIP, *LIMIT), rounds=3, goal=("open_clip's form", 3.5)),
    Row("clip", 16384, 256, ("ours", "open_clip's form"), rounds=0, goal=("open_clip's form", 3.0), memory_goal=100),
    Row("nt_xent", 128, 256, ("ours", "pytorch-metric-learning")),
    Row("nt_xent", 1024, 256, ("ours",)),
    Row("sigmoid", 1024, 256, ("ours", "the paper's form")),
    Row("sigmoid", 4096, 256, ("ours", "the paper's form", *LIMIT), rounds=3),
    Row("coral", 64, 1024, CORAL, goal=("skada", 8.0)),
    Row("coral", 64, 2048, CORAL, goal=("skada", 15.0)),
    Row("coral", 512, 256, CORAL),
)
QUICK = (
    Row("mmd", 64, 256, MMD, rounds=5, goal=("skada", 2.0)),
    Row("mmd", 1024, 256, ("ours", "ours, Laplacian", "skada", "pytorch-adapt", *LIMIT), 3, ("skada", 3.7), None, 0.45),
    Row("clip", 1024, 256, ("ours", "open_clip's form", *LIMIT), 3, ("open_clip's form", 3.0)),
    Row("coral", 64, 2048, CORAL, 3, ("skada", 15.0)),
)
#: Time and memory over the number of rows, for the plots: one step each.
GROWTH = (
    *(Row("mmd", n, 64, ("ours", "skada", "pytorch-adapt"), 0) for n in (512, 1024, 2048, 4096)),
    *(Row("mmd", n, 64, ("ours",), 0) for n in (8192, 16384)),
    *(Row("clip", n, 64, ("ours", "open_clip's form"), 0) for n in (512, 1024, 2048, 4096, 8192)),
    Row("clip", 16384, 64, ("ours",), 0),
)
LARGE = (
    Row("mmd", 65536, 64, ("ours",), 0, memory_goal=150),
    Row("clip", 32768, 256, ("ours",), 0, memory_goal=200),
    Row("mmd", 65536, 256, ("ours",), 0, memory_goal=600),
)


class Worker:
    """The process of a contestant."""

    def __init__(self, row: Row, who: str, device: str, threads: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        setup = {"kind": row.kind, "who": who, "n": row.n, "d": row.d, "device": device, "threads": threads}
        self.first = self.ask({"setup": setup})

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            return {"error": f"the process ended with code {self.process.wait()} (out of memory?)"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def measure(row: Row, device: str, threads: int) -> dict[str, Any]:
    """All contestants of a row, in turn."""
    workers: dict[str, Worker] = {}
    result: dict[str, Any] = {"kind": row.kind, "n": row.n, "d": row.d, "goal": row.goal, "contestants": {}}
    result |= {"memory_goal": row.memory_goal, "share_goal": row.share_goal}
    for who in row.who:
        workers[who] = worker = Worker(row, who, device, threads)
        entry = dict(worker.first)
        result["contestants"][who] = entry
        entry["rounds"] = []
        if "error" in entry:
            worker.close()
            del workers[who]
        elif row.rounds == 0:
            entry["rounds"] = [{clock: entry[clock] for clock in ("cpu", "user", "wall")}]
    for _ in range(row.rounds):
        for who, worker in workers.items():
            entry = result["contestants"][who]
            repeats = max(1, min(1000, round(0.2 / max(entry["cpu"] * 0.7, 1e-4))))
            entry["rounds"].append(worker.ask({"time": repeats}))
    for worker in workers.values():
        worker.close()
    for entry in result["contestants"].values():
        entry["rounds"] = [r for r in entry["rounds"] if "error" not in r]
    return result


def times(entry: dict[str, Any], clock: str) -> list[float]:
    return [r[clock] for r in entry["rounds"]]


def ratio(result: dict[str, Any], who: str, clock: str) -> float | None:
    """Time relative to ours: the median over rounds."""
    ours, other = (times(result["contestants"].get(name, {"rounds": []}), clock) for name in ("ours", who))
    return statistics.median(b / a for a, b in zip(ours, other)) if ours and other else None


def table(result: dict[str, Any], clock: str) -> str:
    """A row of results as text."""
    lines = [f"\n{result['kind']}, n = {result['n']:,}, d = {result['d']}"]
    lines.append(f"  {'':26}{'ms':>10}{'spread':>19}{'wall ms':>10}{'MB':>9}{'ratio':>8}   value")
    for who, entry in result["contestants"].items():
        if "error" in entry:
            lines.append(f"  {who:26}could not run: {entry['error']}")
            continue
        all_times = sorted(times(entry, clock))
        spread = f"{1e3 * all_times[0]:.4g} - {1e3 * all_times[-1]:.4g}"
        wall = 1e3 * statistics.median(times(entry, "wall"))
        relative = ratio(result, who, clock)
        value = f"{entry['value']:.7g}" if who != "products alone" else "limit"
        shown = f"{relative:8.2f}" if relative is not None else f"{'':8}"
        memory = f"{entry['memory']:9.1f}" if who != "products alone" else f"{'':9}"
        lines.append(
            f"  {who:26}{1e3 * statistics.median(all_times):10.4g}{spread:>19}{wall:10.4g}{memory}{shown}   {value}"
        )
    lines += [f"  {text}" for text in verdicts(result, clock)]
    return "\n".join(lines)


def verdicts(result: dict[str, Any], clock: str) -> list[str]:
    """Goals and whether they were reached."""
    texts = []
    if result["goal"] is not None:
        who, least = result["goal"]
        found = ratio(result, who, clock)
        if found is not None:
            texts.append(f"{found:.2f}x against {who}; at least {least:g}x wanted: {word(found >= least)}")
    share = ratio(result, "products alone", clock)
    if share is not None:
        wanted = result["share_goal"]
        tail = "" if wanted is None else f"; at least {wanted:.0%} wanted: {word(share >= wanted)}"
        texts.append(f"{share:.0%} of the speed of the products alone{tail}")
    memory = result["contestants"].get("ours", {}).get("memory")
    if result["memory_goal"] is not None and memory is not None:
        most = result["memory_goal"]
        texts.append(f"{memory:.0f} MB; under {most:g} MB wanted: {word(memory < most)}")
    return texts


def word(reached: bool) -> str:
    return "reached" if reached else "not reached"


def approximations(n: int, d: int) -> list[dict[str, Any]]:
    """Time of a forward pass and error against the exact number, over independent draws of the data."""
    from benchmarks.work import sigma
    from mmda.kernels import Gaussian
    from mmda.losses import block_mmd_loss, mmd_loss, random_feature_mmd_loss

    kernel = Gaussian(sigma(d))
    choices: dict[str, Any] = {"linear": lambda x, y: mmd_loss(x, y, kernel=kernel, estimator="linear")}
    for rows in (16, 64, 256, 1024):
        choices[f"blocks of {rows}"] = lambda x, y, rows=rows: block_mmd_loss(x, y, kernel=kernel, block_rows=rows)
    for count in (80, 320, 1280):
        choices[f"{count} random features"] = lambda x, y, count=count: random_feature_mmd_loss(
            x, y, kernel=kernel, n_features=count, generator=torch.Generator().manual_seed(0)
        )
    choices["exact"] = lambda x, y: mmd_loss(x, y, kernel=kernel, estimator="unbiased")
    found: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "error": []} for name in choices}
    torch.set_num_threads(1)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        x, y = torch.randn(n, d, generator=generator), torch.randn(n, d, generator=generator)
        y[:, 0] += 0.5
        values = {}
        for name, estimate in choices.items():
            begin = time.process_time()
            values[name] = estimate(x, y).item()
            found[name]["cpu"].append(time.process_time() - begin)
        for name in choices:
            found[name]["error"].append(abs(values[name] / values["exact"] - 1))
    return [
        {"name": name, "n": n, "d": d, "cpu": statistics.median(f["cpu"]), "error": math.hypot(*f["error"]) / 5**0.5}
        for name, f in found.items()
    ]


def import_time(pairs: int) -> dict[str, float]:
    """Processor time of ``import mmda.losses`` after ``import torch``, in new interpreters; medians.

    Bytecode is compiled beforehand, as in an installation. The clock is read between the two imports, since the time to
    import torch varies by more than the losses take.
    """
    compileall.compile_dir(ROOT / "mmda", quiet=2)
    clock = "time.process_time()"
    code = f"import time, torch; torch_done = {clock}; import mmda.losses; print(torch_done, {clock} - torch_done)"
    found: dict[str, list[float]] = {"torch": [], "mmda.losses": []}
    for _ in range(pairs):
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        for seconds, word_read in zip(found.values(), run.stdout.split()):
            seconds.append(float(word_read))
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def suppression(quick: bool) -> dict[str, Any] | None:
    """The separate comparison of temporal suppression and recall."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nms.json"
        size = ["--queries", "10000", "--subset", "500", "--repeats", "3"] if quick else []
        run = subprocess.run(
            [sys.executable, str(ROOT / "benchmarks" / "nms.py"), *size, "--json", str(path)], cwd=ROOT
        )
        if run.returncode:
            return None
        figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return figures


def training_step(quick: bool) -> dict[str, Any] | None:
    """The separate comparison of one training step of the reference model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.json"
        size = ["--rounds", "2", "--pairs", "128"] if quick else []
        run = subprocess.run([sys.executable, "-m", "benchmarks.step", *size, "--json", str(path)], cwd=ROOT)
        if run.returncode:
            return None
        figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return figures


def machine(device: str, threads: int) -> dict[str, Any]:
    """The machine and versions of a result."""
    model = platform.processor()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    versions = {}
    for name in PEERS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    torch.set_num_threads(threads)
    a, b = torch.randn(EDGE, 256), torch.randn(256, EDGE)
    rates = []
    for _ in range(7):
        begin = time.process_time()
        for _ in range(10):
            a @ b
        rates.append(10 * 2 * EDGE * EDGE * 256 / (time.process_time() - begin) / 1e9)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "compiled loops": instruction_set() or "none",
        "matrix product, GFLOP/s of processor time": round(statistics.median(rates), 1),
        "load at start": [round(x, 2) for x in os.getloadavg()],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device != "cpu" else "cpu",
        "threads": threads,
        "date": datetime.date.today().isoformat(),
        "peers": versions,
    }


def plot(results: dict[str, Any], folder: Path) -> None:
    """Time and memory over the number of rows; error over time of the approximations."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "mmda", "axes.spines.top": False, "axes.spines.right": False})
    clock = results["clock"]
    styles = {"ours": ("#1f4e9c", "o"), "skada": ("#c0641c", "s"), "pytorch-adapt": ("#7a7a7a", "^")}
    styles["open_clip's form"] = styles["skada"]
    for kind, title in (("mmd", "squared MMD, five kernels"), ("clip", "symmetric InfoNCE")):
        picked = [r for r in results["growth"] + results["large"] if r["kind"] == kind and r["d"] == 64]
        if not picked:
            continue
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.9), layout="constrained")
        for who, (colour, marker) in styles.items():
            points = [
                (r["n"], statistics.median(times(c, clock)), c["memory"])
                for r in picked
                if (c := r["contestants"].get(who)) is not None and c["rounds"]
            ]
            if points:
                n, seconds, memory = zip(*points)
                left.loglog(n, seconds, color=colour, marker=marker, label=who, markersize=4)
                right.loglog(n, memory, color=colour, marker=marker, label=who, markersize=4)
        left.set(xlabel="rows a side", ylabel="seconds, forward + backward", title=f"{title}, d = 64")
        right.set(xlabel="rows a side", ylabel="peak memory, MB")
        left.legend(frameon=False)
        figure.savefig(folder / f"growth_{kind}.svg", metadata={"Date": None})
        plt.close(figure)
    if results["approximations"]:
        figure, axis = plt.subplots(figsize=(4.6, 2.9), layout="constrained")
        families = {"blocks": ("#1f4e9c", "o"), "features": ("#c0641c", "s"), "linear": ("#7a7a7a", "^")}
        for family, (colour, marker) in families.items():
            chosen = [a for a in results["approximations"] if family in a["name"]]
            axis.loglog([a["cpu"] for a in chosen], [a["error"] for a in chosen], color=colour, marker=marker)
            for a in chosen:
                axis.annotate(a["name"], (a["cpu"], a["error"]), textcoords="offset points", xytext=(4, 4), fontsize=7)
        exact = next(a for a in results["approximations"] if a["name"] == "exact")
        axis.axvline(exact["cpu"], color="black", linewidth=0.8, linestyle=":")
        axis.annotate("exact", (exact["cpu"], axis.get_ylim()[0]), fontsize=7, rotation=90, va="bottom", ha="right")
        axis.set(xlabel="seconds, forward", ylabel="relative error", title=f"n = {exact['n']:,}, d = {exact['d']}")
        figure.savefig(folder / "approximations.svg", metadata={"Date": None})
        plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few rows, few rounds")
    parser.add_argument("--large", action="store_true", help="add 65,536 rows a side")
    parser.add_argument("--only", nargs="+", choices=("mmd", "clip", "nt_xent", "sigmoid", "coral"), help="these kinds")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1000, help="at most so many rounds a row (for a busy machine)")
    parser.add_argument("--name", help="of the result in benchmarks/results (default: the date)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw this result into docs/_static, measure nothing")
    given = parser.parse_args()
    if given.plot is not None:
        plot(json.loads(given.plot.read_text(encoding="utf-8")), ROOT / "docs" / "_static")
        return 0
    device = given.device
    if device != "cpu" and not torch.cuda.is_available():
        print(f"no {device} device here: measuring on the processor", file=sys.stderr)
        device = "cpu"
    clock = "cpu" if device == "cpu" and given.threads == 1 else "wall"

    facts = machine(device, given.threads)
    for key, value in facts.items():
        print(f"{key}: {value}")
    print(f"times: {'processor' if clock == 'cpu' else 'wall'} time, forward + backward, float32")
    results: dict[str, Any] = {"machine": facts, "clock": clock, "table": [], "growth": [], "large": []}
    results |= {"approximations": [], "import": None, "suppression": None, "step": None}
    path = ROOT / "benchmarks" / "results" / f"{given.name or facts['date']}.json"

    def save() -> None:
        """Called after every row, so that an interrupted run keeps its results."""
        if not given.quick or given.name:
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    parts = [("table", QUICK if given.quick else TABLE)]
    if not given.quick:
        parts.append(("growth", GROWTH))
    if given.large:
        parts.append(("large", LARGE))
    for part, rows in parts:
        for row in rows:
            if given.only is None or row.kind in given.only:
                row = dataclasses.replace(row, rounds=min(row.rounds, given.rounds))
                result = measure(row, device, given.threads)
                results[part].append(result)
                print(table(result, clock), flush=True)
                save()
    if given.only is None:
        results["approximations"] = approximations(2048 if given.quick else 16384, 64)
        print(f"\napproximations of the unbiased MMD, n = {results['approximations'][0]['n']:,}, d = 64, forward")
        for entry in results["approximations"]:
            print(f"  {entry['name']:26}{1e3 * entry['cpu']:10.4g} ms   relative error {entry['error']:.2%}")
        results["import"] = import_time(3 if given.quick else 7)
        beyond = 1e3 * results["import"]["mmda.losses"]
        print(f"\nimport mmda.losses beyond import torch: {beyond:.0f} ms; under 50 ms wanted: {word(beyond < 50)}\n")
        results["suppression"] = suppression(given.quick)
        save()
        print(flush=True)
        results["step"] = training_step(given.quick)
    results["load at end"] = [round(x, 2) for x in os.getloadavg()]
    save()
    if path.exists() and (given.name or not given.quick):
        print(f"\nwritten to {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
