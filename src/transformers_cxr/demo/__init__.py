"""Web page of `transformers-cxr demo`."""

try:
    import gradio  # noqa: F401
except ImportError as error:
    raise ImportError("The demo page needs gradio: `pip install transformers-cxr[demo]`.") from error
