"""What mkdocs does beside turning pages into HTML.

One page of the API reference for each package, made of what it names as public;
and the pages of benchmark results, which stand outside the guides' folder.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

# mkdocs has this folder on the path while it loads this file.
from public import PACKAGES, public_names


def api_page(package: str, title: str) -> str:
    """The Markdown of a package's page: mkdocstrings fills it."""
    lines = [f"# {title}", "", f"`{package}`", ""]
    lines += [f"::: {path}" for _, path in sorted(public_names(package).items())]
    return "\n".join(lines) + "\n"


def on_files(files: Any, config: Any) -> Any:
    """Adds the API pages and the benchmark results to the site."""
    for package, title in PACKAGES.items():
        page = api_page(package, title)
        files.append(File.generated(config, f"api/{package}.md", content=page))
    root = Path(config.docs_dir).parent
    for path in sorted((root / "benchmarks/results").glob("*.[mp][dn]*")):
        name = f"benchmarks/results/{path.name}"
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that lead out of the guides' folder lead to the copies above."""
    if "/" in page.file.src_uri:
        return markdown
    return re.sub(r"\]\(\.\./benchmarks/", "](benchmarks/", markdown)


def on_config(config: Any) -> Any:
    """The API pages stand last in the navigation."""
    pages = [{title: f"api/{package}.md"} for package, title in PACKAGES.items()]
    config.nav.append({"API reference": pages})
    return config
