"""Takes the pages of the repository's root into the site, and turns links between them and docs/. Knows MkDocs alone.

On GitHub README.md links to docs/train.md, and docs/train.md to ../CONTRIBUTING.md; in the site all of them lie beside
each other, and README.md is the first page. Links to source files are of GitHub alone: the site shows their text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "index.md",
    **{name: name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "AGENTS.md", "SECURITY.md")},
}
_SOURCES = {site: source for source, site in PAGES.items()}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the root's pages."""
    for source, site in PAGES.items():
        files.append(File.generated(config, site, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Turns a page's links."""
    source = _SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return _LINK.sub(lambda link: turned(link, source), markdown)


def turned(link: re.Match[str], source: str) -> str:
    """One link of a file of the repository, as the site has it."""
    mark, text, target, anchor = link.groups()
    if ":" in target:
        return link[0]
    here = posixpath.dirname(source)
    meant = posixpath.normpath(posixpath.join(here, target))
    if meant not in PAGES and not meant.startswith("docs/"):
        return text if (ROOT / meant).exists() else link[0]  # what is nowhere fails the build
    site = PAGES.get(meant, meant.removeprefix("docs/"))
    start = posixpath.dirname(PAGES.get(source, source.removeprefix("docs/")))
    return f"{mark}[{text}]({posixpath.relpath(site, start or '.')}{anchor or ''})"
