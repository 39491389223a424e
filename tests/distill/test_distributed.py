"""Two replicas, and two workers, give the weights of one device.

Those run in processes of their own, for devices and clusters are set up once in a
process: slow, but nothing less shows that gradients are scaled and clipped as a whole.
"""

import runpy
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("distributed_script.py")
# Trained by one process one after the other: TensorFlow is imported for longer.
CASES = {"low_rank": ["low_rank"], "soap": ["soap"], "fit-sgd": ["fit", "sgd"]}


def start(result, how, *options):
    command = [sys.executable, str(SCRIPT), how, str(result), *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process, expected=0):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == expected, errors[-3000:]
    return output


def weights_of(path):
    with np.load(path) as content:
        return [content[name] for name in content.files]


def ports(count=2):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return ":".join(str(one.getsockname()[1]) for one in sockets)
    finally:
        for one in sockets:
            one.close()


def assert_equal(one, other, atol=2e-5):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


def trained(folder, how, cases):
    """Weights by case, of one process: of this one where one device will do."""
    words = []
    for name, options in cases.items():
        words += ["then", str(folder / f"{how}-{name}.npz"), *options]
    if how == "one":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [str(SCRIPT), how, *words[1:]])
            runpy.run_path(str(SCRIPT))
    else:
        finish(start(words[1], how, *words[2:]))
    return {name: weights_of(folder / f"{how}-{name}.npz") for name in cases}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return trained(folder, "one", CASES | {"sgd": ["sgd"]})


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("two"), "two", CASES)


@pytest.mark.parametrize("case", CASES)
def test_two_replicas_give_the_weights_of_one_device(one, two, case):
    assert_equal(one[case], two[case])


def workers(tmp_path, name, *options, address=None):
    address = address or ports()
    return [
        start(tmp_path / f"{name}{i}.npz", f"worker:{i}:{address}", *options)
        for i in range(2)
    ]


def test_a_lost_worker_is_said_and_a_restart_goes_on(one, tmp_path):
    checkpoint = f"checkpoint={tmp_path / 'state.npz'}"
    first, second = workers(tmp_path, "w", "sgd", checkpoint)
    second.kill()
    second.communicate()
    first.kill()
    first.communicate()
    assert not (tmp_path / "w0.npz").exists()
    # One dies of itself after two epochs; the other says so and stops.
    address = ports()
    first = start(tmp_path / "w0.npz", f"worker:0:{address}", "sgd", checkpoint)
    second = start(
        tmp_path / "w1.npz", f"worker:1:{address}", "sgd", checkpoint, "die=2"
    )
    output = finish(first, expected=7)
    assert "Start all of them again: the training goes on from" in output
    assert second.wait(timeout=60) == -9
    again = workers(tmp_path, "w", "sgd", checkpoint)
    shown = [finish(process) for process in again]
    # Two epochs were done: only the last two are run.
    assert [line.count('"done"') for line in shown] == [2, 2]
    for i in range(2):
        assert_equal(one["sgd"][:-1], weights_of(tmp_path / f"w{i}.npz")[:-1])
