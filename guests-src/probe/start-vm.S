/* SPDX-License-Identifier: Apache-2.0 */
/*
 * start-vm.S - where both entries of the virtual-machine images meet, in long
 * mode with the probe's own page tables: %rdi = the loader's structure, %edx =
 * the C function that takes it. And the interrupt entry points.
 */
        .text
        .code64
        .globl  vm_entry64
vm_entry64:
        movl    $0x10, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        xorl    %eax, %eax
        movl    %eax, %fs
        movl    %eax, %gs
        movl    $boot_stack_top, %esp
        xorl    %ebp, %ebp
        movl    %edx, %eax
        call    *%rax                     /* does not return */
1:      hlt
        jmp     1b

/*
 * Exceptions 0 to 31, 16 bytes each. Those without an error code push a 0, so
 * that vm_fault(vector, error, address of the instruction) finds all the same.
 */
        .balign 16
        .globl  exception_stubs
exception_stubs:
        vector = 0
        .rept   32
        .balign 16
        .if     !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
        pushq   $0
        .endif
        pushq   $vector
        jmp     exception_common
        vector = vector + 1
        .endr

exception_common:
        popq    %rdi
        popq    %rsi
        popq    %rdx
        andq    $-16, %rsp
        call    vm_fault                  /* does not return */

/* An interrupt only has to end a HLT; the local APIC wants to hear of it. */
        .balign 16
        .globl  wake_stub
wake_stub:
        pushq   %rax
        movl    $0xfee000b0, %eax
        movl    $0, (%rax)
        popq    %rax
        iretq

        .balign 16
        .globl  ignore_stub
ignore_stub:
        iretq

        .bss
        .balign 16
        .skip   64 * 1024
        .globl  boot_stack_top
boot_stack_top:

        .section .note.GNU-stack, "", @progbits
