"""What every benchmark needs, with the standard library alone: memory, threads, the machine's description, tables."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20
MEMORY_METHOD = (
    "peak resident memory (VmHWM, reset through /proc/self/clear_refs) during the measured call, less the resident "
    "memory just before it, after malloc_trim; in a fresh process"
)


def limit_threads(count: int) -> None:
    """Bind this process to ``count`` cores; call it before torch, numpy or jax is imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(count)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def peak_memory(call: Callable[[], Any]) -> int:
    """Bytes by which resident memory rises, at its peak, during the call."""
    before = resident_memory()
    Path("/proc/self/clear_refs").write_text("5")
    call()
    return _status("VmHWM") - before


def resident_memory() -> int:
    """Bytes resident now, after what is free was given back to the system."""
    ctypes.CDLL(None).malloc_trim(0)
    return _status("VmRSS")


def available_memory() -> int:
    """Bytes that processes can still take without swapping."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024


def highest_memory() -> int:
    """Bytes this process has held at most since it started, unless `peak_memory` has reset that."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{name} is not in /proc/self/status")


def describe() -> dict[str, Any]:
    """The machine, the day, the revision of this checkout."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cpu = models[0].split(":", 1)[1].strip() if models else platform.processor()
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": revision(ROOT, "src"),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "ram_gib": round(ram / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def revision(folder: Path, *paths: str) -> str:
    """The commit of a checkout, with "+changes" where tracked or new files under ``paths`` differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    commit = git("rev-parse", "HEAD") or "unknown"
    return commit + ("+changes" if git("status", "--porcelain", "--", *paths) else "")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that reads well as plain text too: first column left, the others right."""
    table = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        " | ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in [table[0], rule, *table[1:]]
    ]
    return "\n".join(f"| {line} |" for line in lines)


def environment_line(machine: dict[str, Any], versions: dict[str, str]) -> str:
    """One sentence saying where and with what a table was measured."""
    used = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return (
        f"{machine['date'][:10]}, revision {machine['revision'][:12]}{'+changes' * ('+' in machine['revision'])}; "
        f"{machine['cpu']}, {machine['cores']} cores, {machine['ram_gib']} GiB; python {machine['python']}, {used}."
    )


def save(path: Path, report: dict[str, Any], text: str) -> None:
    """Write the JSON report, and its tables beside it as Markdown."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    path.with_suffix(".md").write_text(text + "\n")
