"""Warm-up, cosine, and the paper's weight decay."""

import math

import keras
import numpy as np
import pytest

from tfcompress.distill import PAPER_RUNS, SOAP, make_optimizer, paper_run
from tfcompress.errors import OptionError


def rate_at(optimizer, step):
    optimizer.iterations.assign(step)
    return float(optimizer.learning_rate)


@pytest.mark.parametrize(
    ("steps", "warmup", "given"), [(100, 5, None), (400, 20, None), (50, 10, 10)]
)
def test_linear_warm_up_then_cosine_to_zero(steps, warmup, given):
    optimizer = make_optimizer(steps=steps, learning_rate=0.02, warmup_steps=given)
    for step in range(warmup + 1):
        assert rate_at(optimizer, step) == pytest.approx(0.02 * step / warmup)
    for step in range(warmup, steps + 1, 7):
        done = (step - warmup) / (steps - warmup)
        expected = 0.02 * 0.5 * (1.0 + math.cos(math.pi * done))
        assert rate_at(optimizer, step) == pytest.approx(expected, abs=1e-6)
    assert rate_at(optimizer, steps) == pytest.approx(0.0, abs=1e-8)


def test_no_warm_up_starts_at_the_peak():
    optimizer = make_optimizer(steps=10, learning_rate=0.02, warmup_steps=0)
    assert rate_at(optimizer, 0) == pytest.approx(0.02)
    assert rate_at(optimizer, 10) == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize("weight_decay", [1e-3, 3e-2])
@pytest.mark.parametrize("learning_rate", [1e-3, 1e-1])
@pytest.mark.parametrize("step", [2, 10, 55, 99])
def test_decay_is_the_papers(weight_decay, learning_rate, step):
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            keras.layers.Conv2D(3, 2, name="bias_or_gamma"),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(5),
        ]
    )
    for variable in model.trainable_variables:
        variable.assign(np.full(variable.shape, 2.0))
    optimizer = make_optimizer(
        steps=100, learning_rate=learning_rate, weight_decay=weight_decay
    )
    optimizer.build(model.trainable_variables)
    optimizer.iterations.assign(step)
    factor = float(optimizer.learning_rate) / learning_rate
    optimizer.apply([np.zeros(v.shape, "float32") for v in model.trainable_variables])
    # Times the schedule's factor in [0, 1], and not the learning rate.
    shrunk = 2.0 * (1.0 - weight_decay * factor)
    for variable in model.trainable_variables:
        expected = shrunk if variable.name == "kernel" else 2.0
        np.testing.assert_allclose(variable, expected, rtol=1e-6)
    assert {v.name for v in model.trainable_variables} == {
        "kernel",
        "bias",
        "gamma",
        "beta",
    }


def test_gradients_are_clipped_by_their_global_norm():
    variables = [keras.Variable(np.zeros(3)), keras.Variable(np.zeros(2))]
    optimizer = make_optimizer(steps=10, warmup_steps=0, clip_norm=1.0)
    optimizer.build(variables)
    optimizer.apply([np.full(3, 30.0, "float32"), np.full(2, 40.0, "float32")])
    norm = math.sqrt(3 * 30.0**2 + 2 * 40.0**2)
    # Adam's first moment after one step is a tenth of the clipped gradient.
    moments = [v for v in optimizer.variables if "momentum" in v.path]
    found = np.concatenate([np.ravel(v) for v in moments])
    np.testing.assert_allclose(found, 0.1 * np.array([30.0] * 3 + [40.0] * 2) / norm)


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"learning_rate": 0.0},
        {"learning_rate": -1e-3},
        {"weight_decay": -1e-4},
        {"clip_norm": 0.0},
    ],
)
def test_arguments_out_of_range(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"Received: .*{name}={value}"):
        make_optimizer(**{"steps": 10, **options})


def test_soap_has_the_same_schedule_and_decay():
    adam, soap = (
        make_optimizer(steps=100, learning_rate=0.02, algorithm=name)
        for name in ("adam", "soap")
    )
    assert isinstance(soap, SOAP)
    for step in (0, 3, 50, 100):
        assert rate_at(soap, step) == pytest.approx(rate_at(adam, step))
    assert soap.weight_decay == adam.weight_decay
    assert soap.global_clipnorm == adam.global_clipnorm
    bias = keras.Variable(np.ones(3, "float32"), name="bias")
    kernel = keras.Variable(np.ones((3, 3), "float32"), name="kernel")
    for optimizer in (adam, soap):
        optimizer.build([kernel, bias])
        assert optimizer._use_weight_decay(kernel)
        assert not optimizer._use_weight_decay(bias)
    with pytest.raises(OptionError, match="did you mean 'soap'"):
        make_optimizer(steps=1, algorithm="sop")


@pytest.mark.parametrize("name", sorted(PAPER_RUNS))
def test_runs_of_the_paper(name):
    run = paper_run(name)
    samples = 3 * run.batch_size + 1
    optimizer = run.optimizer(samples=samples)
    steps = 3 * run.epochs
    warmup = min(run.warmup_steps, steps // 2)
    assert rate_at(optimizer, warmup) == pytest.approx(run.learning_rate)
    assert rate_at(optimizer, steps) == pytest.approx(0.0, abs=1e-8)
    decay = optimizer.weight_decay * run.learning_rate
    assert decay == pytest.approx(run.weight_decay)
    assert name == f"{run.dataset}/{run.epochs}"
    assert run.views.mode == "function_matching"
    assert 0.0 < run.accuracy < 100.0 > run.teacher_accuracy > 0.0


def test_runs_the_paper_has_not():
    with pytest.raises(OptionError, match="did you mean 'food101/100'"):
        paper_run("food101/10")
    with pytest.raises(OptionError, match="not one batch of 512"):
        paper_run("food101/100").optimizer(samples=511)
