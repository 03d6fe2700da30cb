//! Where the arguments of a probed function lie, as the cookie of its probe tells.

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_get_attach_cookie, bpf_probe_read_kernel},
};
use monitor_common::layout;

use crate::{record::context_address, requests::read_user};

/// Offsets of registers in `struct pt_regs` (`arch/x86/include/uapi/asm/ptrace.h`), which is part of the kernel's interface.
#[cfg(bpf_target_arch = "x86_64")]
mod registers {
    /// Of the C convention: `rdi, rsi, rdx, rcx, r8, r9`.
    pub const ARGUMENTS: [u32; 6] = [112, 104, 96, 88, 72, 64];
    /// Of Go's: `rax, rbx, rcx, rdi, rsi, r8, r9, r10, r11`.
    pub const GO: [u32; 9] = [80, 40, 88, 112, 104, 72, 64, 56, 48];
    /// `r14`: the goroutine that runs.
    pub const GOROUTINE: u32 = 8;
    pub const STACK: u32 = 152;
}

/// As above (`arch/arm64/include/uapi/asm/ptrace.h`).
#[cfg(bpf_target_arch = "aarch64")]
mod registers {
    pub const ARGUMENTS: [u32; 6] = [0, 8, 16, 24, 32, 40];
    pub const GO: [u32; 9] = [0, 8, 16, 24, 32, 40, 48, 56, 64];
    /// `x28`: the goroutine that runs.
    pub const GOROUTINE: u32 = 224;
    pub const STACK: u32 = 248;
}

/// The layout of one function.
#[derive(Clone, Copy)]
pub struct Layout(u64);

impl Layout {
    #[inline(always)]
    pub fn of<C: EbpfContext>(ctx: &C) -> Self {
        // SAFETY: the context of the running program.
        Self(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) })
    }

    #[inline(always)]
    pub fn object<C: EbpfContext>(self, ctx: &C) -> u64 {
        word(ctx, self.0 >> layout::OBJECT)
    }

    #[inline(always)]
    pub fn buffer<C: EbpfContext>(self, ctx: &C) -> u64 {
        word(ctx, self.0 >> layout::BUFFER)
    }

    /// Bytes of the buffer. Where the answer is an `int`, so is this, and a negative one is an error that the function returns.
    #[inline(always)]
    pub fn length<C: EbpfContext>(self, ctx: &C) -> u64 {
        let length = word(ctx, self.0 >> layout::LENGTH);
        if self.passed() != layout::RETURNED {
            return length;
        }
        let length = length as i32;
        if length > 0 { length as u64 } else { 0 }
    }

    /// One of the `layout::` ways to tell how much has passed.
    #[inline(always)]
    pub fn passed(self) -> u32 {
        ((self.0 >> layout::PASSED) & layout::PASSED_MASK) as u32
    }

    /// The word that goes with it.
    #[inline(always)]
    pub fn passed_at<C: EbpfContext>(self, ctx: &C) -> u64 {
        if self.passed() == layout::RESULT {
            // Known at the return.
            return (self.0 >> layout::PASSED_PLACE) & 0xff;
        }
        word(ctx, self.0 >> layout::PASSED_PLACE)
    }

    /// Where the additional data of a record lie, and their length.
    #[inline(always)]
    pub fn additional_data<C: EbpfContext>(self, ctx: &C) -> (u64, u64) {
        let place = self.0 >> layout::ADDITIONAL_DATA & 0xff;
        (word(ctx, place), word(ctx, place + 1))
    }

    #[inline(always)]
    pub fn is_go(self) -> bool {
        self.0 & layout::GO != 0
    }
}

/// The word at a place, which is the lowest byte; 0 for none.
#[inline(always)]
pub fn word<C: EbpfContext>(ctx: &C, place: u64) -> u64 {
    let place = (place & 0xff) as u32;
    if place == layout::NOWHERE {
        return 0;
    }
    if place >= layout::ON_STACK {
        let above = u64::from(place - layout::ON_STACK) * 8;
        return read_user::<u64>(register(ctx, registers::STACK) + above);
    }
    let offset = match place {
        0 => registers::ARGUMENTS[0],
        1 => registers::ARGUMENTS[1],
        2 => registers::ARGUMENTS[2],
        3 => registers::ARGUMENTS[3],
        4 => registers::ARGUMENTS[4],
        5 => registers::ARGUMENTS[5],
        0x20 => registers::GO[0],
        0x21 => registers::GO[1],
        0x22 => registers::GO[2],
        0x23 => registers::GO[3],
        0x24 => registers::GO[4],
        0x25 => registers::GO[5],
        0x26 => registers::GO[6],
        0x27 => registers::GO[7],
        _ => registers::GO[8],
    };
    register(ctx, offset)
}

/// The goroutine that runs: what tells Go's calls apart, which change threads.
#[inline(always)]
pub fn goroutine<C: EbpfContext>(ctx: &C) -> u64 {
    register(ctx, registers::GOROUTINE)
}

#[inline(always)]
fn register<C: EbpfContext>(ctx: &C, offset: u32) -> u64 {
    let mut value = 0_u64;
    let from = context_address(ctx) + u64::from(offset);
    // SAFETY: the destination has eight bytes; the helper checks the source, which is the program's context.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 8, from as *const _) };
    value
}
