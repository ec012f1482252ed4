"""Reading chest X-ray datasets and writing instruction conversations from them."""
