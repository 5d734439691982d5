#!/usr/bin/env bash
# Sets up a virtual environment with the package and all extras: tools/setup.sh [.venv]
# System libraries that are missing come from apt where that is permitted; otherwise the line to run is printed.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}

# Libraries that the wheels of open3d and SUMO link to, and the Debian/Ubuntu packages that bring them.
declare -A libraries=(
    [libGL.so.1]=libgl1
    [libEGL.so.1]=libegl1
    [libX11.so.6]=libx11-6
    [libXext.so.6]=libxext6
    [libXrender.so.1]=libxrender1
    [libatomic.so.1]=libatomic1
    [libexpat.so.1]=libexpat1
    [libgomp.so.1]=libgomp1
    [libidn2.so.0]=libidn2-0
    [libudev.so.1]=libudev1
    [libusb-1.0.so.0]=libusb-1.0-0
)

install_packages() {
    local apt="env DEBIAN_FRONTEND=noninteractive apt-get"
    if ! command -v apt-get >/dev/null; then
        echo "error: these are missing and there is no apt-get: $*; install them with your system's packages" >&2
        exit 1
    elif [ "$(id -u)" -ne 0 ]; then
        if ! sudo -n true 2>/dev/null; then
            echo "error: system packages are missing; run:  sudo apt-get install -y $*" >&2
            exit 1
        fi
        apt="sudo -n $apt" # env comes after sudo, which drops variables
    fi
    echo "installing system packages: $*"
    $apt update -qq
    $apt install -y -qq --no-install-recommends "$@" >/dev/null
}

# The first Python of a fitting version that can also make a virtual environment (Debian packs that apart). It is run,
# not only looked up: a version manager's shim is there even where its Python is not.
find_python() {
    local candidate
    for candidate in python3.12 python3.11 python3 python; do
        if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
            2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

missing=()
known=$(/sbin/ldconfig -p 2>/dev/null || ldconfig -p)
for library in "${!libraries[@]}"; do
    grep -q "$library" <<<"$known" || missing+=("${libraries[$library]}")
done
[ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"

python=$(find_python)
if [ -z "$python" ]; then
    install_packages python3 python3-venv
    python=$(find_python)
fi
if [ -z "$python" ]; then
    echo "error: needs Python 3.11 or 3.12 (nuscenes-devkit needs numpy 1); install one and run this again" >&2
    exit 1
fi

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi
echo "installing into $venv with $("$venv/bin/python" --version) (some minutes, about 7 GB)"
"$venv/bin/python" -m pip install -q -e '.[sim,viewer,fast,shards,peers,dev]'
