//! The program that the trial's guest runs: what the first milliseconds of a stock kernel ask of a processor.
//!
//! Real mode, protected mode, long mode with page tables of its own, `cpuid`, exceptions through its own table, a page fault that it
//! mends, the way to ring 3 and back by `syscall`, `swapgs`, and a loop that a processor ends at once and an emulator does not. It tells
//! its progress by bytes written to port 0x80, where PCs put their power-on self-test codes.

#![expect(unsafe_code, reason = "a guest program in assembly, found by its symbols")]

use std::{arch::global_asm, slice};

/// Where the program lies in guest memory and begins, in real mode, with all segments at 0.
pub(super) const LOAD: u64 = 0x1000;
/// Memory from 0 that the guest uses: the first large page is mapped at once, the second by its page fault handler.
pub(super) const MEMORY: usize = 4 << 20;
/// The port of power-on self-test codes.
pub(super) const PORT: u16 = 0x80;

/// How far a guest came: the last thing that worked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing was seen to work.
    Nothing,
    /// Its first instructions, in real mode.
    RealMode,
    /// Protected mode.
    ProtectedMode,
    /// Long mode, with page tables of its own.
    LongMode,
    /// Exceptions, through an interrupt descriptor table of its own.
    Exceptions,
    /// A page fault that it mended.
    PageFaults,
    /// Ring 3 and back by `syscall`.
    UserMode,
    /// Everything, at the speed of a processor.
    Done,
}

impl Stage {
    const ALL: [Self; 8] = [
        Self::Nothing,
        Self::RealMode,
        Self::ProtectedMode,
        Self::LongMode,
        Self::Exceptions,
        Self::PageFaults,
        Self::UserMode,
        Self::Done,
    ];

    /// The stage that a byte at [`PORT`] announces.
    pub(super) fn announced(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied().filter(|stage| *stage != Self::Nothing)
    }

    /// What comes after it, in words: where a guest that came no further failed.
    pub fn next(self) -> &'static str {
        match self {
            Self::Nothing => "its first instruction",
            Self::RealMode => "entering protected mode",
            Self::ProtectedMode => "entering long mode",
            Self::LongMode => "its first exception",
            Self::Exceptions => "its first page fault",
            Self::PageFaults => "entering user mode",
            Self::UserMode => "running at a processor's speed",
            Self::Done => "halting",
        }
    }
}

global_asm!(
    r#"
    .pushsection .rodata.sandbar_kvm_guest, "a", @progbits
    .hidden sandbar_kvm_guest_start
    .hidden sandbar_kvm_guest_end
    .globl sandbar_kvm_guest_start
    .globl sandbar_kvm_guest_end
    .set .Lload, 0x1000         // `LOAD`
    .set .Lstack, 0x7000
    .set .Lidt, 0x8000          // page tables: 0x9000 -> 0xa000 -> 0xb000; the task state segment: 0xc000
    .balign 16
sandbar_kvm_guest_start:
    .code16
    cli
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, .Lstack
    mov al, 1
    out 0x80, al
    lgdtd [.Lgdt_pointer_at]
    mov eax, cr0
    or al, 1                    // PE
    mov cr0, eax
    .byte 0x66, 0xea            // far jump: the assembler takes no such operand here
    .long .Lprotected_at
    .word 0x08

    .code32
.Lprotected:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, .Lstack
    mov al, 2
    out 0x80, al
    mov dword ptr [0x9000], 0xa007
    mov dword ptr [0xa000], 0xb007
    mov dword ptr [0xb000], 0x87        // the first 2 MiB as one page, for ring 3 too
    mov eax, cr4
    or eax, 0x220                       // PAE, OSFXSR
    mov cr4, eax
    mov eax, 0x9000
    mov cr3, eax
    mov ecx, 0xc0000080                 // EFER
    rdmsr
    or eax, 0x101                       // LME, SCE
    wrmsr
    mov eax, cr0
    and eax, 0xfffffffb                 // not EM
    or eax, 0x80000002                  // PG, MP
    mov cr0, eax
    .byte 0xea
    .long .Llong_at
    .word 0x18

    .code64
.Llong:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov rsp, .Lstack
    mov al, 3
    out 0x80, al
    xor eax, eax
    cpuid
    test eax, eax
    jz .Lfail

    lea rsi, [rip + .Lon_breakpoint]
    mov edi, .Lidt + 3 * 16
    call .Lgate
    lea rsi, [rip + .Lon_undefined]
    mov edi, .Lidt + 6 * 16
    call .Lgate
    lea rsi, [rip + .Lon_page_fault]
    mov edi, .Lidt + 14 * 16
    call .Lgate
    lidt [rip + .Lidt_pointer]
    xor ebx, ebx                        // exceptions so far
    int3
    cmp ebx, 1
    jne .Lfail
    ud2
    cmp ebx, 2
    jne .Lfail
    mov al, 4
    out 0x80, al

    mov eax, 0x200000
    mov dword ptr [rax], 0x1234         // not mapped: the handler maps it
    cmp ebx, 3
    jne .Lfail
    cmp dword ptr [rax], 0x1234
    jne .Lfail
    mov al, 5
    out 0x80, al

    mov ecx, 0xc0000081                 // STAR: kernel segments from 0x18, user segments from 0x20
    xor eax, eax
    mov edx, 0x00200018
    wrmsr
    mov ecx, 0xc0000082                 // LSTAR
    lea rax, [rip + .Lon_syscall]
    xor edx, edx
    wrmsr
    mov ecx, 0xc0000084                 // FMASK
    mov eax, 0x200
    wrmsr
    mov ecx, 0xc0000102                 // KERNEL_GS_BASE
    mov eax, .Lload
    wrmsr
    mov ax, 0x40
    ltr ax
    push 0x2b                           // user stack segment, stack, flags, code segment, instruction
    push 0x6000
    push 2
    push 0x33
    lea rax, [rip + .Luser]
    push rax
    iretq
.Luser:
    mov ebx, 0x77
    syscall
    ud2
.Lon_syscall:
    mov rsp, .Lstack
    cmp ebx, 0x77
    jne .Lfail
    swapgs
    mov rax, gs:[0]
    swapgs
    cmp rax, [.Lload]
    jne .Lfail
    mov al, 6
    out 0x80, al

    mov ecx, 2000000
2:  dec ecx
    jnz 2b
    mov al, 7
    out 0x80, al
    hlt

.Lfail:                                 // the processor did not do what it must
    mov al, 0xff
    out 0x80, al
    hlt

.Lgate:                                 // an interrupt gate at [rdi] to rsi
    mov word ptr [rdi], si
    mov word ptr [rdi + 2], 0x18
    mov word ptr [rdi + 4], 0x8e00
    mov qword ptr [rdi + 6], 0
    ret
.Lon_breakpoint:
    inc ebx
    iretq
.Lon_undefined:
    inc ebx
    add qword ptr [rsp], 2
    iretq
.Lon_page_fault:
    inc ebx
    mov rcx, cr2
    cmp rcx, 0x200000
    jne .Lfail
    mov dword ptr [0xb008], 0x200087
    invlpg [rcx]
    add rsp, 8
    iretq

    .balign 8
.Lgdt:
    .quad 0
    .quad 0x00cf9b000000ffff            // 08: code, 32 bits
    .quad 0x00cf93000000ffff            // 10: data
    .quad 0x00af9b000000ffff            // 18: code, 64 bits
    .quad 0x00cf93000000ffff            // 20: data, where `syscall` wants it
    .quad 0x00cff3000000ffff            // 28: data of ring 3
    .quad 0x00affb000000ffff            // 30: code of ring 3
    .quad 0
    .quad 0x00008900c0000067            // 40: the task state segment
    .quad 0
.Lgdt_pointer:
    .word . - .Lgdt - 1
    .long .Lgdt_at
.Lidt_pointer:
    .word 0xfff
    .quad .Lidt
sandbar_kvm_guest_end:
    .set .Lgdt_at, .Lload + (.Lgdt - sandbar_kvm_guest_start)
    .set .Lgdt_pointer_at, .Lload + (.Lgdt_pointer - sandbar_kvm_guest_start)
    .set .Lprotected_at, .Lload + (.Lprotected - sandbar_kvm_guest_start)
    .set .Llong_at, .Lload + (.Llong - sandbar_kvm_guest_start)
    .popsection
    .code64
"#
);

unsafe extern "C" {
    #[link_name = "sandbar_kvm_guest_start"]
    static START: u8;
    #[link_name = "sandbar_kvm_guest_end"]
    static END: u8;
}

/// The program's bytes.
pub(super) fn program() -> &'static [u8] {
    let (start, end) = (&raw const START, &raw const END);
    // SAFETY: both symbols bound one read-only section of this program, the first at its lower end.
    unsafe { slice::from_raw_parts(start, end.addr() - start.addr()) }
}
