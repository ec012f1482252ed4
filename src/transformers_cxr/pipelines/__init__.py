"""Pipelines: "cxr-report", "cxr-vqa" and "cxr-generation"."""
