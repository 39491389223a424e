"""Images a second of `EvaluateTFLiteFile`, by one and by two Beam workers.

    python -m benchmarks.bulk_evaluation

Needs the extra `tfx`. A float32 ResNet-20 for 28x28 images runs on tf.Examples of that
size (random pixels: no figure here depends on them). Starting workers, each of which
imports TensorFlow, takes as long for few images as for many; so all is timed on few and
on many, and the rate is that of the images between. `evaluate_tflite` reads the same
files through tf.data, in one process with as many threads as there are workers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions

from benchmarks.common import table, time_calls, write_result
from tfcompress.data.examples import read_records
from tfcompress.data.features import Features
from tfcompress.deploy import evaluate_tflite, export_tflite
from tfcompress.models import resnet
from tfcompress.tfx.beam import EvaluateTFLiteFile, features_of

NAME = "bulk_evaluation"
SHARDS = 8
BATCH_SIZE = 256
# DirectRunner itself may take another runner, without these modes.
_RUNNER = "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"
WORKERS = {
    "Beam, 1 worker": (1, ["--direct_running_mode=in_memory"]),
    "Beam, 1 process": (
        1,
        ["--direct_running_mode=multi_processing", "--direct_num_workers=1"],
    ),
    "Beam, 2 processes": (
        2,
        ["--direct_running_mode=multi_processing", "--direct_num_workers=2"],
    ),
}


def write_random(folder: Path, count: int, *, seed: int = 0) -> str:
    """Examples of random 28x28 images and labels; the pattern of their files."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for shard in range(SHARDS):
        name = f"data-{shard:05d}-of-{SHARDS:05d}.tfrecord"
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for _ in range(shard, count, SHARDS):
                example = tf.train.Example()
                feature = example.features.feature
                feature["image"].float_list.value[:] = rng.random(784, np.float32)
                feature["label"].int64_list.value[:] = [int(rng.integers(10))]
                writer.write(example.SerializeToString())
    return str(folder / "*")


def by_beam(
    model: Path, pattern: str, options: list[str], target: Path
) -> dict[str, Any]:
    """What the transform finds; all of the pipeline's work is done at the return."""
    with beam.Pipeline(options=PipelineOptions([_RUNNER, *options])) as pipeline:
        _ = (
            pipeline
            | beam.io.ReadFromTFRecord(pattern)
            | EvaluateTFLiteFile(
                str(model), features=features_of(pattern), batch_size=BATCH_SIZE
            )
            | beam.Map(json.dumps)
            | beam.io.WriteToText(str(target), num_shards=1, shard_name_template="")
        )
    return json.loads(target.read_text())


def directly(
    model: Path, pattern: str, features: Features, threads: int
) -> dict[str, Any]:
    """What `evaluate_tflite` finds on the same files."""
    records = read_records(sorted(tf.io.gfile.glob(pattern)), interleaved=True)

    def parse(batch: Any) -> tuple[Any, Any]:
        found = features.parse(batch)
        return found["image"], found["label"]

    batches = records.batch(BATCH_SIZE).map(parse).prefetch(2)
    return evaluate_tflite(model, batches, num_threads=threads)


def measure(few: int, many: int, repeats: int) -> dict[str, Any]:
    """Seconds of every way on few and on many images, in turn."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = resnet((28, 28, 1), 10, depth=20, width=16)
        model = export_tflite(network, folder / "model.tflite")
        patterns = {n: write_random(folder / str(n), n) for n in (few, many)}
        features = features_of(patterns[few])
        found: dict[tuple[str, int], dict[str, Any]] = {}
        calls: dict[tuple[str, int], Callable[[], None]] = {}
        for count, pattern in patterns.items():
            for way, (_, options) in WORKERS.items():

                def run(way=way, options=options, count=count, pattern=pattern):
                    target = folder / "result"
                    found[way, count] = by_beam(model, pattern, options, target)

                calls[way, count] = run
            for threads in (1, 2):
                way = f"evaluate_tflite, {threads} thread{'s' * (threads > 1)}"

                def run(way=way, threads=threads, count=count, pattern=pattern):
                    found[way, count] = directly(model, pattern, features, threads)

                calls[way, count] = run
        timings = time_calls(calls, repeats=repeats)
    for count in patterns:
        scores = {f["accuracy"] for (_, n), f in found.items() if n == count}
        if len(scores) != 1:
            raise RuntimeError(f"The ways do not agree on {count} images: {scores}")
    ways = list(dict.fromkeys(way for way, _ in calls))
    return {
        "images": [few, many],
        "apache-beam": version("apache-beam"),
        "ways": {
            way: {
                "few": timings[way, few].to_dict(),
                "many": timings[way, many].to_dict(),
                "images_per_second": (many - few)
                / (timings[way, many].median - timings[way, few].median),
            }
            for way in ways
        },
    }


def lines(data: dict[str, Any]) -> list[str]:
    """The table."""
    few, many = data["images"]
    first = data["ways"]["Beam, 1 process"]["images_per_second"]
    rows = []
    for way, one in data["ways"].items():
        seconds = [
            f"{t['median']:.2f} ({t['q1']:.2f} to {t['q3']:.2f})"
            for t in (one["few"], one["many"])
        ]
        rate = one["images_per_second"]
        rows.append([way, *seconds, f"{rate:,.0f}", f"{rate / first:.2f}"])
    header = ["way", f"{few:,} images (s)", f"{many:,} images (s)", "images/s"]
    return [
        *table([*header, "to 1 process"], rows),
        "",
        "Median and quartiles of the whole pipeline, start of the workers included;",
        "images/s of the images between. All ways find the same accuracy.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--few", type=int, default=1_000)
    parser.add_argument("--many", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--name", default=NAME, help="of the files with the results")
    options = parser.parse_args()
    data = measure(options.few, options.many, options.repeats)
    write_result(options.name, data, lines(data))


if __name__ == "__main__":
    main()
