/* SPDX-License-Identifier: Apache-2.0 */
/*
 * start-linux64.S - entry by the 64-bit Linux boot protocol, at the ELF entry
 * point, as Firecracker boots an ELF file without a PVH note: long mode with
 * some identity mapping, %rsi = address of struct boot_params.
 */
#include "boot-paging.inc"

        .text
        .code64
        .globl  start
start:
        cli
        cld
        BUILD_PAGE_TABLES
        movl    $boot_pml4, %eax
        movq    %rax, %cr3
        lgdt    boot_gdt_pointer
        movl    $boot_stack_top, %esp
        pushq   $0x08
        pushq   $1f
        movq    %rsi, %rdi                /* vm_main(boot_params, ...) */
        movl    $vm_entry_linux64, %edx
        lretq
1:      jmp     vm_entry64

        .section .note.GNU-stack, "", @progbits
