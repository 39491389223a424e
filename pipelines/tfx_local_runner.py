"""Runs a recipe as a TFX pipeline on this machine: LocalDagRunner, metadata in SQLite.

    python pipelines/tfx_local_runner.py recipe.yaml --root runs/tfx

The second run takes from the cache what has not changed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from arguments import add_teacher, import_tfx, recipe_of, recipe_parser

from tfcompress.errors import TfcompressError


def main() -> None:
    parser = recipe_parser(__doc__.splitlines()[0])
    add_teacher(parser)
    parser.add_argument("--root", type=Path, required=True, help="artefacts, metadata")
    parser.add_argument("--serving", type=Path, help="by default ROOT/serving")
    # What is left goes to Beam, such as --direct_num_workers=2.
    arguments, beam = parser.parse_known_args()
    recipe = recipe_of(arguments)
    import_tfx()
    from image_classification import create_pipeline
    from tfx import v1 as tfx

    root = arguments.root.resolve()
    connection = tfx.orchestration.metadata.sqlite_metadata_connection_config
    try:
        pipeline = create_pipeline(
            recipe,
            root=str(root / "artefacts"),
            serving=str((arguments.serving or root / "serving").resolve()),
            metadata=connection(str(root / "metadata.sqlite")),
            teacher_uri=arguments.teacher,
            beam_pipeline_args=beam,
        )
        root.mkdir(parents=True, exist_ok=True)
        tfx.orchestration.LocalDagRunner().run(pipeline)
    except TfcompressError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
