"""Compiles a recipe's TFX pipeline for Kubeflow Pipelines 2 or Vertex AI.

    python pipelines/kubeflow_runner.py recipe.yaml --root gs://bucket/runs \
        --image REGISTRY/tfcompress-tfx:0.1.0 -o pipeline.json

The image is that of `pipelines/Dockerfile`; it must hold the tfcompress that compiles.
Hand the file to Kubeflow's page or client, or to Vertex AI:

    from google.cloud import aiplatform
    aiplatform.PipelineJob(display_name="compress", template_path="pipeline.json").run()
"""

from __future__ import annotations

import sys
from pathlib import Path

from arguments import add_teacher, import_tfx, recipe_of, recipe_parser

from tfcompress.errors import TfcompressError


def main() -> None:
    parser = recipe_parser(__doc__.splitlines()[0])
    add_teacher(parser)
    parser.add_argument("--root", required=True, help="where artefacts go: gs://...")
    parser.add_argument("--serving", help="by default ROOT/serving")
    parser.add_argument("--image", required=True, help="of pipelines/Dockerfile")
    parser.add_argument("-o", "--output", type=Path, default=Path("pipeline.json"))
    # What is left goes to Beam, such as --runner=DataflowRunner.
    arguments, beam = parser.parse_known_args()
    recipe = recipe_of(arguments)
    import_tfx()
    from image_classification import create_pipeline
    from tfx import v1 as tfx

    root = arguments.root.rstrip("/")
    runner = tfx.orchestration.experimental
    try:
        pipeline = create_pipeline(
            recipe,
            root=root,
            serving=arguments.serving or f"{root}/serving",
            teacher_uri=arguments.teacher,
            beam_pipeline_args=beam,
        )
        runner.KubeflowV2DagRunner(
            config=runner.KubeflowV2DagRunnerConfig(default_image=arguments.image),
            output_dir=str(arguments.output.resolve().parent),
            output_filename=arguments.output.name,
        ).run(pipeline)
    except (TfcompressError, OSError) as error:
        sys.exit(f"Error: {error}")
    print(arguments.output)


if __name__ == "__main__":
    main()
