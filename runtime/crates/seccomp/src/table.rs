//! The numbers of system calls, by name.
//!
//! `build.rs` writes one table for all architectures, sorted by name. x32's numbers follow from x86_64's: the
//! same with a bit set, but for a block of calls that needed versions of their own, and for those x32 never
//! had. i386 has two more entries for some calls: everything about sockets once went through `socketcall`,
//! everything about System V IPC through `ipc`, told apart by their first argument.

use crate::arch::{Arch, X32_BIT};

const NONE: u16 = u16::MAX;

struct Entry {
    start: u16,
    length: u8,
    /// x86_64, i386, aarch64, arm, riscv64.
    numbers: [u16; 5],
}

include!(concat!(env!("OUT_DIR"), "/syscalls.rs"));

/// A name that at least one architecture knows.
#[derive(Clone, Copy)]
pub struct Call(&'static Entry);

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(name(self.0))
    }
}

fn name(entry: &Entry) -> &'static str {
    let start = usize::from(entry.start);
    &NAMES[start..start + usize::from(entry.length)]
}

/// Looks a name up.
#[must_use]
pub fn find(wanted: &str) -> Option<Call> {
    let at = ENTRIES.binary_search_by(|entry| name(entry).cmp(wanted)).ok()?;
    Some(Call(&ENTRIES[at]))
}

/// Every name, in order.
pub fn names() -> impl Iterator<Item = &'static str> {
    ENTRIES.iter().map(name)
}

impl Call {
    /// Its number on an architecture, if it is there.
    #[must_use]
    pub fn number(self, arch: Arch) -> Option<u32> {
        let column = match arch {
            Arch::X86_64 => 0,
            Arch::X86 => 1,
            Arch::Aarch64 => 2,
            Arch::Arm => 3,
            Arch::Riscv64 => 4,
            Arch::X32 => return x32(name(self.0), self.0.numbers[0]),
        };
        match self.0.numbers[column] {
            NONE if arch == Arch::Arm => arm_private(name(self.0)),
            NONE => None,
            number => Some(u32::from(number)),
        }
    }

    /// The call through which it can also be made on i386, and the first argument that means it.
    #[must_use]
    pub fn multiplexed(self, arch: Arch) -> Option<(u32, u64)> {
        if arch != Arch::X86 {
            return None;
        }
        let find = |list: &[(&str, u64)]| list.iter().find(|(n, _)| *n == name(self.0)).map(|(_, v)| *v);
        find(&SOCKETCALL)
            .map(|value| (SOCKETCALL_NUMBER, value))
            .or_else(|| find(&IPC).map(|value| (IPC_NUMBER, value)))
    }
}

const SOCKETCALL_NUMBER: u32 = 102;
const IPC_NUMBER: u32 = 117;

/// `include/uapi/linux/net.h`.
const SOCKETCALL: [(&str, u64); 20] = [
    ("socket", 1),
    ("bind", 2),
    ("connect", 3),
    ("listen", 4),
    ("accept", 5),
    ("getsockname", 6),
    ("getpeername", 7),
    ("socketpair", 8),
    ("send", 9),
    ("recv", 10),
    ("sendto", 11),
    ("recvfrom", 12),
    ("shutdown", 13),
    ("setsockopt", 14),
    ("getsockopt", 15),
    ("sendmsg", 16),
    ("recvmsg", 17),
    ("accept4", 18),
    ("recvmmsg", 19),
    ("sendmmsg", 20),
];

/// `include/uapi/linux/ipc.h`.
const IPC: [(&str, u64); 12] = [
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];

/// Calls with a version of their own on x32, from 512 on (`arch/x86/entry/syscalls/syscall_64.tbl`).
const X32_OWN: [&str; 36] = [
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];

/// arm's private calls begin here, far above the others (`arch/arm/include/uapi/asm/unistd.h`).
pub const ARM_PRIVATE: u32 = 0x0f_0000;

fn arm_private(name: &str) -> Option<u32> {
    let own = ["breakpoint", "cacheflush", "usr26", "usr32", "set_tls", "get_tls"];
    let (number, _) = (ARM_PRIVATE + 1..).zip(own).find(|(_, own)| *own == name)?;
    Some(number)
}

/// Calls of x86_64 that x32 never had.
const X32_NEVER: [&str; 14] = [
    "uselib",
    "_sysctl",
    "create_module",
    "get_kernel_syms",
    "query_module",
    "nfsservctl",
    "set_thread_area",
    "get_thread_area",
    "epoll_ctl_old",
    "epoll_wait_old",
    "vserver",
    "map_shadow_stack",
    "uprobe",
    "uretprobe",
];

fn x32(name: &str, number: u16) -> Option<u32> {
    let own = (512..).zip(X32_OWN).find(|(_, own)| *own == name);
    match own {
        Some((number, _)) => Some(X32_BIT | number),
        None if number == NONE || X32_NEVER.contains(&name) => None,
        None => Some(X32_BIT | u32::from(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_numbers() {
        use Arch::{Aarch64, Arm, Riscv64, X32, X86, X86_64};
        for (name, arch, want) in [
            ("read", X86_64, Some(0)),
            ("read", X86, Some(3)),
            ("read", Arm, Some(3)),
            ("read", Aarch64, Some(63)),
            ("read", Riscv64, Some(63)),
            ("read", X32, Some(0x4000_0000)),
            ("execve", X86_64, Some(59)),
            ("execve", X32, Some(0x4000_0000 | 520)),
            ("pwritev2", X32, Some(0x4000_0000 | 547)),
            ("uselib", X32, None),
            ("open", Aarch64, None),
            ("socket", X86, Some(359)),
            ("break", X86, Some(17)),
            ("clone3", X86_64, Some(435)),
            ("clone3", Riscv64, Some(435)),
            ("newfstatat", Aarch64, Some(79)),
            ("futex_time64", Aarch64, None),
            ("futex_time64", Arm, Some(422)),
            ("set_tls", Arm, Some(0x0f_0005)),
            ("set_tls", X86_64, None),
            ("uretprobe", X32, None),
            ("clock_gettime64", X86, Some(403)),
            ("clock_gettime64", X86_64, None),
        ] {
            assert_eq!(find(name).unwrap().number(arch), want, "{name} {arch:?}");
        }
        assert!(find("no_such_call").is_none());
        assert!(find("").is_none());
    }

    #[test]
    fn old_i386_calls_go_through_one_entry() {
        assert_eq!(find("socket").unwrap().multiplexed(Arch::X86), Some((102, 1)));
        assert_eq!(find("shmctl").unwrap().multiplexed(Arch::X86), Some((117, 24)));
        assert_eq!(find("socket").unwrap().multiplexed(Arch::X86_64), None);
        assert_eq!(find("read").unwrap().multiplexed(Arch::X86), None);
    }

    #[test]
    fn the_table_is_sorted() {
        assert!(ENTRIES.windows(2).all(|pair| name(&pair[0]) < name(&pair[1])));
    }
}
