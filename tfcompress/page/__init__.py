"""One self-contained page from run folders. Needs the extra `report`, no TensorFlow."""

from tfcompress.page.build import build_page, write_page
from tfcompress.page.load import Run, load_runs
from tfcompress.page.view import overview

__all__ = ["Run", "build_page", "load_runs", "overview", "write_page"]
