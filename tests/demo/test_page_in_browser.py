"""The page of the embedded checkpoint in Chromium (Debian: `apt-get install chromium`)."""

import re
import shutil

import numpy as np
import PIL.Image
import pytest

from transformers_cxr import generate_image
from transformers_cxr.checkpoints import load_checkpoint
from transformers_cxr.demo.model import DemoModel
from transformers_cxr.demo.page import EXAMPLES
from transformers_cxr.demo.server import serve

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: `pip install playwright`")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("There is no chromium to open the page in: `apt-get install chromium`", allow_module_level=True)

NORMAL, PNEUMONIA = EXAMPLES
# Unlike `wait_for_function`, it evaluates no strings, which the content security policy forbids.
expect = sync_api.expect


@pytest.fixture(scope="module")
def embedded():
    return load_checkpoint(device="cpu")


@pytest.fixture(scope="module")
def url(embedded):
    with serve(*embedded, title="Checkpoint: llm-cxr (embedded)") as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    expect.set_options(timeout=120_000)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, url):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)
    page.other_requests = []
    page.on(
        "request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else page.other_requests.append(r.url)
    )
    page.messages = []
    page.on("console", lambda message: page.messages.append(message.text))
    page.goto(url)
    page.locator("#report textarea").wait_for()
    yield page
    assert page.other_requests == [], "the page contacts other servers"
    assert not [message for message in page.messages if "Content Security Policy" in message]
    page.close()


def test_upload_report_chat_edit_and_generate(page, embedded, tmp_path):
    model, processor = embedded
    demo_model = DemoModel(model, processor)
    codes, *_ = demo_model.encode(PNEUMONIA)
    *_, report = demo_model.write(codes, [processor.report_instruction])
    page.locator("#upload input[type=file]").set_input_files(PNEUMONIA)
    expect(page.locator("#report textarea")).to_have_value(report)
    for picture in ("#pixels img", "#reconstruction img"):
        assert page.locator(picture).evaluate("image => image.naturalWidth") == 256

    turns = []
    for question in ("Is there pneumonia?", "Which view is this?"):
        *_, answer = demo_model.write(codes, [*turns, question])
        turns += [question, answer]
        page.locator("#question textarea").fill(question)
        page.get_by_role("button", name="Ask").click()
        page.locator("#chat .message").nth(len(turns) - 1).wait_for()
        page.locator("#chat").get_by_text(answer).last.wait_for()

    edited = "IMPRESSION: Normal chest X-ray."
    page.locator("#report textarea").fill(edited)
    page.get_by_role("button", name="Generate an X-ray from it").click()
    expect(page.locator("#text textarea")).to_have_value(edited)
    expect(page.locator("#gallery img").first).to_have_attribute("src", re.compile(r"row-(\d|1[0-5])\.png"))
    expect(page.locator("#gallery img[src*='row-16']")).to_have_count(2)
    expected = generate_image(model, processor, edited, num_images=2, seed=0)
    sources = page.locator("#gallery img").evaluate_all("images => images.map(image => image.src)")
    for image, source in zip(expected, sources):
        (tmp_path / "generated.png").write_bytes(page.request.get(source).body())
        generated = PIL.Image.open(tmp_path / "generated.png")
        assert np.array_equal(generated, image) and "not for clinical use" in generated.text["Comment"]


def test_page_fits_a_phone_without_horizontal_scrolling(browser, url):
    page = browser.new_page(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page.set_default_timeout(120_000)
    page.goto(url)
    page.locator("#examples button").first.tap()
    expect(page.locator("#report textarea")).to_have_value(re.compile("IMPRESSION"))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.get_by_text("Research only.").is_visible()
    page.get_by_role("tab", name="Generate").tap()
    page.get_by_role("button", name="Generate", exact=True).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
