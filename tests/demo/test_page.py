"""The HTTP interface of the page: results, errors, limits and attacks."""

import io
import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from transformers_cxr import answer_log_likelihoods, generate_image, generate_text, image_to_dicom, occlusion_map
from transformers_cxr.demo.handlers import EXAMPLES, report_sections
from transformers_cxr.demo.model import FINDINGS, DemoModel

gradio_client = pytest.importorskip("gradio_client")

pytestmark = pytest.mark.usefixtures("short_texts")

QUESTION = "Is there pneumonia?"
GREEDY = {"max_new_tokens": 24, "do_sample": False}
REQUEST = ["Normal.", 1, 1, 0]


def new_user(url):
    return gradio_client.Client(url, verbose=False, httpx_kwargs={"timeout": 60})


def as_file(path):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


def call(http, name, body):
    """Return the last event of a call and its data; the body is JSON data or a raw string."""
    content = body if isinstance(body, str) else json.dumps({"data": body})
    answer = http.post(f"/gradio_api/call/{name}", content=content, headers={"content-type": "application/json"})
    answer.raise_for_status()
    events = http.get(f"/gradio_api/call/{name}/{answer.json()['event_id']}").text.strip().split("\n\n")
    event, data = events[-1].split("\n")
    return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def upload(http, path):
    answer = http.post("/gradio_api/upload", files={"files": (path.name, path.read_bytes())})
    return answer.raise_for_status().json()[0]


def test_report_and_answers_are_those_of_the_model(page_url, checkpoint, xray_files):
    model, processor = checkpoint
    user, xray = new_user(page_url), xray_files[0]
    pixels, reconstruction, *_ = user.predict(gradio_client.handle_file(xray), api_name="/open_image")
    codes = model.vq_tokenizer.encode(processor.image_processor(xray, return_tensors="pt").pixel_values)
    assert np.array_equal(PIL.Image.open(pixels).convert("L"), PIL.Image.open(xray))
    expected = processor.postprocess(model.vq_tokenizer.decode(codes))[0]
    assert np.array_equal(PIL.Image.open(reconstruction).convert("L"), expected)

    job = user.submit(api_name="/report")
    assert tuple(job.result()) == report_sections(*generate_text(model, processor, xray, **GREEDY))
    assert len(job.outputs()) > 10, "token by token"

    (first,) = generate_text(model, processor, xray, QUESTION, **GREEDY)
    content = [{"type": "text", "text": QUESTION}, {"type": "image"}]
    history = [{"role": "user", "content": content}, {"role": "assistant", "content": first}]
    (second,) = generate_text(model, processor, [[xray]], "Which view is this?", history=history, **GREEDY)
    user.predict(QUESTION, api_name="/ask")
    messages, _ = user.predict("Which view is this?", api_name="/ask")
    texts = [message["content"][0]["text"] for message in messages]
    assert texts == [QUESTION, first, "Which view is this?", second]
    user.predict(api_name="/new_conversation")
    messages, _ = user.predict(QUESTION, api_name="/ask")
    assert [message["content"][0]["text"] for message in messages] == [QUESTION, first]


def test_users_at_once_get_the_answers_to_their_own_images(page_url, checkpoint, xray_files):
    def use(file):
        user = new_user(page_url)
        user.predict(gradio_client.handle_file(file), api_name="/open_image")
        return user.predict(api_name="/report")

    with ThreadPoolExecutor(4) as users:
        reports = list(users.map(use, xray_files))
    expected = [report_sections(*generate_text(*checkpoint, file, **GREEDY)) for file in xray_files]
    assert list(map(tuple, reports)) == expected
    assert len(set(expected)) == 4, "a mix-up would not be seen"


def test_generated_images_are_marked_pngs_of_their_seeds(page_url, checkpoint):
    job = new_user(page_url).submit("Normal.", 2, 1, 7, api_name="/generate")
    images = job.result()
    for generated, image in zip(images, generate_image(*checkpoint, "Normal.", 2, seed=7, guidance_scale=1)):
        file = PIL.Image.open(generated["image"])
        assert file.format == "PNG" and "not for clinical use" in file.text["Comment"]
        assert np.array_equal(file, image)
    assert [generated["caption"] for generated in images] == ["Generated, seed 7", "Generated, seed 8"]


def test_generated_images_appear_row_by_row(checkpoint):
    frames = list(DemoModel(*checkpoint).generate("Normal.", seed=3, guidance_scale=2.0))
    assert len(frames) == 4  # rows of 4 codes, of 8 pixels each
    for row, (image,) in enumerate(frames, start=1):
        pixels = np.asarray(image)
        assert (pixels[8 * row :] == 0).all() and (pixels[8 * (row - 1) : 8 * row] > 0).any()
        assert "Generated" in image.info["comment"]


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        ("", ("", "")),
        ("FIND", ("", "")),
        ("FINDINGS: Clear lungs.\nIMPRESS", ("Clear lungs.", "")),
        ("FINDINGS: Clear lungs.\nIMPRESSION: Normal.", ("Clear lungs.", "Normal.")),
        ("IMPRESSION: Normal.", ("", "Normal.")),
        ("No pneumonia.", ("", "No pneumonia.")),
    ],
)
def test_report_is_shown_as_findings_and_impression_while_it_appears(text, sections):
    assert report_sections(text) == sections


def test_images_of_an_edited_text_are_compared_with_those_before(page_url, checkpoint):
    user = new_user(page_url)
    user.predict("Normal.", 2, 1, 7, api_name="/generate")
    pictures = user.predict("Pneumonia.", api_name="/compare")
    captions = [picture["caption"] for picture in pictures]
    assert captions[:2] + captions[3:5] == ["Before, seed 7", "After, seed 7", "Before, seed 8", "After, seed 8"]
    shown = [np.asarray(PIL.Image.open(picture["image"]), dtype=int) for picture in pictures]
    for text, images in (("Normal.", shown[::3]), ("Pneumonia.", shown[1::3])):
        expected = generate_image(*checkpoint, text, 2, seed=7, guidance_scale=1)
        assert all(map(np.array_equal, images, expected))
    assert np.array_equal(shown[2][..., 0] - shown[2][..., 2], shown[1] - shown[0])


def test_probabilities_and_map_are_those_of_the_library(checkpoint, xray_files, monkeypatch):
    monkeypatch.setattr("transformers_cxr.demo.model.MIN_KNOWN", 0)
    model, processor = checkpoint
    demo_model = DemoModel(model, processor)
    codes = demo_model.open(xray_files[0]).codes
    found = demo_model.sureness(codes)
    assert len(found) == len(FINDINGS) and list(found.values()) == sorted(found.values(), reverse=True)
    expected = answer_log_likelihoods(model, processor, [codes], "Is there a mass?", ["Yes.", "No."]).exp()
    assert found["a mass"] == pytest.approx(expected[0].tolist(), rel=1e-3)

    answer, picture = demo_model.look(codes, QUESTION)
    assert [answer] == generate_text(model, processor, xray_files[0], QUESTION, **GREEDY)
    changes = occlusion_map(model, processor, codes, QUESTION, answer)
    row, column = divmod(int(changes.abs().argmax()), 2)
    red, _, blue, alpha = np.moveaxis(np.asarray(picture, dtype=int)[8 + 16 * row, 8 + 16 * column], -1, 0)
    assert picture.size == (32, 32) and alpha > 150 and (red > blue) == bool(changes[row, column] > 0)


def test_dicom_is_shown_in_its_window(page_url, xray_files, tmp_path):
    dataset = image_to_dicom(PIL.Image.open(xray_files[0]))
    dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = 100, 50, "LINEAR_EXACT"
    dataset.save_as(tmp_path / "xray.dcm", enforce_file_format=True)
    opened = new_user(page_url).predict(gradio_client.handle_file(tmp_path / "xray.dcm"), api_name="/open_image")
    shown = np.asarray(PIL.Image.open(opened[0]).convert("L"), dtype=int)
    values = np.asarray(PIL.Image.open(xray_files[0]), dtype=float)
    assert np.abs(shown - ((values - 75) / 50).clip(0, 1) * 255).max() <= 0.5
    assert opened[2].startswith("32x32 pixels, DICOM: ") and opened[2].endswith("center 100, width 50")


def test_image_that_is_no_chest_x_ray_gets_a_sentence_and_no_report(page_url, checkpoint, xray_files, monkeypatch):
    monkeypatch.setattr(checkpoint[0].config, "min_chest_xray_score", 100.0)
    user = new_user(page_url)
    user.predict(gradio_client.handle_file(xray_files[0]), api_name="/open_image")
    findings, impression = user.predict(api_name="/report")
    assert findings == "" and impression.startswith("No report. This does not look like an upright chest X-ray")
    with pytest.raises(Exception, match="does not look like"):
        user.predict(QUESTION, api_name="/ask")


def test_example_is_opened(page_url, checkpoint):
    _, pixels, *_ = new_user(page_url).predict(0, api_name="/open_example")
    assert PIL.Image.open(pixels).size == (32, 32)
    for file in (Path(__file__).parents[2] / "examples/images").glob("*.jpeg"):
        assert file.read_bytes() == (EXAMPLES[0].parent / file.name).read_bytes()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("generate", '{"data": ["SECRET", 1, 1, NaN]}', "'generate' are not valid"),
        ("generate", '{"data": ["SECRET", 1, NaN, 0]}', "guidance"),
        ("generate", ["SECRET", 0, 1, 0], "minimum"),
        ("generate", ["SECRET", 1, 100, 0], "maximum"),
        ("generate", ["SECRET", 1, "SECRET", 0], "'generate' are not valid"),
        ("generate", ["SECRET", None, 1, ["SECRET"]], "'generate' are not valid"),
        ("generate", ["SECRET"], "'generate' are not valid"),
        ("generate", [None, 1, 1, 0], "The text is empty"),
        ("generate", [" \n", 1, 1, 0], "The text is empty"),
        ("generate", ["SECRET " * 600, 1, 1, 0], "context of 256"),
        ("open_image", ["SECRET"], "'open_image' are not valid"),
        ("open_image", [None], "No X-ray"),
        ("open_image", [as_file("/etc/passwd")], "'open_image' are not valid"),
        ("open_example", ["SECRET"], "number of an example"),
        ("open_example", [len(EXAMPLES)], "number of an example"),
        ("compare", ["SECRET"], "No images to compare with"),
        ("ask", ["SECRET?"], "No X-ray"),
    ],
    ids=str,
)
def test_wrong_arguments_are_a_message_and_not_in_the_log(http, name, arguments, message, capfd):
    event, data = call(http, name, arguments)
    assert event == "error" and message in data["error"]
    assert "SECRET" not in data["error"] and os.environ["GRADIO_TEMP_DIR"] not in data["error"]
    assert capfd.readouterr() == ("", "")


def test_questions_without_an_image_and_empty_ones_are_refused(page_url):
    user = new_user(page_url)
    with pytest.raises(Exception, match="No X-ray: upload one"):
        user.predict(QUESTION, api_name="/ask")
    user.predict(1, api_name="/open_example")
    with pytest.raises(Exception, match="question is empty"):
        user.predict(" ", api_name="/ask")


def test_damaged_files_and_a_decompression_bomb_are_named(http, xray_files, tmp_path):
    whole = xray_files[0].read_bytes()
    bomb = io.BytesIO()
    PIL.Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    contents = {
        "half.png": whole[: len(whole) // 2],
        "half.dcm": bytes(128) + b"DICM\x02\0",
        "bomb.png": bomb.getvalue(),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        event, data = call(http, "open_image", [as_file(upload(http, tmp_path / name))])
        assert event == "error" and name in data["error"], data
        assert os.sep not in data["error"].replace("image/", "")
    assert call(http, "open_image", [as_file(upload(http, xray_files[0]))])[0] == "complete"


def test_url_is_not_downloaded(http):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/secret"
        answer = http.post("/gradio_api/call/open_image", json={"data": [as_file(url)]})
        assert answer.status_code == 400 and "downloads no URLs" in answer.text
        assert call(http, "open_image", [{**as_file("x.png"), "url": url}])[0] == "error"
        with pytest.raises(BlockingIOError):  # nobody came
            server.accept()


def test_nothing_is_reported_to_others(http):
    assert http.get("/config").json()["analytics_enabled"] is False
    assert http.get("/gradio_api/monitoring").status_code in (403, 404)


@pytest.mark.parametrize("name", ["report", "ask"])
def test_a_stopped_request_frees_the_session(page_url, checkpoint, xray_files, name):
    user = new_user(page_url)
    user.predict(gradio_client.handle_file(xray_files[0]), api_name="/open_image")
    job = user.submit(*([QUESTION] if name == "ask" else []), api_name=f"/{name}")
    while not job.outputs():
        time.sleep(0.01)
    job.cancel()
    report = report_sections(*generate_text(*checkpoint, xray_files[0], **GREEDY))
    assert tuple(user.predict(api_name="/report")) == report
    # The request may have been finished before it was stopped.
    user.predict(api_name="/new_conversation")
    messages, _ = user.predict("Which view is this?", api_name="/ask")
    (answer,) = generate_text(*checkpoint, xray_files[0], "Which view is this?", **GREEDY)
    assert [message["content"][0]["text"] for message in messages] == ["Which view is this?", answer]


def test_closed_page_cancels_its_requests(page_url, http, xray_files):
    join = {"fn_index": None, "session_hash": "leaves", "data": ["Normal.", 4, 2, 0]}
    names = {d["api_name"]: d["id"] for d in http.get("/config").json()["dependencies"]}
    for _ in range(20):
        http.post("/gradio_api/queue/join", json={**join, "fn_index": names["generate"]}).raise_for_status()
    with http.stream("GET", "/gradio_api/queue/data", params={"session_hash": "leaves"}) as stream:
        for line in stream.iter_lines():
            if "process_generating" in line:
                break
    assert call(http, "generate", REQUEST)[0] == "complete"
    assert http.get("/gradio_api/queue/status").json()["queue_size"] == 0
