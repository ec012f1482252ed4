"""The demo page of `transformers-cxr demo`."""
