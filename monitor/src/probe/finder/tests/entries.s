# Beginnings of functions, each with its own reason for where a probe may be.
.macro function name
.globl \name
.type \name, @function
\name:
.endm
.macro end name
.size \name, . - \name
.p2align 4, 0xcc
.endm
.text
.p2align 4, 0xcc
function SSL_write                  # endbr64, then a push: the stack is as it was
    endbr64
    push %rbp
    pop %rbp
    ret
end SSL_write
function SSL_read                   # the stack moves, no argument does
    sub $24, %rsp
    test %edx, %edx
    js 1f
    mov %edx, %eax
1:  add $24, %rsp
    ret
end SSL_read
function SSL_peek                   # the second argument is gone before the push
    xor %esi, %esi
    push %rbp
    pop %rbp
    ret
end SSL_peek
function SSL_write_ex               # a loop leads behind the first instruction
    endbr64
1:  push %rbp
    pop %rbp
    dec %edx
    jnz 1b
    ret
end SSL_write_ex
function SSL_read_ex                # a cold part far away leads there
    endbr64
read_ex_again:
    push %rbp
    test %edx, %edx
    js read_ex_cold
    pop %rbp
    ret
end SSL_read_ex
function SSL_free                   # the first instruction is cheap
    push %rbx
    pop %rbx
    ret
end SSL_free
function SSL_shutdown               # the branch depends on memory
    jmp *16(%rdi)
end SSL_shutdown
.section .text.unlikely, "ax"
.skip 4096, 0xcc
read_ex_cold:
    pop %rbp
    jmp read_ex_again
