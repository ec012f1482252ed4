import threading

import pytest
import torch

from transformers_cxr.demo.streaming import Worker


def test_stream_yields_each_token_before_the_next_is_generated():
    allowed = threading.Semaphore(0)

    def function(streamer):
        for i in range(3):
            assert allowed.acquire(timeout=10)
            streamer.put(torch.tensor([i]))
        streamer.end()

    tokens = Worker().stream(function)
    for i in range(3):
        allowed.release()
        assert next(tokens).tolist() == [i]
    assert list(tokens) == []


def test_closed_stream_cancels_its_function():
    worker, puts = Worker(), []

    def endless(streamer):
        while True:
            streamer.put(torch.tensor([len(puts)]))
            puts.append(None)

    tokens = worker.stream(endless)
    next(tokens)
    tokens.close()
    assert worker.run(lambda: "free") == "free"


def test_error_of_the_function_is_raised_by_the_stream():
    def function(streamer):
        streamer.put(torch.tensor([1]))
        raise ValueError("no room")

    tokens = Worker().stream(function)
    assert next(tokens).item() == 1
    with pytest.raises(ValueError, match="no room"):
        next(tokens)


def test_only_one_function_runs_at_a_time():
    worker, running, most = Worker(), [], []

    def function(streamer):
        running.append(None)
        for _ in range(20):
            most.append(len(running))
            streamer.put(torch.tensor([0]))
        running.pop()

    threads = [threading.Thread(target=lambda: list(worker.stream(function))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert max(most) == 1 and len(most) == 160
