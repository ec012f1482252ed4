"""A worker thread for the model that streams tokens and cancels abandoned requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

import torch
from transformers.generation.streamers import BaseStreamer

Result = TypeVar("Result")


class _Cancelled(Exception):
    """Ends an abandoned generation."""


class _TokenQueue(BaseStreamer):
    """Streamer that passes tokens to another thread."""

    def __init__(self):
        self.tokens: SimpleQueue[torch.LongTensor | None] = SimpleQueue()
        self.cancelled = False

    def put(self, value: torch.LongTensor) -> None:
        if self.cancelled:
            raise _Cancelled
        self.tokens.put(value)

    def end(self) -> None:
        # The end of the call ends the stream, also after an error.
        pass


class Worker:
    """The only thread that runs the model, so that requests of several users do not interfere."""

    def __init__(self):
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    def run(self, function: Callable[..., Result], *args) -> Result:
        """Return the result of `function(*args)` after all earlier requests."""
        return self._executor.submit(function, *args).result()

    def stream(self, function: Callable[[BaseStreamer], object]) -> Iterator[torch.LongTensor]:
        """
        Yield the tokens that `function(streamer)` puts into its streamer. Closing the iterator cancels the function at
        its next token; an error of the function is raised here.
        """
        queue = _TokenQueue()
        call = self._executor.submit(function, queue)
        call.add_done_callback(lambda _: queue.tokens.put(None))
        try:
            while (tokens := queue.tokens.get()) is not None:
                yield tokens
            call.result()
        finally:
            queue.cancelled = True
            call.cancel()
