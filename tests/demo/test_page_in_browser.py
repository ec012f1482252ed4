"""The page of the embedded checkpoint in Chromium (Debian: `apt-get install chromium`)."""

import re
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from transformers_cxr import generate_image
from transformers_cxr.checkpoints import load_checkpoint
from transformers_cxr.demo.handlers import EXAMPLES, report_sections
from transformers_cxr.demo.model import DemoModel
from transformers_cxr.demo.server import serve

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: `pip install playwright`")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("There is no chromium to open the page in: `apt-get install chromium`", allow_module_level=True)

PNEUMONIA = EXAMPLES[1]
CONTRAST = Path(__file__).with_name("contrast.js").read_text()
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
# Unlike `wait_for_function`, it evaluates no strings, which the content security policy forbids.
expect = sync_api.expect


@pytest.fixture(scope="module")
def embedded():
    return load_checkpoint(device="cpu")


@pytest.fixture(scope="module")
def demo_model(embedded):
    return DemoModel(*embedded)


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


@pytest.fixture(scope="module")
def page(browser, url):
    """A page that has read an X-ray, for all tests: none depends on what another one leaves."""
    page = browser.new_page(viewport=SIZES["desktop"])
    page.set_default_timeout(120_000)
    page.other_requests, page.messages = [], []
    page.on(
        "request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else page.other_requests.append(r.url)
    )
    page.on("console", lambda message: page.messages.append(message.text))
    page.goto(url)
    expect(page.get_by_text("Open a chest X-ray")).to_have_count(0)  # it is a hint of the style sheet
    assert not page.locator("#reading").is_visible(), "there is nothing to show"
    page.locator("#upload input[type=file]").set_input_files(PNEUMONIA)
    page.locator("#sureness table").wait_for()
    yield page
    assert page.other_requests == [], "the page contacts other servers"
    assert not [message for message in page.messages if "Content Security Policy" in message]
    page.close()


def style(page, selector, name):
    return page.locator(selector).evaluate("(element, name) => getComputedStyle(element)[name]", name)


def test_report_probabilities_and_conversation_are_those_of_the_model(page, demo_model):
    codes = demo_model.open(PNEUMONIA).codes
    *_, report = demo_model.write(codes, [demo_model.processor.report_instruction])
    findings, impression = report_sections(report)
    expect(page.locator("#findings textarea")).to_have_value(findings)
    expect(page.locator("#impression textarea")).to_have_value(impression)
    for picture in ("#pixels img", "#reconstruction img"):
        assert page.locator(picture).evaluate("image => image.naturalWidth") in (224, 256)
    rows = [f"{name} yes {yes:.0%}, no {no:.0%}" for name, (yes, no) in demo_model.sureness(codes).items()]
    shown = [" ".join(text.split()) for text in page.locator("#sureness tr").all_inner_texts()]
    assert shown == rows and any(row.startswith("pneumonia") for row in rows)

    assert not page.locator("#chat").is_visible()
    turns = []
    for question in ("Is there pneumonia?", "Which view is this?"):
        *_, answer = demo_model.write(codes, [*turns, question])
        turns += [question, answer]
        page.locator("#question textarea").fill(question)
        page.get_by_role("button", name="Ask").click()
        page.locator("#chat .message").nth(len(turns) - 1).wait_for()
        page.locator("#chat").get_by_text(answer).last.wait_for()
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator("#chat .message")).to_have_count(0)


def test_viewer_zooms_pans_windows_inverts_and_resets_by_mouse_and_keyboard(page):
    pad, read = page.locator("#pad"), page.locator("#window-level")
    box = pad.bounding_box()
    assert box["width"] == box["height"] > 500
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] - 100, middle[1] + 20)
    page.mouse.up()
    assert read.inner_text() == "Window 156, level 148, zoom 1.0"
    slope = 256 / 156
    for channel in page.locator("#window-filter [type=linear]").all():
        assert float(channel.get_attribute("slope")) == pytest.approx(slope)
        assert float(channel.get_attribute("intercept")) == pytest.approx(0.5 - slope * 148 / 256)
    page.get_by_role("button", name="Invert").click()
    assert float(page.locator("#window-filter [type=linear]").first.get_attribute("slope")) == pytest.approx(-slope)
    pad.hover()
    page.mouse.wheel(0, -100)
    assert read.inner_text().endswith("zoom 1.1")
    page.get_by_role("button", name="Zoom in").click()
    pad.focus()
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    a, _, _, d, x, y = map(float, style(page, "#pixels img", "transform").strip("matrix()").split(","))
    assert (a, d, x, y) == pytest.approx((1.71875, 1.71875, 10, 0), abs=1)
    page.keyboard.press("Shift+ArrowLeft")
    assert read.inner_text() == "Window 146, level 148, zoom 1.7"
    page.keyboard.press("c")
    assert style(page, "#reconstruction img", "visibility") == "visible"
    page.keyboard.press("0")
    assert read.inner_text() == "Window 256, level 128, zoom 1.0"
    assert style(page, "#reconstruction img", "visibility") == "hidden"
    assert page.get_by_role("button", name="Invert").get_attribute("aria-pressed") == "false"


def test_map_is_shown_on_request_over_the_x_ray(page, demo_model):
    page.get_by_role("button", name="Where it looks").click()
    text = page.locator("#map-text")
    expect(text).to_contain_text("Is there pneumonia?")
    expect(page.locator("#viewer")).to_have_class(re.compile(r"\bmap\b"))
    pixels = page.locator("#map img").evaluate("image => [image.naturalWidth, getComputedStyle(image).filter]")
    assert pixels == [256, "none"]
    for visibility in ("hidden", "visible"):
        page.get_by_role("button", name="Map", exact=True).click()
        assert style(page, "#map img", "visibility") == visibility


def test_chips_write_the_text_whose_images_are_generated_and_compared(page, embedded, tmp_path):
    page.get_by_role("tab", name="Generate").click()
    page.get_by_label("Viral pneumonia").check()
    expect(page.locator("#text textarea")).to_have_value(re.compile("viral"))
    page.get_by_role("button", name="Settings").click()
    page.locator("#images input[type=number]").fill("1")
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.locator("#gallery img").first).to_have_attribute("src", re.compile(r"row-(\d|1[0-5])\.png"))
    expect(page.locator("#gallery img[src*='row-16']")).to_have_count(1)
    viral = page.locator("#text textarea").input_value()
    page.get_by_label("Normal").check()
    expect(page.locator("#text textarea")).not_to_have_value(re.compile("viral"))
    normal = page.locator("#text textarea").input_value()
    page.get_by_role("button", name="Generate and compare").click()
    expect(page.locator("#comparison img[src*='row-16']")).to_have_count(3)
    sources = page.locator("#comparison img").evaluate_all("images => images.map(image => image.src)")
    shown = []
    for number, source in enumerate(sources):
        file = tmp_path / f"{number}.png"
        file.write_bytes(page.request.get(source).body())
        shown.append(PIL.Image.open(file))
        assert "not for clinical use" in shown[-1].text["Comment"]
    before, after = (generate_image(*embedded, text, seed=0)[0] for text in (viral, normal))
    assert np.array_equal(shown[0], before) and np.array_equal(shown[1], after)
    change = np.asarray(after, dtype=int) - np.asarray(before, dtype=int)
    red, _, blue = np.moveaxis(np.asarray(shown[2], dtype=int), -1, 0)
    assert np.array_equal(red - blue, change)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_enough_contrast(page, scheme):
    page.emulate_media(color_scheme=scheme)
    for tab in ("Generate", "Read"):
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate(CONTRAST) == []


def test_phone_shows_image_report_and_question_in_this_order_and_nothing_empty(browser, url):
    page = browser.new_page(viewport=SIZES["phone"], is_mobile=True, has_touch=True)
    page.set_default_timeout(120_000)
    page.goto(url)
    page.locator("#examples button").first.tap()
    page.locator("#sureness table").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#notice").is_visible()
    order = ["#stage", "#findings", "#impression", "#question", "#sureness"]
    boxes = [page.locator(selector).bounding_box() for selector in order]
    assert [box["y"] for box in boxes] == sorted(box["y"] for box in boxes)
    for selector in ("#chat", "#map-text", "#map img"):
        assert not page.locator(selector).is_visible()
    cut = "labels => labels.filter(label => label.scrollWidth > label.clientWidth + 1).map(label => label.innerText)"
    assert page.locator("#reading label, button").evaluate_all(cut) == []
    page.get_by_role("tab", name="Generate").tap()
    page.get_by_role("button", name="Generate", exact=True).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
