"""What a file must hold: limits on figures, and the words for what does not."""

import pytest

from tfcompress.deploy import Thresholds
from tfcompress.deploy.thresholds import failures
from tfcompress.errors import OptionError

FIGURES = {
    "accuracy": 0.9,
    "drop": 0.01,
    "agreement": 0.95,
    "bytes": 1000,
    "latency_ms": 2.0,
}


@pytest.mark.parametrize(
    ("name", "held", "missed", "figure"),
    [
        ("min_accuracy", 0.9, 0.91, "accuracy"),
        ("max_drop", 0.01, 0.009, "drop"),
        ("min_agreement", 0.95, 0.96, "agreement"),
        ("max_bytes", 1000, 999, "bytes"),
        ("max_latency_ms", 2.0, 1.9, "latency_ms"),
    ],
)
def test_a_limit_holds_up_to_itself(name, held, missed, figure):
    assert failures(FIGURES, Thresholds(**{name: held})) == []
    (words,) = failures(FIGURES, Thresholds(**{name: missed}))
    assert words.startswith(figure) and name in words


def test_no_limit_holds_always_and_nan_never():
    assert failures({}, Thresholds()) == []
    lost = {**FIGURES, "accuracy": float("nan")}
    assert failures(lost, Thresholds(min_accuracy=0.0))


def test_what_was_not_measured_cannot_be_judged():
    with pytest.raises(OptionError, match="'drop', so give a baseline_model"):
        failures({"accuracy": 0.9}, Thresholds(max_drop=0.1))
    with pytest.raises(OptionError, match="give latency_runs"):
        failures({"accuracy": 0.9}, Thresholds(max_latency_ms=1.0))


def test_limits_out_of_range_and_unknown():
    with pytest.raises(OptionError, match=r"min_accuracy must lie in \[0, 1\].*93"):
        Thresholds(min_accuracy=93)
    with pytest.raises(OptionError, match="max_bytes must not be negative"):
        Thresholds(max_bytes=-1)
    with pytest.raises(OptionError, match="No threshold 'min_acuracy'.*min_accuracy"):
        Thresholds.of({"min_acuracy": 0.9})
