#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# mount(8) of util-linux 2.39 and later cannot mount an overlay whose `lowerdir=` is longer than 255 bytes, which is four or
# five layers in an engine's storage. It gives each option to the kernel by fsconfig(2), and FSCONFIG_SET_STRING takes 255
# bytes; mount(2), which it used before, takes 4095 of all options. The message is that of a wrong type or a bad superblock, and
# the kernel's log has nothing, since no file system has seen the option. So what /proc/mounts shows of an overlay cannot be
# mounted again on the same machine. The manual page speaks of "well-known issues" for which mount(2) is still used, and means
# others; LIBMOUNT_FORCE_MOUNT2=always asks for it.
#
# Seen with Debian 13: mount 2.41.5-0+deb13u1; 2.42.4 does the same, 2.38.1 (Debian 12) does not.
#
#   lowerdir   255 bytes   by default   mounted
#   lowerdir   256 bytes   by default   wrong fs type, bad option, bad superblock on overlay, ...
#   lowerdir   256 bytes   mount(2)     mounted
#
# Unpacks the package, with what it depends on, into a temporary folder; needs a Debian (amd64), Linux 5.2 or newer, and root.
# What it mounts is in a mount namespace of its own. Ends with 0 while this is so, with 1 where it has changed.
set -eu

packages="mount=2.41.5-0+deb13u1"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
root=$folder/root
mkdir -p "$root" "$folder/archives/partial" "$folder/lists/partial"

# Debian 13's lists, beside this machine's, from the archive that it uses; and an empty list of what is installed: all
# dependencies are named, and this machine's packages are left alone
# shellcheck disable=SC2016 # apt's own word
archive=$(apt-get indextargets --format '$(REPO_URI)' | grep '/debian/*$' | head -n 1)
[ -n "$archive" ] || { echo "apt knows no archive of Debian's here"; exit 1; }
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive trixie main" \
	>"$folder/sources.list"
: >"$folder/status"
apt() {
	apt-get -qq -o Debug::NoLocking=1 -o Dir::State::status="$folder/status" -o Dir::State::lists="$folder/lists" \
		-o Dir::Etc::sourcelist="$folder/sources.list" -o Dir::Etc::sourceparts=- -o Dir::Cache::archives="$folder/archives" \
		-o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root "$@" >"$folder/apt.log" 2>&1 ||
		{ cat "$folder/apt.log"; exit 1; }
}
apt -o Acquire::Languages=none update
# shellcheck disable=SC2086 # words
apt --no-install-recommends --download-only --yes install $packages
for package in "$folder"/archives/*.deb; do
	dpkg-deb --fsys-tarfile "$package" | tar -C "$root" -xf - --exclude='./dev/*'
done

cat >"$folder/lines.sh" <<'LINES'
# lines.sh ROOT FOLDER: three lines; in mounts of its own
set -eu
root=$1 folder=$2
mkdir "$folder/place"
mount -t tmpfs none "$folder/place"
cd "$folder/place"
mkdir top
setting=
library=$root/lib/x86_64-linux-gnu:$root/usr/lib/x86_64-linux-gnu
loader=$root/lib64/ld-linux-x86-64.so.2
[ -e "$loader" ] || loader=$root/usr/lib64/ld-linux-x86-64.so.2
new_mount() { # new_mount ARGUMENT...: the package's, on its own libraries
	env $setting "$loader" --library-path "$library" "$root/usr/bin/mount" "$@"
}
line() { # line BYTES WORD [VARIABLE=VALUE]: two lower folders whose names have this length together, with the colon
	one=$(printf 'one-%0123d' 0) two=$(printf "two-%0$(($1 - 4 - 127 - 1))d" 0)
	mkdir -p "$one" "$two"
	lower=$one:$two
	[ ${#lower} = "$1" ]
	setting=${3:-}
	if said=$(new_mount -t overlay overlay -o "lowerdir=$lower" top 2>&1); then
		said=mounted
		umount top
	fi
	printf 'lowerdir   %s bytes   %-10s   %s\n' "$1" "$2" "$(echo "$said" | sed -n '1s/^mount: [^ ]*: //;1p')"
}
new_mount --version | cut -d' ' -f1-4
line 255 'by default'
line 256 'by default'
line 256 'mount(2)' LIBMOUNT_FORCE_MOUNT2=always
LINES
unshare --mount sh "$folder/lines.sh" "$root" "$folder" >"$folder/lines" 2>&1 || { cat "$folder/lines"; exit 1; }

cat "$folder/lines"
[ "$(grep -c ' mounted$' "$folder/lines")" = 2 ] || { echo "changed: not as long as that"; exit 1; }
grep -q '256 bytes   by default   wrong fs type' "$folder/lines" || { echo "changed: it takes more"; exit 1; }
echo "as described: an option of 256 bytes is not mounted, and mount(2) would take it"
