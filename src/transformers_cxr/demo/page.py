"""Layout and events of the demo page."""

from __future__ import annotations

import html
from pathlib import Path

import gradio as gr

from .handlers import EXAMPLES, PROMPT_AGE_GROUPS, PROMPT_FINDINGS, PROMPT_VIEWS, Generated, Handlers, Session
from .model import DemoModel

HEAD = (Path(__file__).parent / "head.html").read_text(encoding="utf-8")
NOTICE = (
    "**Research only.** Every report, answer and image on this page is generated, is often wrong, and must not be "
    "used for any clinical decision."
)
EXAMPLES_SOURCE = (
    "Real examples: Kermany, Zhang, Goldbaum, [10.17632/rscbjbr9sj](https://doi.org/10.17632/rscbjbr9sj), "
    "[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/); not seen in training. The others are generated."
)
MAX_IMAGES = 4
MAX_GUIDANCE = 5
MAX_SEED = 2**31
# Requests that may wait for the model, which serves one at a time.
MAX_WAITING = 64
MODEL_QUEUE = {"concurrency_id": "model", "concurrency_limit": 1}
LAYER = {"interactive": False, "format": "png", "show_label": False, "buttons": []}
# Markdown and not `gr.HTML`, whose templates evaluate strings, which the content security policy forbids.
RAW = {"sanitize_html": False}
GALLERY = {
    "show_label": False,
    "height": "auto",
    "object_fit": "contain",
    "interactive": False,
    "buttons": ["download", "fullscreen"],
}
# Interval at which files are checked and age at which they are deleted, in seconds.
DELETE_FILES = (300, 3600)
PAD = """
<svg width="0" height="0" aria-hidden="true"><filter id="window-filter" color-interpolation-filters="sRGB">
<feComponentTransfer><feFuncR type="linear"/><feFuncG type="linear"/><feFuncB type="linear"/></feComponentTransfer>
</filter></svg>
<div id="pad" tabindex="0" role="application" aria-label="X-ray. Plus and minus zoom, arrow keys move, Shift and arrow
keys change window and level, I inverts, C shows what the model sees, 0 resets."></div>
"""
TOOLS = """
<div class="viewer-tools" role="toolbar" aria-label="Viewer">
<button type="button" data-view="in" aria-label="Zoom in">+</button>
<button type="button" data-view="out" aria-label="Zoom out">−</button>
<button type="button" data-view="move" aria-pressed="false"
title="Dragging moves the X-ray, and does not change window and level">Move</button>
<button type="button" data-view="invert" aria-pressed="false">Invert</button>
<button type="button" data-view="codes" aria-pressed="false"
title="The X-ray decoded from its codes: what is missing here, the model cannot see">What the model sees</button>
<button type="button" data-view="map" aria-pressed="false">Map</button>
<button type="button" data-view="reset">Reset</button>
<output id="window-level"></output>
</div>
"""


class Page(gr.Blocks):
    """Blocks that answer arguments of wrong types or values with a message, without a log entry."""

    async def preprocess_data(self, block_fn, *args, **kwargs):
        try:
            return await super().preprocess_data(block_fn, *args, **kwargs)
        except Exception as error:
            # Other messages quote arguments and paths.
            is_limit = isinstance(error, gr.Error)
            message = error.message if is_limit else f"The arguments of '{block_fn.api_name}' are not valid."
            raise gr.Error(html.escape(message, quote=False), print_exception=False) from None


def build_page(demo_model: DemoModel, title: str) -> gr.Blocks:
    """
    Build the page.

    Args:
        demo_model ([`DemoModel`]): The checkpoint.
        title (`str`): Line below the heading.
    """
    handlers = Handlers(demo_model)
    with Page(title="LLM-CXR", analytics_enabled=False, delete_cache=DELETE_FILES) as page:
        session, known, generated = gr.State(Session()), gr.State([]), gr.State(Generated())
        gr.Markdown(f"# LLM-CXR reads and generates chest X-rays\n\n{title}", elem_id="title")
        gr.Markdown(NOTICE, elem_id="notice")
        with gr.Tabs() as tabs:
            with gr.Tab("Read", id="read"), gr.Row():
                with gr.Column(scale=6, elem_id="viewer"):
                    with gr.Row(elem_id="upload"):
                        upload = gr.UploadButton("Open an X-ray", variant="primary", min_width=140, scale=0)
                        examples = gr.Dataset(
                            show_label=False,
                            components=[gr.Image(render=False)],
                            samples=[[str(path)] for path in EXAMPLES],
                            type="index",
                            elem_id="examples",
                        )
                    with gr.Column(elem_id="stage"):
                        pixels = gr.Image(elem_id="pixels", **LAYER)
                        reconstruction = gr.Image(elem_id="reconstruction", **LAYER)
                        look_map = gr.Image(elem_id="map", **LAYER)
                        gr.Markdown(PAD, **RAW)
                    gr.Markdown(TOOLS, **RAW)
                    caption = gr.Markdown(elem_id="caption")
                    map_text = gr.Markdown(elem_id="map-text")
                with gr.Column(scale=5, elem_id="reading"):
                    gr.Markdown("### Report\n\nGenerated, for research only. You can edit it.", elem_id="report-title")
                    findings = gr.Textbox(label="Findings", lines=2, elem_id="findings", placeholder=" ")
                    impression = gr.Textbox(label="Impression", lines=1, elem_id="impression")
                    with gr.Row():
                        write_again = gr.Button("Write again", size="sm", min_width=100)
                        generate_report = gr.Button("Generate from it", size="sm", min_width=100)
                        look = gr.Button("Where it looks", size="sm", min_width=100)
                    sureness = gr.Markdown(elem_id="sureness", **RAW)
                    chat = gr.Chatbot(
                        show_label=False,
                        height=None,
                        render_markdown=False,
                        buttons=[],
                        feedback_options=None,
                        elem_id="chat",
                    )
                    question = gr.Textbox(
                        label="Question about the X-ray (the answer is generated)",
                        placeholder="Is there pneumonia?",
                        submit_btn="Ask",
                        lines=1,
                        elem_id="question",
                    )
                    with gr.Row():
                        stop_reading = gr.Button("Stop", size="sm", min_width=100)
                        new_conversation = gr.Button("New conversation", size="sm", min_width=100)
            with gr.Tab("Generate", id="generate"), gr.Row():
                with gr.Column(scale=2):
                    chips = [
                        gr.Radio(list(PROMPT_FINDINGS), value="Normal", label="Finding", elem_id="finding"),
                        gr.Radio(list(PROMPT_VIEWS), value="AP", label="View", elem_id="view"),
                        gr.Radio(list(PROMPT_AGE_GROUPS), value="Child", label="Patient", elem_id="age-group"),
                    ]
                    text = gr.Textbox(
                        label="Text of the X-ray: report, findings or impression",
                        value=handlers.prompt("Normal", "AP", "Child"),
                        lines=4,
                        elem_id="text",
                    )
                    with gr.Row():
                        generate = gr.Button("Generate", variant="primary", min_width=100)
                        compare = gr.Button("Generate and compare", min_width=240)
                        stop_generating = gr.Button("Stop", min_width=100)
                    with gr.Accordion("Settings", open=False):
                        num_images = gr.Slider(
                            1, MAX_IMAGES, value=MAX_IMAGES, step=1, precision=0, label="Images", elem_id="images"
                        )
                        guidance = gr.Slider(
                            1,
                            MAX_GUIDANCE,
                            value=demo_model.model.image_generation.get("guidance_scale", 1),
                            step=0.1,
                            label="Guidance (1 switches it off)",
                            elem_id="guidance",
                        )
                        seed = gr.Number(
                            0,
                            label="Seed of the first image",
                            precision=0,
                            minimum=0,
                            maximum=MAX_SEED,
                            elem_id="seed",
                        )
                with gr.Column(scale=3):
                    note = "Generated X-rays, for research only."
                    if weak := getattr(demo_model.model.generation_config, "weak_image_words", ()):
                        note += (
                            f" This checkpoint makes poor ones of texts with: {', '.join(weak)}. It has seen too few."
                        )
                    gr.Markdown(note)
                    gallery = gr.Gallery(columns=2, elem_id="gallery", **GALLERY)
                    gr.Markdown(
                        "Before, after, and the difference: red is brighter, blue is darker",
                        elem_id="comparison-title",
                    )
                    comparison = gr.Gallery(columns=3, elem_id="comparison", **GALLERY)
        gr.Markdown(EXAMPLES_SOURCE, elem_id="source")

        opened = [pixels, reconstruction, caption, session, findings, impression, chat]
        report_event = {
            "inputs": session,
            "outputs": [findings, impression],
            "show_progress": "minimal",
            **MODEL_QUEUE,
        }
        generate_event = {
            "inputs": [text, num_images, guidance, seed],
            "outputs": [gallery, generated],
            **MODEL_QUEUE,
        }
        openings = [
            upload.upload(handlers.open_image, upload, opened, **MODEL_QUEUE),
            examples.click(handlers.open_example, examples, opened, **MODEL_QUEUE),
        ]
        # The first event of a handler gives it its name in the API.
        reports = [write_again.click(handlers.report, **report_event)]
        private = {"api_visibility": "private"}
        for opening in openings:
            opening.then(lambda: ("", "", []), None, [sureness, map_text, known], queue=False, **private)
            reports.append(opening.success(handlers.report, **report_event, **private))
            bars = reports[-1].success(handlers.sureness, session, [sureness, known], **MODEL_QUEUE, **private)
            reports.append(bars)
        look.click(handlers.look, [session, known], [look_map, map_text], **MODEL_QUEUE, **private)
        answer = question.submit(
            handlers.ask,
            [session, question],
            [chat, session, question],
            show_progress="minimal",
            show_progress_on=question,  # on the chat, an error would cover the conversation
            **MODEL_QUEUE,
        )
        gr.on(
            [new_conversation.click, chat.clear], handlers.new_conversation, session, [chat, session], cancels=answer
        )
        stop_reading.click(None, cancels=[*reports, answer])
        for chip in chips:
            chip.input(handlers.prompt, chips, text, queue=False, **private)
        generations = [
            generate.click(handlers.generate, **generate_event),
            generate_report.click(
                handlers.use_report, [findings, impression], [text, tabs], queue=False, **private
            ).success(handlers.generate, **generate_event, **private),
            compare.click(handlers.compare, [text, generated], comparison, **MODEL_QUEUE),
        ]
        gr.on([generate.click, generate_report.click], lambda: None, None, comparison, queue=False, **private)
        stop_generating.click(None, cancels=generations)
    return page.queue(max_size=MAX_WAITING, api_open=False)
