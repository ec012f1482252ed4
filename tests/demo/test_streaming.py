import threading

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
