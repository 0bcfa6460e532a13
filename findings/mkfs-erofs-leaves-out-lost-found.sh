#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# mkfs.erofs 1.5 leaves out whatever has a name that begins with "lost+found", at any depth, file or folder, with all that is
# in it. It says nothing, not at -d9 either, and ends with 0; neither its help nor its manual page knows of it. Other builders
# expect a folder of just that name at the top, which fsck has made; a container's image has no reason to be without
# its lost+found.txt. From 1.6 on nothing is left out.
#
# Seen with Debian 12: erofs-utils 1.5-1.
#
#   given  ./found ./folder/found ./folder/lost+found.txt ./folder/lost+found/a ./lost+found-2/b ./lost+found/c
#   built  ./folder/found ./found
#   inodes 4, of 11
#
# Unpacks the package, with what it depends on, into a temporary folder; needs Debian 12 (amd64) and no root. Ends with 0
# while this is so, with 1 where it has changed.
set -eu

packages="erofs-utils=1.5-1"
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
	program=$root/usr/bin/$1
	shift
	"$root/lib64/ld-linux-x86-64.so.2" --library-path "$libraries" "$program" "$@"
}
names() { # names FOLDER: the files that are in it, in a line
	(cd "$1" && find . -type f | LC_ALL=C sort | tr '\n' ' ')
}

tree=$folder/tree
mkdir -p "$tree/lost+found" "$tree/lost+found-2" "$tree/folder/lost+found"
for file in found lost+found/c lost+found-2/b folder/found folder/lost+found.txt folder/lost+found/a; do
	echo "content of $file" >"$tree/$file"
done

run mkfs.erofs -d9 "$folder/image" "$tree" >"$folder/mkfs.log" 2>&1 || { cat "$folder/mkfs.log"; exit 1; }
run fsck.erofs --extract="$folder/built" "$folder/image" >"$folder/fsck.log" 2>&1 || { cat "$folder/fsck.log"; exit 1; }
# the builder's own number, so that it is not the reader who skips them: the top, what is in it, and no more
inodes=$(run dump.erofs -s "$folder/image" 2>/dev/null | sed -n 's/^Filesystem inode count: *//p')
given=$(find "$tree" | wc -l)

grep -a -m 1 '^mkfs.erofs' "$folder/mkfs.log"
printf 'given  %s\nbuilt  %s\ninodes %s, of %s\n' "$(names "$tree")" "$(names "$folder/built")" "$inodes" "$given"
if grep -a -i 'lost+found' "$folder/mkfs.log"; then echo "changed: mkfs.erofs says so"; exit 1; fi
if [ "$(names "$folder/built")" != "./folder/found ./found " ] || [ "$inodes" != 4 ]; then
	echo "changed: other files are in the image"
	exit 1
fi
echo "as described: all names that begin with lost+found are left out"
