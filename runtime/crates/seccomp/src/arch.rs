//! The architectures whose calls a filter can meet.

use oci_spec::runtime::Arch as Listed;

/// An architecture with a table of system calls here. `X32` is x86_64's second set of calls, with pointers of
/// 32 bits: the kernel gives it x86_64's audit number and sets a bit in the call's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// x86_64.
    X86_64,
    /// i386.
    X86,
    /// x32.
    X32,
    /// aarch64.
    Aarch64,
    /// arm, EABI.
    Arm,
    /// riscv64.
    Riscv64,
}

/// The bit in a call's number that means x32.
pub const X32_BIT: u32 = 0x4000_0000;

impl Arch {
    /// The architecture this was built for.
    #[must_use]
    pub const fn native() -> Option<Self> {
        if cfg!(all(target_arch = "x86_64", target_pointer_width = "32")) {
            Some(Self::X32)
        } else if cfg!(target_arch = "x86_64") {
            Some(Self::X86_64)
        } else if cfg!(target_arch = "x86") {
            Some(Self::X86)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Aarch64)
        } else if cfg!(target_arch = "arm") {
            Some(Self::Arm)
        } else if cfg!(target_arch = "riscv64") {
            Some(Self::Riscv64)
        } else {
            None
        }
    }

    /// The architecture a profile lists. `None` for one without a table here: none of the machines this runs on
    /// can meet its calls, and a filter ends a process that does.
    #[must_use]
    pub const fn listed(listed: Listed, native: Self) -> Option<Self> {
        match listed {
            Listed::ScmpArchNative => Some(native),
            Listed::ScmpArchX86_64 => Some(Self::X86_64),
            Listed::ScmpArchX86 => Some(Self::X86),
            Listed::ScmpArchX32 => Some(Self::X32),
            Listed::ScmpArchAarch64 => Some(Self::Aarch64),
            Listed::ScmpArchArm => Some(Self::Arm),
            Listed::ScmpArchRiscv64 => Some(Self::Riscv64),
            _ => None,
        }
    }

    /// What the kernel calls it in `struct seccomp_data` (`AUDIT_ARCH_*`).
    #[must_use]
    pub const fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
            Self::Riscv64 => 0xc000_00f3,
        }
    }

    /// Whether arguments are 64 bits wide. x32 passes 64-bit registers, but its calls, like libseccomp, look at
    /// the lower half.
    #[must_use]
    pub const fn is_wide(self) -> bool {
        matches!(self, Self::X86_64 | Self::Aarch64 | Self::Riscv64)
    }
}
