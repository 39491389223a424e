"""Whether student and teachers fit together: said before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tfcompress.distill.outputs import DistillationError


def check_models(
    student: keras.Model,
    teachers: Sequence[keras.Model],
    temperature: float,
    label_weight: float,
) -> None:
    """Raises `DistillationError` for models not built and numbers out of range."""
    if not temperature > 0:
        raise DistillationError(
            f"temperature must be positive. Received: temperature={temperature}"
        )
    if label_weight < 0:
        raise DistillationError(
            f"label_weight must not be negative. Received: {label_weight}"
        )
    if not teachers:
        raise DistillationError("Give at least one teacher.")
    for role, model in (("student", student), *(("teacher", t) for t in teachers)):
        if not model.built:
            raise DistillationError(
                f"The {role} '{model.name}' is not built: give it an Input layer or "
                "call it once."
            )


def output_shapes(model: keras.Model) -> list[Any]:
    """Shape of each output; of one output with classes unknown where nothing tells."""
    outputs = getattr(model, "outputs", None)
    shape = (model.get_build_config() or {}).get("input_shape")
    if not outputs and isinstance(shape, (tuple, list)) and shape:
        # A subclassed model; of several inputs the shape is no list of sizes.
        sizes = [None, *shape[1:]]
        if all(size is None or isinstance(size, int) for size in sizes):
            found = model.compute_output_spec(keras.KerasTensor(sizes), training=False)
            outputs = keras.tree.flatten(found)
    return [tuple(x.shape) for x in outputs] if outputs else [(None, None)]


def check_outputs(
    outputs: Sequence[Any],
    student: keras.Model,
    teachers: Sequence[keras.Model],
    kinds: Sequence[Sequence[str]],
) -> None:
    """Raises `DistillationError` where outputs cannot be compared."""
    own = output_shapes(student)
    for teacher, its_kinds in zip(teachers, kinds, strict=True):
        shapes = output_shapes(teacher)
        if len(shapes) != len(own):
            raise DistillationError(
                f"Teacher and student must have equally many outputs: the teacher "
                f"'{teacher.name}' has {len(shapes)}, the student '{student.name}' "
                f"{len(own)}."
            )
        parts = zip(outputs, its_kinds, shapes, own, strict=True)
        for output, kind, theirs, ours in parts:
            unknown = None in (theirs[-1], ours[-1])
            if not unknown and (len(theirs) != len(ours) or theirs[-1] != ours[-1]):
                raise DistillationError(
                    "Teacher and student must have the same classes: the teacher "
                    f"'{teacher.name}' gives {theirs[-1]}, the student "
                    f"'{student.name}' {ours[-1]}. Output '{output.name}': shapes "
                    f"{theirs} and {ours}"
                )
            groups = [_family(k) for k in (kind, output.kind)]
            if groups[0] != groups[1]:
                raise DistillationError(
                    f"Output '{output.name}' is of kind '{kind}' in the teacher and "
                    f"'{output.kind}' in the student, which cannot be compared: say "
                    "what they are by teacher_outputs and student_outputs."
                )


def _family(kind: str) -> str:
    return {"probabilities": "logits", "binary_probabilities": "binary_logits"}.get(
        kind, kind
    )
