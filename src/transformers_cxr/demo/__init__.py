"""Web page of `transformers-cxr demo`."""
