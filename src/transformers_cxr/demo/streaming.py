"""The model of the demo page: one request at a time, token by token, given up as soon as nobody waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

import torch
from transformers.generation.streamers import BaseStreamer

Result = TypeVar("Result")


class _Abandoned(Exception):
    """Ends a generation whose reader has left."""


class _TokenQueue(BaseStreamer):
    """Hands what `generate` and `generate_image` put over to another thread."""

    def __init__(self):
        self.tokens: SimpleQueue[torch.LongTensor | None] = SimpleQueue()
        self.abandoned = False

    def put(self, value: torch.LongTensor) -> None:
        if self.abandoned:
            raise _Abandoned
        self.tokens.put(value)

    def end(self) -> None:
        # The end of the call is what counts: it comes after an error, too.
        pass


class Worker:
    """The only thread in which the model runs, so that the requests of several users cannot touch each other."""

    def __init__(self):
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    def run(self, function: Callable[..., Result], *args) -> Result:
        """The result of `function(*args)`, when its turn has come."""
        return self._executor.submit(function, *args).result()

    def stream(self, function: Callable[[BaseStreamer], object]) -> Iterator[torch.LongTensor]:
        """
        What `function(streamer)` puts into its streamer, as it comes. Closing the iterator ends the function at its next
        token; an error of the function is raised here.
        """
        queue = _TokenQueue()
        call = self._executor.submit(function, queue)
        call.add_done_callback(lambda _: queue.tokens.put(None))
        try:
            while (tokens := queue.tokens.get()) is not None:
                yield tokens
            call.result()
        finally:
            queue.abandoned = True
            call.cancel()
