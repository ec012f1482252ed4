"""Pages of the site whose text is elsewhere in the repository (mkdocs hooks)."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

SOURCE_OF_PAGE = {
    "index.md": "README.md",
    "model_cards/llm-cxr.md": "src/transformers_cxr/checkpoints/llm-cxr/README.md",
    "model_cards/llm-cxr-3b.md": "model_cards/llm-cxr-3b.md",
    "changelog.md": "CHANGELOG.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    root = Path(config.config_file_path).parent
    for page, source in SOURCE_OF_PAGE.items():
        text = (root / source).read_text(encoding="utf-8")
        # Links to the files of the other pages, and to docs/, in which they are on the site.
        for other, path in SOURCE_OF_PAGE.items():
            text = text.replace(f"]({path}", f"]({other}")
        text = text.replace("](../docs/", "](../").replace(f"{config.repo_url}/raw/main/docs/", "../")
        text = text.replace("](docs/", "](")
        # Tables within HTML are Markdown for the Hub, and need this attribute here.
        text = text.replace("<details>", '<details markdown="1">')
        files.append(File.generated(config, page, content=text))
    return files
