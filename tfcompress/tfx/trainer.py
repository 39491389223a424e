"""`run_fn`: what the stock Trainer calls. This module imports no tfx."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from tfcompress.data import load_dataset
from tfcompress.errors import TfcompressError
from tfcompress.recipe import parse_stage
from tfcompress.runner import seed_everything, stage_seed
from tfcompress.stages import STAGES, Context
from tfcompress.tfx.artifacts import KERAS_FILE, local_copy
from tfcompress.tfx.steps import dataset_spec, fill

_KEYS = ("stage", "options", "dataset", "seed")


def run_fn(fn_args: Any) -> None:
    """Trains a teacher by labels, or fine-tunes `base_model` by labels.

    For `Trainer(run_fn="tfcompress.tfx.trainer.run_fn", custom_config={...})`, with
    the keys

    - `options`: fields of the stage `teacher`, or of `fine_tune` where there is a
      `base_model`, as in a recipe;
    - `dataset`: further options of `tfcompress.DatasetSpec`;
    - `seed`: of the recipe.

    Trainer's `schema` names the features and their shapes; with its `transform_graph`
    the model takes what Transform made of the examples, and its SavedModel the examples
    as they were before. The model it leaves is what the local runner makes of the same
    recipe and seed.

    Raises:
        TfcompressError: data, models or options that do not fit.
    """
    given = dict(fn_args.custom_config or {})
    for key in given:
        if key not in _KEYS:
            raise TfcompressError(
                f"custom_config takes {', '.join(_KEYS)}. Received: {key}"
            )
    base = fn_args.base_model
    name = "fine_tune" if base else "teacher"
    options = (
        {"by": "labels", **given.get("options", {})}
        if base
        else (given.get("options", {}))
    )
    stage = parse_stage(STAGES[name], options)
    spec = dataset_spec(
        _examples(fn_args), given.get("dataset", {}), schema=fn_args.schema_path
    )
    data = load_dataset(spec)
    stage.check(data)
    seed = stage_seed(int(given.get("seed", 0)), name)
    seed_everything(seed)
    # Trainer's own folder: what a stopped training leaves is gone on from.
    folder = Path(fn_args.model_run_dir or tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    context = Context(folder=folder, data=data, seed=seed)
    if base:
        with local_copy(os.path.dirname(base.rstrip("/")), KERAS_FILE) as file:
            inputs = {"teacher": file, "compressed": file}
            made, _ = stage.run(inputs, context)
    else:
        made, _ = stage.run({}, context)
    fill(
        os.path.dirname(fn_args.serving_model_dir.rstrip("/")),
        made,
        spec,
        data,
        transform_graph=fn_args.transform_graph_path,
    )


def _examples(fn_args: Any) -> str:
    """The Examples artefact that the files of the training split lie in."""
    files = fn_args.train_files
    first = files if isinstance(files, str) else files[0]
    return str(Path(first).parent.parent)
