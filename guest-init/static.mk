# SPDX-License-Identifier: Apache-2.0
#
# How static programs are compiled: $(STATIC) -o PROGRAM FILE.c…. musl's libc makes them small where musl-gcc is
# installed (package musl-tools).

ifeq ($(origin CC),default)
CC := $(if $(shell command -v musl-gcc),musl-gcc,gcc)
endif
OUT ?= $(error OUT: the directory to write to)
CFLAGS ?= -Os -Wall -Wextra -Werror
# musl-gcc leaves out the kernel's headers, which are beside the libc's
KERNEL := $(if $(findstring musl,$(CC)),-idirafter /usr/include -idirafter /usr/include/$(shell uname -m)-linux-gnu)
STATIC = $(CC) -std=gnu11 $(CFLAGS) $(KERNEL) -static -s
