#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# `mke2fs -d` builds two different images of a tree that nobody has changed, also where all that it draws by lot and the time
# are given (-U, -E hash_seed=, E2FSPROGS_FAKE_TIME, which its own tests use): it copies a file's time of access into the image
# and then reads the file, which moves that time. So the first image has the time from before, the second one that of the first
# build; the third is the second again, for a day, since a mount with `relatime` moves the time once. The manual page says
# that -d copies the contents of a folder, and nothing of times. mkfs.erofs and mksquashfs keep no time of access.
#
# Seen with Debian 12: e2fsprogs 1.47.0-2+b2; 1.47.2 and 1.47.4 do the same.
#
#   built   first   second  third
#   atime   2001    2026    2026
#   image   one     another the second again
#
# Unpacks the package, with what it depends on, into a temporary folder; needs Debian 12 (amd64), a folder for temporary files
# that is mounted with relatime (Linux' default), and no root. Ends with 0 while this is so, with 1 where it has changed.
set -eu

packages="e2fsprogs=1.47.0-2+b2"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
root=$folder/root
mkdir -p "$root" "$folder/archives/partial"

# an empty list of what is installed: all dependencies are named, and this machine's packages are left alone
: >"$folder/status"
# shellcheck disable=SC2086 # words
apt-get -qq -o Debug::NoLocking=1 -o Dir::State::status="$folder/status" -o Dir::Cache::archives="$folder/archives" \
	-o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root --no-install-recommends \
	--download-only --yes install $packages >"$folder/apt.log" 2>&1 || { cat "$folder/apt.log"; exit 1; }
for package in "$folder"/archives/*.deb; do
	dpkg-deb --fsys-tarfile "$package" | tar -C "$root" -xf - --exclude='./dev/*'
done

libraries=$root/lib/x86_64-linux-gnu:$root/usr/lib/x86_64-linux-gnu
run() { # run PROGRAM ARGUMENT...: a program of the folder on the folder's own libraries
	program=$root/sbin/$1
	[ -e "$program" ] || program=$root/usr/sbin/$1
	shift
	"$root/lib64/ld-linux-x86-64.so.2" --library-path "$libraries" "$program" "$@"
}
seed=8a5ad2a4-6c2d-4cb0-9c67-6a4d2c9f2b11
build() { # build NAME: an image of the tree; all that could differ is given
	E2FSPROGS_FAKE_TIME=1000000000 run mke2fs -q -F -t ext4 -U $seed -E hash_seed=$seed -d "$folder/tree" "$folder/$1" 4M
}
sum() { sha256sum <"$folder/$1" | cut -c1-12; }
year() { # year NAME: of the file's time of access, in the image
	run debugfs -R 'stat /file' "$folder/$1" 2>/dev/null | sed -n 's/^ *atime: .* \([0-9]*\)$/\1/p'
}

mkdir "$folder/tree"
echo "a file" >"$folder/tree/file"
touch -d '2001-02-03 04:05:06 UTC' "$folder/tree/file" "$folder/tree"
before=$(stat -c %Y:%s "$folder/tree/file" "$folder/tree")
run mke2fs -V 2>&1 | head -n 1
build first
build second
build third
printf 'atime   %s  %s  %s\n' "$(year first)" "$(year second)" "$(year third)"
printf 'image   %s  %s  %s\n' "$(sum first)" "$(sum second)" "$(sum third)"

[ "$before" = "$(stat -c %Y:%s "$folder/tree/file" "$folder/tree")" ] || { echo "the tree was changed"; exit 1; }
if [ "$(year first)" != 2001 ] || [ "$(year second)" = 2001 ] || [ "$(sum first)" = "$(sum second)" ]; then
	echo "changed: reading the tree makes no other image"
	exit 1
fi
[ "$(sum second)" = "$(sum third)" ] || { echo "changed: a third image differs too"; exit 1; }
echo "as described: the second image has the time at which the first was built"
