/* SPDX-License-Identifier: Apache-2.0 */
/*
 * start-pvh.S - entry by the PVH boot protocol: 32-bit protected mode without
 * paging, %ebx = address of struct hvm_start_info. The note below is how a
 * loader (QEMU -kernel, Firecracker) finds the entry point.
 */
#include "boot-paging.inc"

        .section .note.Xen, "a", @note
        .balign 4
        .long   4                         /* size of the name */
        .long   8                         /* size of the content */
        .long   18                        /* XEN_ELFNOTE_PHYS32_ENTRY */
        .asciz  "Xen"
        .quad   start

        .text
        .code32
        .globl  start
start:
        cli
        cld
        movl    %ebx, %esi
        BUILD_PAGE_TABLES
        movl    $boot_pml4, %eax
        movl    %eax, %cr3
        movl    $0x20, %eax               /* CR4: PAE */
        movl    %eax, %cr4
        movl    $0xc0000080, %ecx         /* EFER: long mode */
        rdmsr
        orl     $0x100, %eax
        wrmsr
        movl    $0x80000031, %eax         /* CR0: PG, NE, ET, PE */
        movl    %eax, %cr0
        lgdt    boot_gdt_pointer
        movl    %esi, %edi                /* vm_main(start_info, ...) */
        movl    $vm_entry_pvh, %edx
        ljmp    $0x08, $1f
        .code64
1:      jmp     vm_entry64

        .section .note.GNU-stack, "", @progbits
