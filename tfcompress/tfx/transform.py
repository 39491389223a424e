"""A Transform graph in front of a model, so that serving takes what was transformed.

Needs `tensorflow_transform`, which the extra `tfx` brings; imports no tfx.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfcompress.data.features import Features


def image_reader(
    features: Features,
    *,
    pixel_range: tuple[float, float],
    size: tuple[int, int] | None,
    transform_graph: str | None,
) -> tuple[Any, Any]:
    """What turns serialized tf.Examples into a model's images.

    Args:
        features: which feature holds the image, after the transformation.
        pixel_range: what bytes 0 and 255 are for the model.
        size: of the images, or None.
        transform_graph: URI of a TransformGraph artefact that raw examples go through;
            None where the examples are the model's own.

    Returns:
        The function, and what an exported model must track for it (or None).
    """
    options = {"pixel_range": pixel_range, "size": size}
    if transform_graph is None:
        return lambda examples: features.parse_images(examples, **options), None
    import tensorflow_transform as tft

    output = tft.TFTransformOutput(transform_graph)
    layer = output.transform_features_layer()
    # Who asks for a prediction does not know the label.
    spec = {
        name: kind
        for name, kind in output.raw_feature_spec().items()
        if name != features.label
    }

    def read(examples: tf.Tensor) -> tf.Tensor:
        return features.images(layer(tf.io.parse_example(examples, spec)), **options)

    return read, layer
