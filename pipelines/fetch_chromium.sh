#!/usr/bin/env bash
# fetch_chromium.sh: sees to a Chromium or Chrome, which the tests of the report page drive.
#
# Takes one that is there. Else installs Debian's package, where that is possible. Else
# says so, and ends well: the other tests can still run, those of the page then fail.
set -euo pipefail
for name in chromium chromium-browser google-chrome google-chrome-stable; do
    command -v "$name" >/dev/null && exit 0
done
[ -x "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    install() { DEBIAN_FRONTEND=noninteractive apt-get -qq install -y chromium; }
    # On Ubuntu this package only points to a snap, which may leave nothing to run.
    if (install || (apt-get -qq update && install)) >/dev/null 2>&1 &&
        command -v chromium >/dev/null; then
        exit 0
    fi
fi
echo "There is no Chromium here, and it cannot be installed: the tests of the report" \
    "page will fail. Install chromium or google-chrome (Debian: apt-get install" \
    "chromium, as root)." >&2
