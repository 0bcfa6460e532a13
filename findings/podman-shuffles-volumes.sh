#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Podman 4.3 hands a runtime the volumes of one command line in another order each time. `-v` stands in an order, and so do
# the `mounts` of config.json ("The runtime MUST mount entries in the listed order", OCI runtime specification); between the
# two is a Go map, sorted by the destinations' depth alone. To mount them that is enough. A runtime that counts them (a virtual
# machine, whose first disk is the first volume) has one volume in another's place in some containers of the same command,
# and not in others. The manual page says nothing of an order.
#
# Seen with Debian 12: podman 4.3.1+ds1-8+deb12u1+b3, crun 1.8.1-1+deb12u1.
#
#   podman create -v /one:/one -v /two:/two -v /three:/three -v /four:/four image
#    1  /one /two /three /four
#    2  /four /one /two /three
#    3  /two /three /four /one
#
# Takes the order of 12 containers from their config.json, which `podman init` writes before it asks the runtime; no program
# of a container runs. Unpacks the packages, with what they depend on, into a temporary folder, where Podman has all its files;
# needs Debian 12 (amd64), and root. Ends with 0 while this is so, with 1 where it has changed.
set -eu

packages="podman=4.3.1+ds1-8+deb12u1+b3 crun=1.8.1-1+deb12u1"
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
for name in one two three four image places proc sys dev run tmp var/tmp; do mkdir -p "$root/$name"; done
echo "a file" >"$root/image/file"
tar -C "$root/image" -cf "$root/image.tar" .

cat >"$folder/orders.sh" <<'ORDERS'
# orders.sh ROOT: 12 lines; in mounts of its own, so that Podman sees the packages' configuration alone, and leaves nothing
set -eu
root=$1
mount --bind "$root" "$root" # Podman unpacks in a root that is a mount
for name in proc sys dev; do mount --rbind "/$name" "$root/$name"; done
for name in run tmp places; do mount -t tmpfs none "$root/$name"; done
podman() {
	env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/places chroot "$root" /usr/bin/podman --root /places/root \
		--runroot /places/run --tmpdir /places/temporary --storage-driver vfs --cgroup-manager cgroupfs \
		--events-backend none --runtime crun "$@"
}
podman --version
podman import -q /image.tar image >/dev/null
for number in 1 2 3 4 5 6 7 8 9 10 11 12; do
	id=$(podman create --network none --cgroups disabled -v /one:/one -v /two:/two -v /three:/three -v /four:/four image /file)
	podman init "$id" >"$root/places/log" 2>&1 || true # the file comes first, wherever crun may make no container
	config=$root/places/root/vfs-containers/$id/userdata/config.json
	[ -f "$config" ] || { cat "$root/places/log"; exit 1; }
	order=$(tr ',{' '\n\n' <"$config" | sed -n 's/.*"destination":"\(\/one\|\/two\|\/three\|\/four\)".*/\1/p' | tr '\n' ' ')
	printf '%2d  %s\n' "$number" "$order"
	podman rm -f "$id" >/dev/null
done
ORDERS
unshare --mount sh "$folder/orders.sh" "$root" >"$folder/orders" 2>&1 || { cat "$folder/orders"; exit 1; }

cat "$folder/orders"
orders=$(sed -n 's/^ *[0-9]*  //p' "$folder/orders")
for name in one two three four; do
	[ "$(echo "$orders" | grep -c "/$name ")" = 12 ] || { echo "changed: not all have /$name"; exit 1; }
done
[ "$(echo "$orders" | sort -u | wc -l)" -gt 1 ] || { echo "changed: one order in all of them"; exit 1; }
echo "as described: the same volumes in different orders"
