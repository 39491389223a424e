"""Makes `saved_models/fashion_mnist/`: networks, their compressed forms, model cards.

    make saved-models      # about two hours on two cores; makes what is missing
    python pipelines/saved_models.py --only vgg    # one network, beside another process

A model whose card and files are there is left as it is; delete the card to make it
anew. Every file comes out of a recipe in `pipelines/recipes/`; the card names the
command, and holds nothing but what the run measured on the files.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from tfcompress.files import file_hash, write_atomically
from tfcompress.progress import TerminalDisplay
from tfcompress.recipe import load_recipe
from tfcompress.runner import run_recipe

MODELS = Path("saved_models/fashion_mnist")
RUNS = Path("runs/saved_models")
RECIPES = Path("pipelines/recipes")

# What the recipe is told beside what it says.
NETWORKS = {"resnet20": (), "vgg": ("teacher.network={network: vgg, width: 16}",)}
BUDGETS = {"2x": 0.5, "4x": 0.25, "8x": 0.125}

FORMS = ("float32", "int8")
# How the recipes call the int8 file: of a compressed network it is `auto`'s.
QUANTIZED = {"teacher": "int8", "compressed": "auto"}

# Of the figures in a card, on another processor: it rounds differently.
TOLERANCE = 0.002


def make(network: str) -> None:
    """Trains a network, compresses it to every budget, writes files and cards."""
    _run(network, "teacher", RECIPES / "fashion_mnist.yaml", NETWORKS[network])
    for name, share in BUDGETS.items():
        overrides = (
            f"teacher.network.load={MODELS / network}.keras",
            f"compress.target.macs={share}",
        )
        recipe = RECIPES / "fashion_mnist_compress.yaml"
        _run(f"{network}_{name}", "compressed", recipe, overrides)


def _run(name: str, made: str, recipe: Path, overrides: tuple[str, ...]) -> None:
    folder = RUNS / name
    command = " ".join(
        [
            f"tfcompress run {recipe} --output {folder}",
            *(f"--set '{option}'" for option in overrides),
        ]
    )
    loaded = load_recipe(recipe, overrides)
    if _is_made(name, loaded.to_dict()):
        return
    with TerminalDisplay() as display:
        report = run_recipe(loaded, folder, display=display)
    MODELS.mkdir(parents=True, exist_ok=True)
    files = {}
    quantized = QUANTIZED[made]
    for ending in (".keras", "_float32.tflite", f"_{quantized}.tflite"):
        (source,) = folder.glob(f"*/{made}{ending}")
        target = MODELS / f"{name}{ending.replace(quantized, 'int8')}"
        shutil.copyfile(source, target)
        files[target.name] = target
    card = card_of(name, made, report, files, command)
    write_atomically(MODELS / f"{name}.json", json.dumps(card, indent=1) + "\n")
    write_atomically(MODELS / f"{name}.md", to_markdown(card))


def _is_made(name: str, recipe: dict[str, Any]) -> bool:
    """Whether the files of a card are there, and made by this recipe."""
    path = MODELS / f"{name}.json"
    if not path.exists():
        return False
    card = json.loads(path.read_text())
    return card["recipe"] == json.loads(json.dumps(recipe)) and all(
        (MODELS / file).exists() and file_hash(MODELS / file) == said["sha256"]
        for file, said in card["files"].items()
    )


def card_of(
    name: str,
    made: str,
    report: dict[str, Any],
    files: dict[str, Path],
    command: str,
) -> dict[str, Any]:
    """The model card as plain data.

    Args:
        name: of the model.
        made: what the report calls it: "teacher" or "compressed".
        report: of the run.
        files: the model's files by name.
        command: that makes them.
    """
    figures = {stage["stage"]: stage["figures"] for stage in report["stages"]}
    rows = {row["name"]: row for row in figures["evaluate"]["files"]}
    first = rows["teacher float32"]
    measured = {}
    for form, source in zip(FORMS, ("float32", QUANTIZED[made]), strict=True):
        row = rows[f"{made} {source}"]
        measured[f"{name}_{form}.tflite"] = {
            "accuracy": row["accuracy"],
            "agreement_with_dense": row["agreement"],
            "agreement_with_keras": row["agreement_with_keras"],
            "max_abs_difference_to_keras": row["max_abs_difference_to_keras"],
            "bytes": row["bytes"],
            "latency_ms": row["latency"]["median_ms"],
            "latency_of_dense_ms": first["latency"]["median_ms"],
        }
    row = rows[f"{made} float32"]
    auto = figures["export_tflite"].get("auto", {"chosen": "int8"})
    return {
        "name": name,
        "task": "Fashion-MNIST: grey images of 28x28 pixels from 0 to 1, ten logits",
        "command": command,
        "recipe": report["recipe"],
        "seed": report["recipe"]["seed"],
        "dataset": report["dataset"],
        "test_images": row["samples"],
        "tolerance": TOLERANCE,
        "versions": {"tfcompress": report["tfcompress"], **report["packages"]},
        "params": row["params"],
        "macs": row["macs"],
        "macs_of_dense": first["macs"],
        "accuracy_of_dense": first["accuracy"],
        "int8": auto["chosen"],
        "files": {
            file: {"sha256": file_hash(path), **measured.get(file, {})}
            for file, path in files.items()
        },
    }


def to_markdown(card: dict[str, Any]) -> str:
    """The model card for readers."""
    sizes = card["dataset"]["sizes"]
    lines = [
        f"# {card['name']}",
        "",
        f"{card['task']}. {card['params']:,} params, {card['macs']:,} MACs "
        f"({card['macs_of_dense'] / card['macs']:.2f}x fewer than the dense network, "
        f"whose test accuracy is {100 * card['accuracy_of_dense']:.2f} %).",
        "",
        f"Data: {', '.join(f'{count:,} {split}' for split, count in sizes.items())} "
        f"images; seed {card['seed']}; tfcompress {card['versions']['tfcompress']}.",
        "",
        f"Measured on the files: accuracy on {card['test_images']:,} test images, "
        "latency of one image on one thread, in turns with the dense float32 file "
        f"(in brackets). The int8 file was made by: {card['int8']}.",
        "",
        "| file | bytes | accuracy | same class as the dense network | latency, ms |",
        "| --- | --- | --- | --- | --- |",
    ]
    for file, row in card["files"].items():
        if "accuracy" in row:
            lines.append(
                f"| {file} | {row['bytes']:,} | {100 * row['accuracy']:.2f} % | "
                f"{100 * row['agreement_with_dense']:.2f} % | "
                f"{row['latency_ms']:.3f} ({row['latency_of_dense_ms']:.3f}) |"
            )
    return "\n".join([*lines, "", "Made by:", "", f"    {card['command']}", ""])


def to_index(cards: list[dict[str, Any]]) -> str:
    """One table of all models, for `README.md`."""
    header = ["network", "params", "MACs"]
    for figure in ("accuracy", "bytes", "time"):
        header += [f"{figure}, float32", "int8"]
    lines = [
        "# Networks for Fashion-MNIST",
        "",
        "A ResNet-20 of width 16, a VGG-style network, and what `compress` made of",
        "them. The card of each (`.md`, `.json`) has its recipe, data and command.",
        "",
        f"| {' | '.join(header)} |",
        f"|{' --- |' * len(header)}",
    ]
    for card in sorted(cards, key=lambda card: (card["name"][:3], -card["macs"])):
        forms = [card["files"][f"{card['name']}_{f}.tflite"] for f in FORMS]
        cells = [
            f"[{card['name']}]({card['name']}.md)",
            f"{card['params']:,}",
            f"{card['macs']:,}",
            *(f"{100 * form['accuracy']:.2f} %" for form in forms),
            *(f"{form['bytes']:,}" for form in forms),
            *(
                f"{form['latency_ms'] / form['latency_of_dense_ms']:.2f}"
                for form in forms
            ),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [
            *lines,
            "",
            "Accuracy on the 10,000 test images. Time: of one image on one thread,",
            "over that of the dense network's float32 file, measured in turns with it.",
            "",
        ]
    )


def write_index() -> None:
    """Brings `README.md` beside the models up to date."""
    cards = [json.loads(path.read_text()) for path in MODELS.glob("*.json")]
    write_atomically(MODELS / "README.md", to_index(cards))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=NETWORKS, help="one network")
    arguments = parser.parse_args()
    for network in [arguments.only] if arguments.only else NETWORKS:
        make(network)
    write_index()


if __name__ == "__main__":
    main()
