"""Requests that the server refuses before Gradio reads them, and the headers of its answers."""

import os
import socket
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

HEADERS = ["Content-Security-Policy", "X-Content-Type-Options", "X-Frame-Options"]


@pytest.mark.parametrize(
    ("host", "status_code"),
    [
        ("localhost", 200),
        ("127.0.0.1:80", 200),
        ("192.168.1.5:7860", 200),
        ("[::1]:7860", 200),
        ("evil.example", 400),
        ("127.0.0.1.evil.example:7860", 400),
        ("localhost.evil.example", 400),
        ("[evil", 400),
    ],
)
def test_only_own_names_and_addresses_are_answered(http, host, status_code):
    answer = http.get("/config", headers={"host": host})
    assert answer.status_code == status_code
    assert status_code == 200 or "`--root-path URL`" in answer.text


def test_the_page_behind_a_proxy_has_the_name_of_its_url(checkpoint):
    from transformers_cxr.demo import server

    with server.serve(*checkpoint, root_path="https://cxr.example.org/cxr") as url:
        headers = {"host": "cxr.example.org", "origin": "https://cxr.example.org"}
        assert httpx.get(f"{url}config", headers=headers).json()["root"] == "https://cxr.example.org/cxr"
        assert httpx.get(f"{url}config", headers={"host": "evil.example"}).status_code == 400


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null"])
def test_other_pages_are_refused(page_url, http, origin):
    files = {"files": ("x.png", b"x")}
    assert http.post("/gradio_api/upload", files=files, headers={"origin": origin}).status_code == 403
    own = {"origin": page_url.rstrip("/")}
    assert http.post("/gradio_api/upload", files=files, headers=own).status_code == 200


def test_every_answer_has_the_security_headers(http):
    answers = [http.get("/"), http.get("/theme.css"), http.get("/nothing"), http.get("/", headers={"host": "evil"})]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 400]
    assert all(name in answer.headers for answer in answers for name in HEADERS)


def test_requests_without_a_size_and_large_ones_are_refused(http):
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    before = set(folder.iterdir())
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answers = [
        http.post("/gradio_api/upload", content=iter([b"--x"]), headers=headers),
        http.post("/gradio_api/upload", files={"files": ("a.png", bytes(2**22))}),
        http.post("/gradio_api/call/generate", json={"data": ["x" * 2**21, 1, 1, 0]}),
    ]
    assert [answer.status_code for answer in answers] == [413, 413, 413]
    assert set(folder.iterdir()) == before


def test_stalled_uploads_end_and_leave_nothing(page_url, http):
    """Uploads that have not arrived count for the limit of all files."""
    folder, url = Path(os.environ["GRADIO_TEMP_DIR"]), urlsplit(page_url)
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {2**21}\r\n"
    head += "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + bytes(1000)
    before = set(folder.iterdir())
    with ExitStack() as stack:
        uploads = [stack.enter_context(socket.create_connection((url.hostname, url.port), 60)) for _ in range(8)]
        for upload in uploads:
            upload.sendall(head.encode() + body)
        answers = [upload.recv(2**16).decode() for upload in uploads]
    assert {answer.split()[1] for answer in answers} == {"408", "507"}
    assert set(folder.iterdir()) == before
    assert http.post("/gradio_api/upload", files={"files": ("a.png", bytes(2**21))}).status_code == 200
