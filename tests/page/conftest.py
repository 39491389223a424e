"""Run folders for the page: the committed run, with all that a newer one holds."""

import base64
import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tfcompress.stages.disagreement import png

COMMITTED = Path("saved_models/digits/report.json")
LATENCY = {"median_ms": 0.02, "q1_ms": 0.019, "q3_ms": 0.023}


def full_report():
    """The committed report with a rolled back round, curves, errors of layers."""
    report = json.loads(COMMITTED.read_text())
    figures = {one["stage"]: one["figures"] for one in report["stages"]}
    compress, evaluate = figures["compress"], figures["evaluate"]
    back = copy.deepcopy(compress["rounds"][1])
    back |= {"accepted": False, "reason": "accuracy is worse by 0.0500, allowed 0.01"}
    back["fine_tuned"]["accuracy"] = 0.94
    back["after"]["macs"] = 250_000
    compress["rounds"].insert(1, back)
    names = [row["name"] for row in compress["layers"] if row["ranks"]]
    for index, entry in enumerate(compress["rounds"]):
        entry["history"] = {"kl": [0.1, 0.05, 0.02], "agreement": [0.9, 0.95, 0.97]}
        entry["sensitivity"] = {
            name: 0.001 * (i + 1) for i, name in enumerate(names) if index == 0
        }
    evaluate["rounds"] = {
        "before": {"latency": LATENCY},
        "rounds": [
            {"latency": {key: value * share for key, value in LATENCY.items()}}
            for share in (0.8, 0.4, 0.6)
        ],
    }
    error = {"layer": "stem_conv", "op": "CONV_2D", "dtype": "int8"}
    evaluate["layer_errors"] = {
        "samples": 64,
        "files": {
            "compressed int8": [
                error | {"relative": 0.01, "added": 0.01},
                error | {"layer": "logits", "relative": 0.02, "added": 0.01},
            ]
        },
    }
    return report


def disagreements(count=2):
    image = np.arange(64, dtype=np.float32).reshape(8, 8, 1) / 63
    return {
        "samples": 359,
        "total": count,
        "counts": {"compressed int8": count},
        "images": [
            {
                "index": 7 + i,
                "label": "8",
                "teacher": "8",
                "files": {"compressed int8": "3"},
                "png": base64.b64encode(png(image, (0.0, 1.0))).decode(),
            }
            for i in range(count)
        ],
    }


@pytest.fixture
def run_folder(tmp_path):
    """Makes a run folder; `change` edits its report."""

    def make(name="run", *, change=None, images=True):
        folder = tmp_path / name
        report = full_report()
        if change is not None:
            change(report)
        (folder / "05-evaluate").mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(report))
        if images:
            text = json.dumps(disagreements())
            (folder / "05-evaluate" / "disagreements.json").write_text(text)
        return folder

    return make


@pytest.fixture
def old_folder(tmp_path):
    """A run folder of before there were curves of rounds, images or layer errors."""
    folder = tmp_path / "old"
    folder.mkdir()
    shutil.copy(COMMITTED, folder / "report.json")
    return folder
