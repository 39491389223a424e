"""What the runners' command lines share. Imports neither TensorFlow nor TFX."""

from __future__ import annotations

import argparse
import os
import sys

from tfcompress.errors import TfcompressError
from tfcompress.recipe import Recipe, load_recipe


def recipe_parser(description: str) -> argparse.ArgumentParser:
    """A parser that takes a recipe and changes to it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("recipe", help="YAML file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="in the recipe"
    )
    return parser


def add_teacher(parser: argparse.ArgumentParser) -> None:
    """The option of both TFX runners to start from a trained model."""
    parser.add_argument(
        "--teacher", metavar="URI", help="a Model artefact, instead of training one"
    )


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The recipe that a command line names; a mistake in it ends the program."""
    try:
        return load_recipe(arguments.recipe, arguments.set)
    except TfcompressError as error:
        sys.exit(f"Error: {error}")


def import_tfx() -> None:
    """Ends the program with the way out where TFX is missing; importing it is slow."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tfx  # noqa: F401
    except ImportError as error:
        sys.exit(
            f"Error: TFX cannot be imported ({error}); set up its environment by "
            "pipelines/tfx_environment.sh FOLDER and use FOLDER/bin/python, or run "
            "pipelines/local_runner.py, which needs no TFX"
        )
