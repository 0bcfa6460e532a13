#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# QEMU's qboot starts a kernel with every PCI device's base address registers empty, SeaBIOS on the same machine with
# all of them assigned. qboot is a minimal firmware for Linux, which assigns them itself; a kernel that takes them from its
# firmware, as it may on a PC, reads 0xff from port 0 on for ever (Unikraft's legacy virtio driver, for example). Neither
# QEMU nor qboot says a word.
#
# Seen with Debian 12: qemu-system-x86 1:7.2+dfsg-7+deb12u18+b3, seabios 1.16.2-1, binutils 2.40-2.
#
#   qboot    00:01.0 1af4:1000 bar0=00000001 bar1=00000000 bar4=0000000c
#   SeaBIOS  00:01.0 1af4:1000 bar0=0000c041 bar1=febfe000 bar4=febf800c
#
# bar0 is virtio's legacy I/O window (bit 0: an I/O register), bar1 MSI-X, bar4 the modern registers (bits 2 and 3: 64 bits,
# prefetchable). Unpacks the packages, with what they depend on, into a temporary folder; needs Debian 12 (amd64) and no
# root. Ends with 0 while this is so, with 1 where it has changed.
set -eu

packages="qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3 seabios=1.16.2-1 binutils=2.40-2"
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
libraries=$libraries$(find "$root/usr/lib/x86_64-linux-gnu" -mindepth 1 -maxdepth 1 -type d -printf ':%p')
run() { # run PROGRAM ARGUMENT...: a program of the folder on the folder's own libraries
	program=$root/usr/bin/$1
	shift
	"$root/lib64/ld-linux-x86-64.so.2" --library-path "$libraries" "$program" "$@"
}

# a multiboot kernel that prints each function of bus 0 that is virtio's, with its registers, and ends QEMU
cat >"$folder/kernel.s" <<'KERNEL'
	.code32
	.section .text
	.long 0x1badb002, 0, -0x1badb002
	.globl _start
_start:	movl $stack, %esp
	xorl %ebx, %ebx			# slot
slot:	xorl %ecx, %ecx			# register
	call config
	cmpw $0x1af4, %ax
	jne next
	movl %eax, %edi
	movl $where, %esi
	call text
	movl %ebx, %eax
	call byte
	movl $device, %esi
	call text
	movl %edi, %eax
	call word
	movb $':', %al
	call letter
	movl %edi, %eax
	shrl $16, %eax
	call word
	movl $bar0, %esi
	movl $0x10, %ecx
	call bar
	movl $bar1, %esi
	movl $0x14, %ecx
	call bar
	movl $bar4, %esi
	movl $0x20, %ecx
	call bar
	movb $'\n', %al
	call letter
next:	incl %ebx
	cmpl $32, %ebx
	jb slot
	movw $0x501, %dx
	xorl %eax, %eax
	outl %eax, %dx
hang:	hlt
	jmp hang

config:	movl %ebx, %eax			# register %ecx of slot %ebx → %eax
	shll $11, %eax
	orl %ecx, %eax
	orl $0x80000000, %eax
	movw $0xcf8, %dx
	outl %eax, %dx
	movw $0xcfc, %dx
	inl %dx, %eax
	ret
bar:	pushl %ecx
	call text
	popl %ecx
	call config
	pushl %eax
	shrl $16, %eax
	call word
	popl %eax
word:	pushl %eax
	movb %ah, %al
	call byte
	popl %eax
byte:	pushl %eax
	shrb $4, %al
	call digit
	popl %eax
	andb $15, %al
digit:	addb $'0', %al
	cmpb $'9', %al
	jbe letter
	addb $'a' - '9' - 1, %al
letter:	movw $0x3f8, %dx
	outb %al, %dx
	ret
text:	lodsb
	testb %al, %al
	jz done
	call letter
	jmp text
done:	ret

	.section .data
where:	.asciz "00:"
device:	.asciz ".0 "
bar0:	.asciz " bar0="
bar1:	.asciz " bar1="
bar4:	.asciz " bar4="
	.section .bss
	.skip 4096
stack:
KERNEL
run x86_64-linux-gnu-as --32 -o "$folder/kernel.o" "$folder/kernel.s"
run x86_64-linux-gnu-ld -m elf_i386 -Ttext=0x100000 -N -o "$folder/kernel" "$folder/kernel.o" 2>/dev/null

boot() { # boot FIRMWARE: what the kernel prints
	QEMU_MODULE_DIR=$root/usr/lib/x86_64-linux-gnu/qemu run qemu-system-x86_64 -M q35 -accel tcg -m 64M -nodefaults \
		-no-user-config -display none -serial stdio -no-reboot -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" \
		-bios "$1" -kernel "$folder/kernel" -netdev hubport,id=n,hubid=0 -device virtio-net-pci,netdev=n,romfile= \
		-device isa-debug-exit,iobase=0x501,iosize=4 </dev/null 2>"$folder/qemu.log" | tr -d '\r' | grep '1af4:' || true
}

run qemu-system-x86_64 --version | head -n 1
qboot=$(boot qboot.rom)
seabios=$(boot bios-256k.bin)
printf 'qboot    %s\nSeaBIOS  %s\n' "$qboot" "$seabios"
case $qboot in
*" bar0=00000001 bar1=00000000 bar4=0000000c") ;;
*) echo "changed: qboot assigns addresses, or the kernel did not run: $(cat "$folder/qemu.log")"; exit 1 ;;
esac
case $seabios in
*bar0=00000001* | *bar1=00000000* | *bar4=0000000c* | "") echo "changed: SeaBIOS assigns none"; exit 1 ;;
esac
echo "as described: only SeaBIOS assigns addresses"
