#!/bin/sh
# get-prometheus.sh FOLDER: Debian's prometheus and promtool, unpacked into FOLDER; installing the package would start a service.
set -eu
folder=$1
. "$(dirname "$0")/../studies/as-root.sh"

# apt wants its lists, which only root can fetch; the package itself anybody can.
unpack() {
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || return 1
    rm -rf "$folder" && mkdir -p "$folder"
    (cd "$folder" && apt-get -qq download prometheus && dpkg -x prometheus_*.deb . && rm prometheus_*.deb) 2>.stamps/prometheus.log
}

if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
    echo "prometheus: this machine's own is used for tests"
elif unpack || { as_root apt-get -qq update 2>/dev/null && unpack; }; then
    echo "prometheus: unpacked Debian's for tests"
else
    echo "no prometheus: the tests that scrape with a real one are skipped (try: apt-get install prometheus)"
fi
