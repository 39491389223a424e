"""Runs a recipe on this machine, without TFX: what `tfcompress run` does.

    python pipelines/local_runner.py recipe.yaml --root runs/local

Killed and started again, it goes on where it was.
"""

from __future__ import annotations

import sys
from pathlib import Path

from arguments import recipe_of, recipe_parser

from tfcompress.errors import TfcompressError
from tfcompress.progress import TerminalDisplay
from tfcompress.runner import run_recipe


def main() -> None:
    parser = recipe_parser(__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="the run's folder")
    arguments = parser.parse_args()
    recipe = recipe_of(arguments)
    try:
        with TerminalDisplay() as display:
            run_recipe(recipe, arguments.root, display=display)
    except TfcompressError as error:
        sys.exit(f"Error: {error}")
    print(arguments.root / "report.md")


if __name__ == "__main__":
    main()
