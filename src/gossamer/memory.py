"""Memory of processes, measured: the proportional set size (PSS), where shared pages count once in total."""

from __future__ import annotations

import os
from pathlib import Path


def proportional_set_size(pid: int | None = None) -> int:
    """PSS of one process in bytes; on systems without it, the resident set size of this process (or 0 of another)."""
    try:
        text = Path(f"/proc/{pid or os.getpid()}/smaps_rollup").read_text()
    except OSError:
        if pid is not None and pid != os.getpid():
            return 0
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(child) for child in path.read_text().split()]
            except OSError:
                continue
    return found


def family_pss(pid: int) -> int:
    """PSS in bytes of a process and all that descend from it."""
    return sum(proportional_set_size(member) for member in family(pid))
