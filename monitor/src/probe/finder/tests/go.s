# A Go program in little: a function table, and methods that begin and end as Go's do. MAGIC chooses the version, TEXT what it says of its
# text, FOREIGN puts code before it.
.text
.p2align 4, 0xcc
#ifdef FOREIGN
    movabs $0x1234567890abcdef, %rax
    .skip 80, 0x55
    ret
.p2align 4, 0x00
#endif
text:
.globl go_write, go_read, write_return_1, write_return_2, read_return, go_write_push
go_write:
#ifdef STACK
    mov %fs:-8, %rcx
    cmp 16(%rcx), %rsp
#else
    cmp 16(%r14), %rsp
#endif
    jbe 2f
go_write_push:
    push %rbp
    test %rbx, %rbx
    je 1f
    pop %rbp
write_return_1:
    ret
1:  pop %rbp
write_return_2:
    ret
2:  call more_stack
    jmp go_write
.p2align 4, 0xcc
go_read:
#ifdef STACK
    mov %fs:-8, %rcx
    cmp 16(%rcx), %rsp
#else
    cmp 16(%r14), %rsp
#endif
    jbe 1f
    sub $16, %rsp
    movabs $0xc3c3c3c3c3c3c3c3, %rax    # no return, though it looks like one
    add $16, %rsp
read_return:
    ret
1:  call more_stack
    jmp go_read
.p2align 4, 0xcc
more_stack:
    ret
.p2align 4, 0xcc
.globl _start
_start:
    ret
.p2align 4, 0xcc
text_end:
.section .gopclntab, "a"
table:
    .long MAGIC
    .byte 0, 0, 1, 8
    .quad 4, 0
#ifdef TEXT
    .quad TEXT
#endif
    .quad names - table, 0, 0, 0, entries - table
names:
name_write: .asciz "crypto/tls.(*Conn).Write"
name_read: .asciz "crypto/tls.(*Conn).Read"
name_more: .asciz "runtime.morestack"
name_start: .asciz "main.mytls.(*Conn).Write"
.p2align 3
entries:
#ifdef TEXT
#define ENTRY(function) .long function - text
#else
#define ENTRY(function) .quad function
#endif
#ifdef TEXT
#define INFO(at) .long at - entries
#else
#define INFO(at) .quad at - entries
#endif
    ENTRY(go_write); INFO(info_write)
    ENTRY(go_read); INFO(info_read)
    ENTRY(more_stack); INFO(info_more)
    ENTRY(_start); INFO(info_start)
    ENTRY(text_end); INFO(entries)
info_write: ENTRY(go_write); .long name_write - names
info_read: ENTRY(go_read); .long name_read - names
info_more: ENTRY(more_stack); .long name_more - names
info_start: ENTRY(_start); .long name_start - names
