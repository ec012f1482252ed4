"""Measure several variants in alternating rounds, each in its own process, so that their memory is separate."""

import argparse
import json
import threading
from collections.abc import Callable
from multiprocessing import get_context

import psutil
import torch
import transformers


class PeakMemory:
    """Context manager; `.bytes` is the peak memory of the device (CPU: of this process) above that at the start."""

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


def measure(work: Callable, args: argparse.Namespace, cases: list) -> list[tuple]:
    """
    Return each case with its warm-up result and the results of its `args.repeats` rounds; the cases alternate.

    `work(connection, args, case)` runs in its own process. It sends its warm-up result (such as the peak memory), then
    one result for each round number that it receives, until it receives `None`.
    """
    context = get_context("spawn")
    connections, processes, warmups = [], [], []
    for case in cases:
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, args, case), daemon=True)
        process.start()
        theirs.close()  # so that recv() fails when the process does
        connections.append(ours)
        processes.append(process)
        warmups.append(ours.recv())
    rounds = [[] for _ in cases]
    for number in range(args.repeats):
        for connection, results in zip(connections, rounds):
            connection.send(number)
            results.append(connection.recv())
    for connection, process in zip(connections, processes):
        connection.send(None)
        process.join()
    return list(zip(cases, warmups, rounds))


def write_results(path: str | None, results: list[dict]) -> None:
    """Write the single runs and the versions of torch and transformers as JSON, if a path is given."""
    if path:
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        with open(path, "w", encoding="utf-8") as file:
            json.dump({**versions, "threads": torch.get_num_threads(), "results": results}, file, indent=2)
