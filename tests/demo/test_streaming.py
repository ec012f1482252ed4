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

    tokens = Worker().stream(function)
    for i in range(3):
        allowed.release()
        assert next(tokens).tolist() == [i]
    assert list(tokens) == []


def test_error_of_the_function_is_raised_by_the_stream():
    def function(streamer):
        streamer.put(torch.tensor([1]))
        raise ValueError("no room")

    tokens = Worker().stream(function)
    assert next(tokens).item() == 1
    with pytest.raises(ValueError, match="no room"):
        next(tokens)
