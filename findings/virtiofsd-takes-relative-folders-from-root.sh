#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# QEMU's virtiofsd (the one in C) takes a relative `-o source=` from two folders: when it starts it looks whether the name
# exists, below its working folder, and when QEMU has connected it shares what has that name below "/". In between is
# fuse_daemonize(), which goes to "/" also where it stays in the foreground (-f). So a guest is given another
# folder than the one named, without a word, or where "/" has none, the daemon ends after it had looked well. The manual page
# says nothing of paths. The virtiofsd in Rust is another program.
#
# Seen with Debian 12: qemu-system-common and qemu-system-x86 1:7.2+dfsg-7+deb12u18+b3.
#
#   source=usr     the machine's /usr is shared, not ./usr
#   source=only    chroot("only"): No such file or directory, once QEMU is there
#   source=proc    failed to stat source ("proc"): No such file or directory, at once
#
# Here ./usr and ./only exist, /usr and /proc. The default sandbox (namespace) does the same; chroot has one process only, in
# which the shared folder is to be seen. Unpacks the packages, with what they depend on, into a temporary folder; needs
# Debian 12 (amd64), and root (virtiofsd's own need). Ends with 0 while this is so, with 1 where it has changed.
set -eu

packages="qemu-system-common=1:7.2+dfsg-7+deb12u18+b3 qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3"
folder=$(mktemp -d)
daemon=
qemu=
end() { # both end by themselves with the other, but for a failure
	for pid in $qemu $daemon; do kill "$pid" 2>/dev/null || true; done
	wait
	rm -rf "$folder"
}
trap end EXIT
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
libraries=$libraries$(find "$root/usr/lib/x86_64-linux-gnu" -mindepth 1 -maxdepth 1 -type d -printf ':%p')
run() { # run PROGRAM ARGUMENT...: becomes a program of the folder on the folder's own libraries
	program=$root/usr/$1
	shift
	exec "$root/lib64/ld-linux-x86-64.so.2" --library-path "$libraries" "$program" "$@"
}
identity() { stat -Lc %d:%i "$1" 2>/dev/null || true; }
within() { # within TENTHS COMMAND...: waits until it succeeds
	left=$1
	shift
	until "$@"; do
		left=$((left - 1))
		[ "$left" -gt 0 ] || return 1
		sleep 0.1
	done
}
ended() { ! kill -0 "$1" 2>/dev/null; }
connected() { grep -q Received "$folder/virtiofsd.log"; }
moved() { ended "$daemon" || [ "$(identity "/proc/$daemon/root")" != "$(identity /)" ]; }

serve() { # serve NAME: $shared is the identity of what QEMU is given, empty if the daemon ends; $said its last line
	(cd "$folder/here" && run lib/qemu/virtiofsd -f --socket-path="$folder/socket" -o source="$1" -o sandbox=chroot \
		--rlimit-nofile=0) >"$folder/virtiofsd.log" 2>&1 &
	daemon=$!
	waiting() { ended "$daemon" || [ -S "$folder/socket" ]; }
	within 100 waiting
	(QEMU_MODULE_DIR=$root/usr/lib/x86_64-linux-gnu/qemu run bin/qemu-system-x86_64 -M q35,memory-backend=memory -accel tcg \
		-m 64M -object memory-backend-memfd,id=memory,size=64M,share=on -nodefaults -no-user-config -display none -S \
		-L "$root/usr/share/qemu" -L "$root/usr/share/seabios" -chardev socket,id=fs,path="$folder/socket" \
		-device vhost-user-fs-pci,chardev=fs,tag=shared) </dev/null >"$folder/qemu.log" 2>&1 &
	qemu=$!
	shared=
	if within 100 moved && ! ended "$daemon"; then shared=$(identity "/proc/$daemon/root"); fi
	kill "$qemu" 2>/dev/null || true
	within 50 ended "$daemon" || kill "$daemon"
	wait "$qemu" "$daemon" 2>/dev/null || true
	said=$(tail -n 1 "$folder/virtiofsd.log")
	when="at once"
	if connected; then when="once QEMU is there"; fi
	rm -f "$folder/socket"
}

[ "$(id -u)" = 0 ] || { echo "needs root"; exit 1; }
mkdir -p "$folder/here/usr" "$folder/here/only"
(run lib/qemu/virtiofsd --version) | head -n 1

serve usr
case $shared in
"$(identity /usr)") echo "source=usr   the machine's /usr is shared, not ./usr" ;;
*) echo "changed: '$shared' is shared, ./usr is $(identity "$folder/here/usr"): $said"; exit 1 ;;
esac
serve only
echo "source=only  $said, $when"
case "$shared/$when/$said" in
"/once QEMU is there/"*'("only"): No such file or directory') ;;
*) echo "changed: '$shared'"; exit 1 ;;
esac
serve proc
echo "source=proc  $said, $when"
case "$shared/$when/$said" in
"/at once/"*"No such file or directory") ;;
*) echo "changed: '$shared'"; exit 1 ;;
esac
echo "as described: looked for in the working folder, taken from /"
