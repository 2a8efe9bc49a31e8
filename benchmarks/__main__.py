"""Compares this project's BERT-base with Hugging Face's on this machine's CPU, and data preparation with Google's
algorithms. Run it with `make bench` or `python -m benchmarks`.

All programs run with their best settings, alternating in one run. The results are a table, machine-readable lines such
as `pretraining_step_ratio_fp32_graph 1.52` (the speedup over Hugging Face at default settings; with `_same_work`, over
Hugging Face's fastest variant that does the same work) and `inference_1_ratio_bf16 1.2 openvino` (the speedup over the
fastest of Hugging Face, ONNX Runtime and OpenVINO, and its name), build/bench/results.json and build/bench/ratios.png.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.worker import ENCODER, LENGTH, PREDICTIONS, ROOT, ROWS, SENTENCES, Case, Worker, close, sentence_lengths
from configs.cli import flag, parse, run
from utils.errors import UserError

TASKS = ("pretraining", "squad", "inference", "encoder", "scaling", "data")
WITHOUT_PEER = ("scaling", "data")  # tasks that do not run Hugging Face's model
OUTPUT = ROOT / "build" / "bench"
PEER = ROOT / "build" / "peer"
UV = ROOT / ".tools" / "uv" / "bin" / "uv"
PEER_PACKAGES = [
    "torch==2.13.0",
    "transformers==5.24.0",
    "numpy==2.4.6",
    "onnx==1.23.2",
    "onnxscript==0.7.2",
    "onnxruntime==1.32.0",
    "openvino==2026.4.1",
    "nncf==3.4.0",
]
RUNTIMES = ("onnxruntime", "openvino")
INFERENCE = ("inference_1", "inference_32")


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure, and how often."""

    only: str = flag("", "measure only this task (default: all)", choices=("", *TASKS))
    rounds: int = flag(4, "number of measurements of each side; the median counts")
    compile: bool = flag(False, "also measure torch.compile, whose compilation takes minutes")
    squad_file: str = flag("", "SQuAD file for the task data (default: questions about Python's documentation)")
    vocab_file: str = flag("", "vocabulary for --squad_file (default: one trained on its text)")
    peer_python: str = flag("", "Python interpreter with torch and transformers (default: one set up in build/peer)")

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UserError(f"--rounds must be at least 1, not {self.rounds}.")


@dataclass(frozen=True)
class Result:
    """One row of the table."""

    name: str  # pretraining_step, squad_step, inference_batch_1 or inference_batch_32
    side: str  # "ours" or "peer"
    kind: str  # see worker.Case
    precision: str  # "fp32" or "bf16"
    seconds: float  # per step
    items_per_second: float  # sequences
    gemm_share: float  # speed relative to a single matrix product; 0 for the peer
    peak_bytes: float  # peak memory of the process


def main() -> None:
    """Run the benchmarks and write the results."""
    config = parse(BenchmarkConfig, prog="python -m benchmarks", description=__doc__)
    tasks = (config.only,) if config.only else TASKS
    peer_python = Path(config.peer_python or PEER / "bin" / "python")
    if not set(tasks) <= set(WITHOUT_PEER) and not config.peer_python:
        _make_peer_environment()
    speeds = _gemm_speeds()
    results: list[Result] = []
    for task in (task for task in tasks if task not in WITHOUT_PEER):
        for case_task in {"inference": INFERENCE, "encoder": ENCODER}.get(task, (task,)):
            for precision in speeds if task == "inference" else _trained(speeds):
                results += _measure(config, case_task, precision, speeds[precision], peer_python)
    lines = _lines(results, speeds)
    best_peers = _best_of_both(results)
    if "pretraining" in tasks:
        fastest = min(r.seconds for r in results if (r.name, r.side) == ("pretraining_step", "ours"))
        lines["record_pipeline_share_of_step"] = _seconds_of_records() / fastest
    if "scaling" in tasks:
        for kind, precision in itertools.product(("eager", "graph"), _trained(speeds)):
            lines[f"scaling_two_processes_{kind}_{precision}"] = _scaling(kind, precision, config.rounds)
    if "data" in tasks:
        lines |= _lines_of("benchmarks.preparation")
        named = {"--squad_file": config.squad_file, "--vocab_file": config.vocab_file}
        lines |= _lines_of("benchmarks.squad_data", *(word for pair in named.items() if pair[1] for word in pair))
    print(_table(results))
    for name, value in lines.items():
        print(f"{name} {value:.3g}")
    for name, (ratio, peer) in best_peers.items():
        print(f"{name} {ratio:.3g} {peer}")
    lines |= {name: ratio for name, (ratio, _) in best_peers.items()}
    OUTPUT.mkdir(parents=True, exist_ok=True)
    stored = {"rows": [vars(result) for result in results], "lines": lines}
    (OUTPUT / "results.json").write_text(json.dumps(stored, indent=1) + "\n")
    _plot(lines, OUTPUT / "ratios.png")


def _make_peer_environment() -> None:
    """Python 3.11 with the peers' packages under build/, made once for these versions."""
    ready, wanted = PEER / ".ready", "\n".join(PEER_PACKAGES)
    if ready.exists() and ready.read_text() == wanted:
        return
    print("benchmarks: setting up the peers' environment in build/peer …", flush=True)
    links = os.environ.get("PIP_FIND_LINKS")
    install = ["pip", "install", "-q", "--python", str(PEER), *(["--find-links", links] if links else [])]
    make = ["venv", "-q", "--allow-existing", "--python", "3.11", str(PEER)]
    for command in (make, [*install, *PEER_PACKAGES]):
        if subprocess.run([str(UV), *command], check=False).returncode:
            raise UserError("the peers' environment cannot be set up: set an existing one with --peer_python.")
    ready.write_text(wanted)


def _gemm_speeds() -> dict[str, float]:
    """Operations a second of a matrix product of BERT-base's sizes, for each precision that this CPU has; 0 for int8,
    which is not measured."""
    code = (
        "import kernels; kernels.configure(); s = kernels.load(); from kernels.check import gemm_speed as g\n"
        "print(g()); print(kernels.set_bf16(True) and g() or 0); print(int(s.int8))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    fp32, bf16, int8 = map(float, done.stdout.split())
    return {"fp32": fp32} | ({"bf16": bf16} if bf16 else {}) | ({"int8": 0.0} if int8 else {})


def _trained(speeds: dict[str, float]) -> list[str]:
    """The precisions that training supports."""
    return [precision for precision in speeds if precision != "int8"]


def _cases(task: str, precision: str, compiled: bool) -> list[tuple[str, str, str]]:
    """(side, module, kind) of everything to measure for a task."""
    if precision == "int8":
        cases = [("ours", "ours", "eager")]
    else:
        # By default, Hugging Face decodes all positions, pads unsorted texts and converts weights each time.
        full = task in ("inference_1", *ENCODER[:2])
        same_as_it_comes = task in ("squad", "encoder_step") or (full and precision == "fp32")
        peers = ["as_it_comes", *([] if same_as_it_comes else ["same_work"]), *(["compiled"] if compiled else [])]
        kinds = ("eager",) if task in ENCODER else ("eager", "graph")
        cases = [("ours", "ours", kind) for kind in kinds] + [("peer", "peer", k) for k in peers]
    if task in INFERENCE:
        runtimes = ["openvino"] if precision == "bf16" else ["onnxruntime", "openvino"]
        cases += [("peer", "peer_runtimes", kind) for kind in runtimes]
    return cases


def _measure(config: BenchmarkConfig, task: str, precision: str, speed: float, peer_python: Path) -> list[Result]:
    """Measures all kinds of one task and precision, alternating."""
    workers: list[tuple[str, Worker]] = []
    try:
        for side, module, kind in _cases(task, precision, config.compile):
            python = Path(sys.executable) if side == "ours" else peer_python
            print(f"benchmarks: {task} {precision} {side} {kind} …", flush=True)
            worker = Worker(python, module, Case(task, kind, precision))
            worker.wait()  # one warms up at a time
            workers.append((side, worker))
        for _ in range(config.rounds):
            for _, worker in workers:
                worker.ask(10 if task == "inference_1" else 1)
                worker.wait()
    finally:
        close([worker for _, worker in workers])
    name = f"{task}_step" if task in ("pretraining", "squad") else task.replace("inference", "inference_batch")
    items = SENTENCES if task == "inference_32" else ROWS[task]
    rows = []
    for side, worker in workers:
        seconds = statistics.median(worker.seconds)
        share = _operations(task) / seconds / speed if side == "ours" and speed else 0.0
        rows.append(Result(name, side, worker.case.kind, precision, seconds, items / seconds, share, worker.peak_bytes))
    return rows


def _operations(task: str, hidden: int = 768, layers: int = 12, vocabulary: int = 30522) -> float:
    """Floating-point operations of the matrix products of a step: 2 per weight and token, times 3 in training."""
    if task in ENCODER:
        return 0.0  # not counted
    lengths = sentence_lengths() if task == "inference_32" else [LENGTH[task]] * ROWS[task]
    forward = sum(layers * (24 * hidden**2 + 4 * hidden * length) * length for length in lengths)
    if task == "pretraining":
        forward += 2 * ROWS[task] * PREDICTIONS * hidden * (hidden + vocabulary)
    return forward * (3 if task in ("pretraining", "squad") else 1)


def _ours(case: Case, **variables: str) -> Worker:
    return Worker(Path(sys.executable), "ours", case, **variables)


def _scaling(kind: str, precision: str, rounds: int) -> float:
    """Throughput of two data-parallel processes with one thread each, relative to a single such process."""
    print(f"benchmarks: scaling {precision} {kind} …", flush=True)
    case = Case("pretraining", kind, precision, threads=1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1]), "WORLD_SIZE": "2"}
    workers = [_ours(case), *(_ours(case, **job, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1"))]
    alone, *pair = workers
    try:
        for worker in workers:
            worker.wait()
        for _ in range(rounds):
            for turn in ([alone], pair):
                for worker in turn:
                    worker.ask(1)
                for worker in turn:
                    worker.wait()
        return 2 * statistics.median(alone.seconds) / statistics.median(pair[0].seconds)
    finally:
        close(workers)


def _seconds_of_records() -> float:
    """Seconds to read the records of one pretraining step, with nothing else running."""
    worker = _ours(Case("records", ""))
    try:
        worker.wait()
        worker.ask(500)
        worker.wait()
        return statistics.mean(worker.seconds)  # not the median: reading ahead makes some steps immediate
    finally:
        close([worker])


def _lines_of(module: str, *flags: str) -> dict[str, float]:
    """Run another benchmark module and return its lines of the form `name number`."""
    print(f"benchmarks: {module} …", flush=True)
    done = subprocess.run([sys.executable, "-m", module, *flags], stdout=subprocess.PIPE, text=True, check=True)
    return {name: float(value) for name, value in re.findall(r"^(\w+) ([\d.e+-]+)$", done.stdout, re.MULTILINE)}


def _lines(results: list[Result], speeds: dict[str, float]) -> dict[str, float]:
    lines = {f"gemm_gflops_{precision}": speed / 1e9 for precision, speed in speeds.items() if speed}
    for ours in (result for result in results if result.side == "ours"):
        same = [r for r in _peers_of(ours, results) if r.kind not in RUNTIMES]
        if not same:
            continue
        key = f"{ours.name}_ratio_{ours.precision}_{ours.kind}"
        lines[key] = next(r.seconds for r in same if r.kind == "as_it_comes") / ours.seconds
        lines[f"{key}_same_work"] = min(r.seconds for r in same) / ours.seconds
        if ours.gemm_share:
            lines[f"{ours.name}_gemm_share_{ours.precision}_{ours.kind}"] = ours.gemm_share
        peer_bytes = min(r.peak_bytes for r in same)
        lines[f"{ours.name}_memory_ratio_{ours.precision}_{ours.kind}"] = ours.peak_bytes / peer_bytes
    return lines


def _peers_of(ours: Result, results: list[Result]) -> list[Result]:
    return [r for r in results if (r.side, r.name, r.precision) == ("peer", ours.name, ours.precision)]


def _best_of_both(results: list[Result]) -> dict[str, tuple[float, str]]:
    """For inference, how many times faster our fastest mode is than the fastest peer, and which peer that is."""
    lines = {}
    for name, shown in (("inference_batch_1", "inference_1"), ("inference_batch_32", "inference_mixed")):
        for precision in dict.fromkeys(result.precision for result in results):
            ours = [r for r in results if (r.side, r.name, r.precision) == ("ours", name, precision)]
            if ours:
                fastest = min(_peers_of(ours[0], results), key=lambda r: r.seconds)
                ratio = fastest.seconds / min(r.seconds for r in ours)
                lines[f"{shown}_ratio_{precision}"] = (ratio, fastest.kind)
    return lines


def _table(results: list[Result]) -> str:
    rows = [f"{'':<22}{'':<8}{'':<12}{'':<6}{'ms':>10}{'items/s':>10}{'of GEMM':>9}{'GB':>6}"]
    for r in results:
        side = "ours" if r.side == "ours" else "peer" if r.kind in RUNTIMES else "HF"
        share = f"{r.gemm_share:.0%}" if r.gemm_share else ""
        rows.append(
            f"{r.name:<22}{side:<8}{r.kind:<12}{r.precision:<6}{r.seconds * 1e3:>10.1f}{r.items_per_second:>10.2f}"
            f"{share:>9}{r.peak_bytes / 1e9:>6.1f}"
        )
    return "\n".join(rows)


def _plot(lines: dict[str, float], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    other = ("memory", "preparation")  # ratios that do not compare speed with Hugging Face
    ratios = {name: value for name, value in lines.items() if "_ratio_" in name and not any(w in name for w in other)}
    if not ratios:
        return
    figure, axes = pyplot.subplots(figsize=(9, 0.3 * len(ratios) + 1.2))
    bars = axes.barh(list(ratios)[::-1], list(ratios.values())[::-1])
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.axvline(1, color="black", linewidth=1)
    axes.margins(x=0.1, y=0.02)
    axes.set_xlabel("times as fast as the peer")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    run(main)
