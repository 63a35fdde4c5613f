"""Memory: what the machine and its containers have left, and refusals of what does not fit."""

from __future__ import annotations

import os

from sparselmm.base.exceptions import MemoryLimitError

LITTLE = 50_000_000
"""Bytes that every machine has: none is asked how much it has."""

MEMINFO, GROUPS, CGROUP = "/proc/meminfo", "/proc/self/cgroup", "/sys/fs/cgroup"
"""Where Linux says how much memory there is, and what a container may use of it."""

UNKNOWN_MEMORY = 4_000_000_000
"""Bytes taken as available on a system that does not say."""


def size_text(amount: float) -> str:
    """Bytes in words."""
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000.0:
            return f"{amount:.3g} {unit}"
        amount /= 1000.0
    return f"{amount:.3g} TB"


def available_memory() -> int:
    """Bytes of memory this process can still get, whichever is least.

    What the system has available, and what the control groups of a container (version 1 or 2) leave
    below their limits; caches that the kernel gives back count as available.
    """
    return min([_system_memory(), *_group_memory()])


def need_memory(needed: float, what: str, instead: str) -> None:
    """Refuse work that does not fit, before anything is allocated.

    Parameters
    ----------
    needed : float
        Bytes.
    what : str
        What takes them.
    instead : str
        What the user can do.

    Raises
    ------
    MemoryLimitError
        When there are fewer.
    """
    if needed < LITTLE or needed <= (limit := available_memory()):
        return
    raise MemoryLimitError(
        f"{what} takes about {size_text(needed)} of memory, and {size_text(limit)} are available; "
        f"{instead}"
    )


def _system_memory() -> int:
    """Bytes the system has available; `UNKNOWN_MEMORY` where it does not say."""
    for line in _lines(MEMINFO):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return UNKNOWN_MEMORY


def _group_memory() -> list[int]:
    """Bytes that each control group with a limit, from our own up to the root, has left."""
    out = []
    for line in _lines(GROUPS):
        number, controllers, path = line.rstrip().split(":", 2)
        if number == "0" and not controllers:
            base, limit, usage, cache = CGROUP, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit = os.path.join(CGROUP, "memory"), "memory.limit_in_bytes"
            usage, cache = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            folder = os.path.join(base, *parts[:depth])
            most = "".join(_lines(os.path.join(folder, limit))).strip()
            if not most.isdigit():  # no such group here, or "max"
                continue
            used = int("".join(_lines(os.path.join(folder, usage))).strip() or 0)
            kept = [row.split() for row in _lines(os.path.join(folder, "memory.stat"))]
            back = sum(int(row[1]) for row in kept if row[0] == cache)
            out.append(max(int(most) - max(used - back, 0), 0))
    return out


def _lines(path: str) -> list[str]:
    """Lines of a file of the system; none where there is no such file."""
    try:
        with open(path, encoding="ascii") as file:
            return list(file)
    except OSError:
        return []
