"""How the benchmarks measure: each way in a process of its own, which keeps its memory apart, and all of them in turns."""

import argparse
import json
import threading
from collections.abc import Callable
from multiprocessing import get_context

import psutil
import torch
import transformers


class PeakMemory:
    """Watches the memory of the device, or of this process on a CPU; `.bytes` is its peak above that at the start."""

    def __init__(self, device: torch.device):
        self.device = device

    def __enter__(self):
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.start = torch.cuda.memory_allocated(self.device)
            return self
        self.process = psutil.Process()
        self.start = self.process.memory_info().rss
        self.bytes = 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self):
        while not self.done.wait(0.005):
            self.bytes = max(self.bytes, self.process.memory_info().rss - self.start)

    def __exit__(self, *exception):
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self.start
            return
        self.done.set()
        self.thread.join()


def measure(work: Callable, args: argparse.Namespace, ways: list) -> list[tuple]:
    """
    Each way with its peak memory in bytes and its `args.repeats` rounds; the ways take turns.

    `work(connection, args, way)` runs in a process of its own: it sends the peak memory, then what a round gave for every
    number of a round that it receives, until it receives `None`.
    """
    context = get_context("spawn")
    connections, processes, peaks = [], [], []
    for way in ways:
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, args, way), daemon=True)
        process.start()
        theirs.close()  # so that a process that fails ends the wait for it
        connections.append(ours)
        processes.append(process)
        peaks.append(ours.recv())
    rounds = [[] for _ in ways]
    for number in range(args.repeats):
        for connection, of_way in zip(connections, rounds):
            connection.send(number)
            of_way.append(connection.recv())
    for connection, process in zip(connections, processes):
        connection.send(None)
        process.join()
    return list(zip(ways, peaks, rounds))


def write_results(path: str | None, results: list[dict]) -> None:
    """Writes single runs with the versions they ran on as JSON, where a path is given."""
    if path:
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        with open(path, "w", encoding="utf-8") as file:
            json.dump({**versions, "threads": torch.get_num_threads(), "results": results}, file, indent=2)
