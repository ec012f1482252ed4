"""A small server that speaks the OpenAI API over a tiny model."""

import json
import threading
from http.server import ThreadingHTTPServer

import pytest
import torch

from transformers_cxr.checkpoints import load_checkpoint

from ..conftest import JsonHandler


class Server(ThreadingHTTPServer):
    """
    A server of one checkpoint: `GET /v1/models` and `POST /v1/completions` with ids as the prompt. `requests` holds
    the bodies of the completions. Tests change the attributes to break it.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, checkpoint):
        super().__init__(("127.0.0.1", 0), Handler)
        model, self.processor = load_checkpoint(str(checkpoint), "cpu")
        self.language_model = model.to_language_model()
        self.stop_ids = set(model.generation_config.eos_token_id)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests, self.lock = [], threading.Lock()
        self.keeps_to_allowed_ids, self.cut_after = True, None

    @torch.no_grad()
    def complete(self, prompt, max_tokens, min_tokens=0, temperature=1.0, seed=None, **others):
        """Return the new ids of a prompt by the plainest loop, without a cache."""
        ids, generator = torch.tensor([prompt]), torch.Generator().manual_seed(seed or 0)
        allowed = others.get("allowed_token_ids") if self.keeps_to_allowed_ids else None
        for step in range(max_tokens):
            logits = self.language_model(ids).logits[0, -1]
            for token_id, bias in others.get("logit_bias", {}).items():
                logits[int(token_id)] += bias
            if allowed:
                logits[[i for i in range(len(logits)) if i not in set(allowed)]] = -torch.inf
            if step < min_tokens:
                logits[list(self.stop_ids)] = -torch.inf
            if temperature:
                new = (logits / temperature).softmax(-1).multinomial(1, generator=generator)
            else:
                new = logits.argmax()[None]
            ids = torch.cat([ids, new[None]], dim=1)
            if int(new) in self.stop_ids:
                break
        return ids[0, len(prompt) :].tolist()


class Handler(JsonHandler):
    def do_GET(self):
        self.answer({"object": "list", "data": [{"id": "tiny", "object": "model"}]})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append(request)
            if self.server.cut_after is not None and len(self.server.requests) > self.server.cut_after:
                self.close_connection = True
                self.connection.close()
                return
            known = range(self.server.language_model.config.vocab_size)
            if not set(request.get("allowed_token_ids", [])) <= set(known):
                self.answer({"error": {"message": "allowed_token_ids contains out-of-vocab token id!"}}, 400)
                return
            ids = self.server.complete(**request)
        tokenizer = self.server.processor.tokenizer
        text = tokenizer.decode(ids, skip_special_tokens=request.get("skip_special_tokens", True))
        choice = {"index": 0, "text": text, "finish_reason": "stop", "token_ids": ids}
        self.answer({"id": "1", "object": "text_completion", "created": 0, "model": "tiny", "choices": [choice]})


@pytest.fixture
def server(checkpoint_dir):
    with Server(checkpoint_dir) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
        thread.start()
        yield server
        server.shutdown()
