#!/usr/bin/env bash
# fetch_fashion_mnist.sh FOLDER: puts Fashion-MNIST's IDX files into FOLDER/fashion-mnist.
#
# From Debian's package dataset-fashion-mnist, without installing it. Where that cannot be
# had, nothing is written: TensorFlow Datasets then downloads the data when it is needed.
set -euo pipefail
[ -d /usr/share/datasets/fashion-mnist ] && exit 0
[ -d "$1/fashion-mnist" ] && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if (cd "$work" && apt-get -qq download dataset-fashion-mnist) 2>"$work/error"; then
    dpkg-deb -x "$work"/*.deb "$work/root"
    mkdir -p "$1"
    mv "$work/root/usr/share/datasets/fashion-mnist" "$1/fashion-mnist"
else
    echo "No Debian package dataset-fashion-mnist here; TensorFlow Datasets will" \
        "download Fashion-MNIST when it is needed." >&2
fi
