# Sourced. `as_root COMMAND...` runs a command as root where that needs no password, and fails elsewhere.

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo -n "$@"
    else
        return 1
    fi
}

# apt_install PACKAGE: with one `apt-get update` before the first. Fails where there is no apt or no root.
apt_install() {
    command -v apt-get >/dev/null || return 1
    as_root true || return 1
    mkdir -p .stamps
    if [ ! -f .stamps/apt ]; then
        as_root apt-get -qq update >.stamps/apt.log 2>&1 || return 1
        touch .stamps/apt
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
        -o DPkg::Lock::Timeout=120 install "$1" >>.stamps/apt.log 2>&1
}
