#!/bin/sh
# make-venv.sh PYTHON FOLDER: a virtual environment with pip. Debian keeps that half of Python in a package.
set -eu
. "$(dirname "$0")/as-root.sh"
python=$1
folder=$2

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "joulebook needs Python 3.11 or newer, and $python is not" >&2
    echo "  try: make PYTHON=python3.12 ..." >&2
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    version=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    echo "$python cannot make environments with pip: installing Debian's $version"
    if ! apt_install "$version"; then
        echo "could not install $version (no root without a password, or no apt)" >&2
        echo "  try: apt-get install $version" >&2
        exit 1
    fi
fi
"$python" -m venv --clear "$folder"
