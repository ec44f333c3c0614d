//! The file that the running program is: exchanged for a copy, without starting anew.
//!
//! ```text
//! before   code, constants ─▶ the host's file        /proc/self/exe ─▶ the host's file
//!          data ───────────▶ the host's file, copied on write
//! after    code, constants ─▶ the copy                /proc/self/exe ─▶ the copy
//!          data ───────────▶ no file
//! ```
//!
//! A process holds on to its file in two ways: by what is mapped from it, and by the link `/proc/PID/exe`, which `#!/proc/self/exe` follows
//! too. Both are exchanged: every mapping is replaced by the same bytes of the copy at the same address, and then the kernel is told of
//! the new file by `PR_SET_MM_MAP` (Linux 3.18; since 5.9 `CAP_CHECKPOINT_RESTORE` or `CAP_SYS_ADMIN` in the user namespace will do). The
//! kernel refuses that with `EBUSY` while anything of the old file is mapped: what is claimed here is checked there.
//!
//! Only a static program at a fixed address is exchanged: one with a loader has more mappings than its headers tell.
//! Whoever cannot have it so executes the copy instead, which is the same, only slower.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap, mmap_anonymous, mremap_fixed};

use libc::Elf64_Phdr as ProgramHeader;

use crate::error::Named;
use crate::{Errno, Error, Result};

/// One loaded part of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    /// Where its first page begins.
    start: usize,
    /// How many bytes come from the file, in whole pages.
    length: usize,
    /// Where its first page begins in the file.
    offset: u64,
    is_writable: bool,
    is_executable: bool,
}

/// `struct prctl_mm_map` of `linux/prctl.h`: where the parts of a program are.
#[repr(C)]
#[derive(Default)]
struct MemoryMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    /// Null, and a length of zero: it stays as it is.
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

/// Makes this program one whose file is `copy`, which holds the same bytes. For a process with one thread.
///
/// # Errors
/// `ENOEXEC` for a program that is not static or not at a fixed address; `EPERM` without the capability; what else the kernel refuses. The
/// program works on in every case: on its old file, its new one, or both.
pub fn exchange(copy: impl AsFd) -> Result<()> {
    let copy = copy.as_fd();
    let stat = crate::file::read_text(Path::new("/proc/self/stat")).map_err(|error| {
        Error::new(
            "read(/proc/self/stat)",
            Errno::from_io_error(&error).unwrap_or(Errno::IO),
        )
    })?;
    let mut map = memory_map(&stat).ok_or(Error::new("read(/proc/self/stat)", Errno::INVAL))?;
    // SAFETY: reads a value that the kernel has given this process.
    let page = unsafe { libc::getauxval(libc::AT_PAGESZ) } as usize;
    let segments = segments(headers(), page).ok_or(Error::new("mmap", Errno::NOEXEC))?;
    // SAFETY: asks for the current end of the heap and changes nothing.
    let brk = unsafe { libc::syscall(libc::SYS_brk, 0) };
    map.brk = brk.cast_unsigned();
    map.exe_fd = copy.as_raw_fd().cast_unsigned();
    for segment in &segments {
        if segment.is_writable {
            detach(*segment)?;
        } else {
            replace(*segment, copy)?;
        }
    }
    // SAFETY: `map` has the layout and the size that is given, and outlives the call; the kernel checks its values.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_MM,
            libc::PR_SET_MM_MAP as libc::c_ulong,
            &raw const map,
            size_of::<MemoryMap>(),
            0,
        )
    };
    Error::check("prctl(PR_SET_MM_MAP)", result.into()).map(drop)
}

/// The program's own headers, as the kernel has loaded them.
fn headers() -> &'static [ProgramHeader] {
    // SAFETY: reads a value that the kernel has given this process.
    let start = unsafe { libc::getauxval(libc::AT_PHDR) } as usize;
    // SAFETY: the same.
    let count = unsafe { libc::getauxval(libc::AT_PHNUM) } as usize;
    // Where addresses have 32 bits headers look different, and the copy is executed.
    if start == 0 || cfg!(not(target_pointer_width = "64")) {
        return &[];
    }
    // SAFETY: the kernel says that so many headers are there; they are a part of the program, which is never unmapped.
    unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(start), count) }
}

/// What is mapped of the file; `None` for a program with a loader, or one that lies elsewhere than its headers say.
fn segments(headers: &[ProgramHeader], page: usize) -> Option<Vec<Segment>> {
    let is_dynamic = |header: &ProgramHeader| matches!(header.p_type, libc::PT_INTERP | libc::PT_DYNAMIC);
    if page == 0 || headers.is_empty() || headers.iter().any(is_dynamic) {
        return None;
    }
    let loaded = headers
        .iter()
        .filter(|header| header.p_type == libc::PT_LOAD && header.p_filesz > 0);
    loaded
        .map(|header| {
            let address = usize::try_from(header.p_vaddr).ok()?;
            let end = address.checked_add(usize::try_from(header.p_filesz).ok()?)?;
            let start = address / page * page;
            // A position-independent program's addresses begin at zero.
            (start > 0).then_some(Segment {
                start,
                length: end.next_multiple_of(page) - start,
                offset: header.p_offset / page as u64 * page as u64,
                is_writable: header.p_flags & libc::PF_W != 0,
                is_executable: header.p_flags & libc::PF_X != 0,
            })
        })
        .collect()
}

/// Maps the same bytes of the copy over a part that is never written to, this very code perhaps.
fn replace(segment: Segment, copy: BorrowedFd<'_>) -> Result<()> {
    let mut protection = ProtFlags::READ;
    protection.set(ProtFlags::EXEC, segment.is_executable);
    let place = std::ptr::with_exposed_provenance_mut(segment.start);
    let flags = MapFlags::PRIVATE | MapFlags::FIXED;
    // SAFETY: whoever reads or executes there finds the same bytes as before: the copy has the program's, the range is one of its parts,
    // and there is no other thread that could look while it changes.
    unsafe { mmap(place, segment.length, protection, flags, copy, segment.offset) }
        .named("mmap")
        .map(drop)
}

/// Puts memory without a file in the place of a part that is written to, with its contents as they are.
fn detach(segment: Segment) -> Result<()> {
    let flags = MapFlags::PRIVATE;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory that is in use.
    let fresh =
        unsafe { mmap_anonymous(std::ptr::null_mut(), segment.length, access, flags) }.named("mmap")?;
    let place = std::ptr::with_exposed_provenance_mut::<std::ffi::c_void>(segment.start);
    // SAFETY: both ranges are mapped, that long, and apart. Nothing that keeps a state is called from here to the move, so that
    // what is copied is what is moved.
    unsafe { std::ptr::copy_nonoverlapping(place.cast::<u8>(), fresh.cast::<u8>(), segment.length) };
    let flags = MremapFlags::MAYMOVE;
    // SAFETY: the range gets the contents that it has; references into it stay valid, and there is no other thread.
    unsafe { mremap_fixed(fresh, segment.length, segment.length, flags, place) }
        .named("mremap")
        .map(drop)
}

/// What `/proc/self/stat` says of where things are (proc_pid_stat(5), fields 26 to 28 and 45 to 51).
fn memory_map(stat: &str) -> Option<MemoryMap> {
    // The name, the second field, may contain anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(MemoryMap {
        start_code: field(26)?,
        end_code: field(27)?,
        start_stack: field(28)?,
        start_data: field(45)?,
        end_data: field(46)?,
        start_brk: field(47)?,
        arg_start: field(48)?,
        arg_end: field(49)?,
        env_start: field(50)?,
        env_end: field(51)?,
        ..MemoryMap::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: u32, flags: u32, address: u64, length: u64) -> ProgramHeader {
        ProgramHeader {
            p_type: kind,
            p_flags: flags,
            p_offset: address - 0x40_0000,
            p_vaddr: address,
            p_paddr: address,
            p_filesz: length,
            p_memsz: length + 5000,
            p_align: 4096,
        }
    }

    #[test]
    fn whole_pages_of_what_is_loaded_are_exchanged() {
        let (read, write, execute) = (libc::PF_R, libc::PF_R | libc::PF_W, libc::PF_R | libc::PF_X);
        let headers = [
            header(libc::PT_LOAD, read, 0x40_0000, 0x234),
            header(libc::PT_LOAD, execute, 0x40_1000, 0x1001),
            header(libc::PT_LOAD, write, 0x40_4f80, 0x100),
            header(libc::PT_TLS, read, 0x40_4f80, 0),
            // All of it is zero: nothing of it comes from the file.
            header(libc::PT_LOAD, write, 0x40_8000, 0),
        ];
        let segment = |start, length, is_writable, is_executable| Segment {
            start,
            length,
            offset: (start - 0x40_0000) as u64,
            is_writable,
            is_executable,
        };
        assert_eq!(
            segments(&headers, 4096).expect("static"),
            [
                segment(0x40_0000, 0x1000, false, false),
                segment(0x40_1000, 0x2000, false, true),
                segment(0x40_4000, 0x2000, true, false),
            ]
        );
        for kind in [libc::PT_INTERP, libc::PT_DYNAMIC] {
            let headers = [headers[0], header(kind, read, 0x40_0000, 1)];
            assert_eq!(segments(&headers, 4096), None);
        }
        assert_eq!(segments(&[], 4096), None);
    }

    #[test]
    fn the_fields_of_stat_are_found_behind_any_name() {
        let numbers: Vec<String> = (4..=52).map(|field| (field * 100).to_string()).collect();
        let stat = format!("7 (a) b (c)) S {}\n", numbers.join(" "));
        let map = memory_map(&stat).expect("whole");
        assert_eq!(
            (map.start_code, map.end_code, map.start_stack),
            (2600, 2700, 2800)
        );
        assert_eq!((map.start_data, map.env_end), (4500, 5100));
        assert!(memory_map("7 (a) S 1 2").is_none());
    }
}
