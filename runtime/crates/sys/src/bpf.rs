//! Device programs of cgroup v2: eBPF programs that answer whether a process may open or make a device.
//!
//! Only what that needs of `bpf(2)` is here: load, attach, list, detach. The programs themselves are made elsewhere.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::{Error, Result};

/// One eBPF instruction, laid out as the kernel reads it (`struct bpf_insn`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Class, operation and source.
    pub code: u8,
    /// Destination register in the low half, source register in the high half.
    pub registers: u8,
    /// The distance of a jump, or the place in memory.
    pub offset: i16,
    /// The constant.
    pub immediate: i32,
}

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

/// How many programs of one cgroup are looked at; the kernel allows 64.
const MOST_PROGRAMS: usize = 64;

/// The part of `union bpf_attr` that loading reads.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The part of `union bpf_attr` that attaching and detaching read.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

/// The part of `union bpf_attr` that a query reads and fills.
#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
}

/// The part of `union bpf_attr` that opening by id reads.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Calls `bpf(2)`.
///
/// # Safety
/// `T` is the part of `union bpf_attr` that `command` reads, and every address in it is that of memory that
/// lives through the call and is as long as the field beside it says.
unsafe fn bpf<T>(command: libc::c_int, attribute: &mut T) -> libc::c_long {
    // SAFETY: the size is that of the structure; the rest is the caller's promise.
    unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attribute),
            size_of::<T>(),
        )
    }
}

fn address<T>(slice: &[T]) -> u64 {
    slice.as_ptr() as usize as u64
}

fn raw(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

/// Has the kernel check and load a device program.
///
/// # Errors
/// `EPERM`: no CAP_BPF and CAP_NET_ADMIN; `EINVAL`, `EACCES`: the verifier refused it; `ENOSYS`: no eBPF in
/// this kernel.
pub fn load_device_program(program: &[Instruction]) -> Result<OwnedFd> {
    let mut attribute = Load {
        prog_type: TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).unwrap_or(u32::MAX),
        insns: address(program),
        license: address(b"Apache-2.0\0"),
        ..Load::default()
    };
    // SAFETY: the program and the licence, a C string, live through the call; the count is the program's.
    let result = unsafe { bpf(PROG_LOAD, &mut attribute) };
    let fd = Error::check("bpf(BPF_PROG_LOAD)", result)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attaches a device program to a cgroup, beside those that are there: every one of them must allow an access.
///
/// # Errors
/// `EPERM`; `EINVAL`: `cgroup` is no directory of the version 2 hierarchy.
pub fn attach_device_program(cgroup: impl AsFd, program: impl AsFd) -> Result<()> {
    let mut attribute = Attach {
        target_fd: raw(&cgroup),
        attach_bpf_fd: raw(&program),
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: ALLOW_MULTI,
        ..Attach::default()
    };
    // SAFETY: the structure holds no address.
    let result = unsafe { bpf(PROG_ATTACH, &mut attribute) };
    Error::check("bpf(BPF_PROG_ATTACH)", result).map(drop)
}

/// The device programs that are attached to a cgroup itself.
///
/// # Errors
/// `EPERM`; `ENOENT`: one was detached meanwhile.
pub fn device_programs(cgroup: impl AsFd) -> Result<Vec<OwnedFd>> {
    let mut ids = [0_u32; MOST_PROGRAMS];
    let mut attribute = Query {
        target_fd: raw(&cgroup),
        attach_type: ATTACH_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as usize as u64,
        prog_cnt: MOST_PROGRAMS as u32,
        ..Query::default()
    };
    // SAFETY: the ids' array lives through the call and is as long as the count says.
    let result = unsafe { bpf(PROG_QUERY, &mut attribute) };
    Error::check("bpf(BPF_PROG_QUERY)", result)?;
    ids.iter()
        .take(attribute.prog_cnt as usize)
        .map(|&id| open(id))
        .collect()
}

fn open(id: u32) -> Result<OwnedFd> {
    let mut attribute = ById {
        id,
        ..ById::default()
    };
    // SAFETY: the structure holds no address.
    let result = unsafe { bpf(PROG_GET_FD_BY_ID, &mut attribute) };
    let fd = Error::check("bpf(BPF_PROG_GET_FD_BY_ID)", result)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Detaches a device program from a cgroup.
///
/// # Errors
/// `ENOENT`: it is not attached there.
pub fn detach_device_program(cgroup: impl AsFd, program: impl AsFd) -> Result<()> {
    let mut attribute = Attach {
        target_fd: raw(&cgroup),
        attach_bpf_fd: raw(&program),
        attach_type: ATTACH_CGROUP_DEVICE,
        ..Attach::default()
    };
    // SAFETY: the structure holds no address.
    let result = unsafe { bpf(PROG_DETACH, &mut attribute) };
    Error::check("bpf(BPF_PROG_DETACH)", result).map(drop)
}
