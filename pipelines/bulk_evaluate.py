"""Evaluates a `.tflite` file on TFRecords of tf.Examples, by Beam on any runner.

    python pipelines/bulk_evaluate.py model.tflite 'examples/test/*' -o out.json
    python pipelines/bulk_evaluate.py gs://b/model.tflite 'gs://b/Split-eval/*' \\
        -o gs://b/out.json --runner=DataflowRunner --project=p --region=r

Options that are not its own go to Beam, such as
`--direct_running_mode=multi_processing --direct_num_workers=2`. Without `--runner` it
is the one that DirectRunner comes to where it cannot fetch another.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from typing import Any

from tfcompress.errors import TfcompressError

_WRONG = 2
# DirectRunner itself first tries to fetch a program from the network and runs that,
# which knows nothing of the options for threads and processes.
_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("model", help="a .tflite file")
    parser.add_argument("examples", help="pattern of TFRecord files")
    parser.add_argument("-o", "--output", required=True, help="JSON file to write")
    parser.add_argument("--features", help='JSON, such as {"image": "x", "label": "y"}')
    parser.add_argument("--pixel-range", default="0,1", help="LOW,HIGH")
    parser.add_argument("--image-size", help="HEIGHT,WIDTH to resize to")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1, help="of each worker")
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave bad examples out and count them, instead of stopping",
    )
    arguments, options = parser.parse_known_args()
    try:
        result = evaluate(arguments, options)
    except TfcompressError as error:
        sys.stderr.write(f"Error: {' '.join(str(error).split())}\n")
        sys.exit(_WRONG)
    print(f"accuracy: {result['accuracy']:.4f}")
    print(f"samples: {result['samples']:,}")
    for reason, count in result["bad"].items():
        print(f"left out: {count:,} examples that {reason}")


def evaluate(arguments: argparse.Namespace, options: list[str]) -> dict[str, Any]:
    """Runs the pipeline, and writes and returns the result.

    Raises:
        TfcompressError: no such files, a model or examples that do not fit.
    """
    given = _json(arguments.features)
    pixel_range = _numbers(arguments.pixel_range, float, "--pixel-range")
    size = _numbers(arguments.image_size, int, "--image-size")
    try:
        import apache_beam as beam
    except ImportError as error:
        raise TfcompressError(
            "Bulk evaluation needs apache_beam, which comes with the extra tfx: pip "
            "install 'tfcompress[tfx]'."
        ) from error
    import tensorflow as tf
    from apache_beam.options.pipeline_options import PipelineOptions

    from tfcompress.data.examples import read_records
    from tfcompress.tfx.beam import EvaluateTFLiteFile, features_of
    from tfcompress.tfx.inference import Engine

    # What is wrong is said here, and not by a worker in the middle of the work.
    engine = Engine(arguments.model)
    features = features_of(arguments.examples, given)
    images = {"pixel_range": pixel_range, "image_size": size}
    files = sorted(tf.io.gfile.glob(arguments.examples))
    first = list(read_records(files).take(1).as_numpy_iterator())
    engine.run(first, features, **images, labelled=False)
    transform = EvaluateTFLiteFile(
        arguments.model,
        features=features,
        **images,
        batch_size=arguments.batch_size,
        num_threads=arguments.threads,
        bad="count",
    )
    partial = arguments.output + ".partial"
    # Beam warns of what is of no concern here, such as the lack of a job name.
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    if not any(option.split("=")[0] == "--runner" for option in options):
        options = [*options, f"--runner={_RUNNER}"]
    with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
        _ = (
            pipeline
            | "Read" >> beam.io.ReadFromTFRecord(arguments.examples)
            | "Evaluate" >> transform
            | "AsJson" >> beam.Map(json.dumps)
            | "Write"
            >> beam.io.WriteToText(partial, num_shards=1, shard_name_template="")
        )
    with tf.io.gfile.GFile(partial) as file:
        result = json.load(file)
    tf.io.gfile.remove(partial)
    bad = "; ".join(f"{count:,} {reason}" for reason, count in result["bad"].items())
    if bad and not arguments.skip_bad:
        raise TfcompressError(
            f"Of the examples '{arguments.examples}' {bad}: mend them, or leave them "
            "out with --skip-bad."
        )
    if not result["samples"]:
        raise TfcompressError(
            f"There are no good examples in '{arguments.examples}'"
            f"{': ' + bad if bad else ''}."
        )
    with tf.io.gfile.GFile(arguments.output, "w") as file:
        file.write(json.dumps(result, indent=1) + "\n")
    return result


def _json(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise TfcompressError(f"--features is no JSON ({error}).") from error


def _numbers(text: str | None, kind: type, flag: str) -> tuple[Any, Any] | None:
    if text is None:
        return None
    try:
        first, second = (kind(part) for part in text.split(","))
    except ValueError as error:
        raise TfcompressError(
            f"{flag} takes two numbers, separated by a comma. Received: {text}"
        ) from error
    return first, second


if __name__ == "__main__":
    main()
