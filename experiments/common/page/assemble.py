"""Puts the page together: HTML, style, scripts and data, in one file that needs no network and may load nothing.

Model output is hostile. It is in the file as base64 of compressed JSON, so that nothing in it can end an element; the
scripts put it into the document as text alone; and the policy lets no script run but those here, known by their hashes.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from llmenv.files import replaced

# In the order in which they stand in the page: each uses those before it.
SCRIPTS = ("text.js", "figures.js", "trials.js", "store.js", "detail.js", "list.js", "main.js")
LEVEL = 6  # of gzip


def write_page(file: Path, content: dict[str, Any]) -> None:
    """Writes the page; the file is whole, or the one before.

    Args:
        file: Its name.
        content: Of JSON's types: see `experiments.common.page.contents`. Its "completions", by far the most of it, are
            read by the page after all else is shown.
    """
    with replaced(file) as partial:
        partial.write_text(assemble(content), encoding="utf-8")


def assemble(content: dict[str, Any]) -> str:
    """The page as HTML, in ASCII but for its own few signs."""
    style = _part("page.css")
    script = '"use strict";\n' + "\n".join(_part(name) for name in SCRIPTS)
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    facts = {name: value for name, value in content.items() if name != "completions"}
    parts = {
        "POLICY": html.escape(policy),
        "TITLE": html.escape(content["title"].encode(errors="replace").decode()),
        "STYLE": style,
        "SCRIPT": script,
        "FACTS": _packed(facts),
        "COMPLETIONS": _packed(content["completions"]),
    }
    page = _part("page.html")
    pieces = page.split("@@")  # text, name, text, name, ..., text: what is put in is not looked at again
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _packed(content: Any) -> str:
    # json's ensure_ascii can write half a surrogate pair; NaN is no JSON.
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), LEVEL, mtime=0)).decode()


def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a Content-Security-Policy names an inline element (W3C CSP3, section 2.3.1)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
