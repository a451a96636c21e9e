"""What a process and its children take of the machine (Linux)."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Self

import psutil


@dataclass(frozen=True)
class Memory:
    """Of a tree of processes, in bytes: what each has resident, summed; and the same with shared pages counted once."""

    rss: int
    pss: int


def tree(pid: int) -> list[psutil.Process]:
    """The process and all that it has started, directly or not."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """CPU that the process has used, with children that it has waited for, and all children that still run."""
    total = 0.0
    for process in tree(pid):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:  # between the listing and now; its parent's times have it from now on
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def memory(pid: int) -> Memory:
    """What the tree has now."""
    rss = pss = 0
    for process in tree(pid):
        try:
            info = process.memory_full_info()
        except psutil.NoSuchProcess:
            continue
        rss, pss = rss + info.rss, pss + info.pss
    return Memory(rss, pss)


class Peak:
    """Watches a tree's memory from a thread, once a second, for as long as the ``with`` lasts."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.memory = Memory(0, 0)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            now = memory(self._pid)
            self.memory = Memory(max(now.rss, self.memory.rss), max(now.pss, self.memory.pss))
            if self._over.wait(1.0):
                return


def pin(pid: int, *, under_test: bool) -> None:
    """Give the one that is measured the first core to itself; everything else shares the others."""
    cores = sorted(psutil.Process().cpu_affinity() or [])
    if len(cores) < 2:
        return
    chosen = cores[:1] if under_test else cores[1:]
    for process in tree(pid):
        process.cpu_affinity(chosen)
