"""Runs distillations: on one device, on two replicas, or as one worker.

python distributed_script.py one|two|worker:INDEX:PORT:PORT RESULT [options]
    [then RESULT [options]]...
"""

import json
import os
import sys

how, *words = sys.argv[1:]
if how.startswith("worker"):
    _, index, *ports = how.split(":")
    os.environ["TF_CONFIG"] = json.dumps(
        {
            "cluster": {"worker": [f"127.0.0.1:{port}" for port in ports]},
            "task": {"type": "worker", "index": int(index)},
        }
    )

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

cpu = tf.config.list_physical_devices("CPU")[0]
if how == "two":
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
elif how == "one":
    strategy = tf.distribute.get_strategy()
else:
    strategy = tf.distribute.MultiWorkerMirroredStrategy()

from tfcompress.distill import (  # noqa: E402
    SOAP,
    Adam,
    Distiller,
    ViewSpec,
    WorkerLostError,
    fit_with_strategy,
    numbered,
    share_of_batches,
)
from tfcompress.distill.decay import ProductDecay  # noqa: E402
from tfcompress.surgery import factorize, synchronize_batch_norm  # noqa: E402

EPOCHS, STEPS = 4, 3


def net(width, seed):
    init = [keras.initializers.GlorotUniform(seed=seed + i) for i in range(3)]
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(width, 3, kernel_initializer=init[0], name="conv"),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(
                10, kernel_initializer=init[1], kernel_regularizer="l2", name="dense"
            ),
        ]
    )


def optimizer(options):
    common = {"weight_decay": 0.1, "global_clipnorm": 0.5}
    if "soap" in options:
        # In few steps long axes have no full covariance: then rounding picks the basis.
        return SOAP(3e-3, update_every=2, epsilon=1e-3, max_axis=10, **common)
    if "sgd" in options:
        return keras.optimizers.SGD(0.05, momentum=0.9, **common)
    return Adam(1e-3, epsilon=1e-3, **common)


def make_trainer(options):
    student = net(6, 10)
    if "low_rank" in options:
        student = factorize(student, {"dense": ("FactorizedDense", (4,))})
    student = synchronize_batch_norm(student)
    mode = "function_matching" if "mixup" in options else "consistent"
    distiller = Distiller(
        student, net(8, 20), views=ViewSpec(mode=mode), label_weight=0.1, seed=3
    )
    if "low_rank" in options:
        decay = ProductDecay(student, 0.1)
        distiller.product_decay = decay
    distiller.compile(optimizer(options), jit_compile=False)
    return distiller


rng = np.random.default_rng(0)
images = rng.uniform(size=(48, 8, 8, 1)).astype("float32")
labels = rng.integers(0, 10, 48).astype("int32")


def make_batches(context, epoch):
    batches = numbered(images, labels, batch_size=16, seed=1, first_epoch=epoch)
    return share_of_batches(batches, context)


def value_of(name, options):
    return next((o.removeprefix(name) for o in options if o.startswith(name)), None)


def train(options):
    """The student's variables and the loss, trained as the options say."""
    die_after = value_of("die=", options)

    def progress(done, total, figures):
        print(json.dumps({"done": done, **figures}), flush=True)
        if str(done) == die_after:
            os.kill(os.getpid(), 9)

    if "fit" in options:
        with strategy.scope():
            trainer = make_trainer(options)
        plain = tf.data.Dataset.from_tensor_slices((images, labels)).batch(
            16, drop_remainder=True
        )
        trainer.fit(plain, epochs=EPOCHS, verbose=0, shuffle=False)
    else:
        trainer = fit_with_strategy(
            strategy,
            lambda: make_trainer(options),
            make_batches,
            epochs=EPOCHS,
            steps_per_epoch=STEPS,
            checkpoint=value_of("checkpoint=", options),
            progress=progress,
        )
    figures = [float(trainer.loss_tracker.result())]
    return [np.asarray(v) for v in trainer.student.variables], np.asarray(figures)


while words:
    end = words.index("then") if "then" in words else len(words)
    (result, *options), words = words[:end], words[end + 1 :]
    try:
        weights, figures = train(options)
    except WorkerLostError as error:
        print(f"lost: {error}", flush=True)
        sys.exit(7)
    np.savez(result, *weights, figures=figures)
