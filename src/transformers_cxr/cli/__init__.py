"""The `transformers-cxr` command line."""
