//! A small memory allocator for short-lived programs.
//!
//! musl's own asks the kernel for memory, and gives it back, page by page: in a program that lives some
//! milliseconds that is a good part of all its system calls. This one takes memory in larger pieces, cuts
//! blocks of a few sizes from them, and keeps freed blocks in one list per size.
//!
//! ```text
//! request ─ rounded up to a power of two ─ list of that size, if it has a block
//!                                        └ else cut from the current piece (a new one if it is used up)
//!         ─ above the largest size: a mapping of its own, given back when it is freed
//! ```
//!
//! Memory once taken for small blocks is not given back before the program ends. What is freed is used again,
//! so a program that runs for long does not grow.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// The smallest block is 1 << 4 bytes, the largest 1 << 15.
const SMALLEST: u32 = 4;
const SIZES: usize = 12;
/// Blocks start at multiples of this, or of their size if it is smaller.
const ALIGNMENT: usize = 64;
/// What is taken from the kernel at once. Pages that are not touched cost nothing.
const PIECE: usize = 256 * 1024;

/// The allocator; for `#[global_allocator]`.
#[derive(Debug, Default)]
pub struct Arena {
    busy: AtomicBool,
    state: UnsafeCell<State>,
}

/// A freed block holds the address of the next one of its list.
struct Free(Option<NonNull<Free>>);

#[derive(Default, Debug)]
struct State {
    /// The unused rest of the current piece.
    next: usize,
    end: usize,
    free: [Option<NonNull<Free>>; SIZES],
}

// SAFETY: the state is only reached while `busy` is held (`with`), by one thread at a time.
unsafe impl Sync for Arena {}

impl std::fmt::Debug for Free {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Free")
    }
}

impl Arena {
    /// An allocator that has taken nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        let state = State {
            next: 0,
            end: 0,
            free: [None; SIZES],
        };
        Self {
            busy: AtomicBool::new(false),
            state: UnsafeCell::new(state),
        }
    }

    /// Runs `work` on the state. Its users have one thread, so the lock is never waited for; it is there so
    /// that a second thread would be slow rather than wrong.
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        while self.busy.swap(true, Ordering::Acquire) {
            std::hint::spin_loop();
        }
        // SAFETY: `busy` was taken, so nobody else has a reference; `work` neither allocates nor keeps the reference.
        let result = work(unsafe { &mut *self.state.get() });
        self.busy.store(false, Ordering::Release);
        result
    }
}

/// Which list a request belongs to; `None` for one that gets a mapping of its own.
fn class(layout: Layout) -> Option<usize> {
    let size = layout
        .size()
        .max(1)
        .checked_next_power_of_two()?
        .max(1 << SMALLEST);
    let class = (size.trailing_zeros() - SMALLEST) as usize;
    (class < SIZES && layout.align() <= ALIGNMENT.min(size)).then_some(class)
}

const fn block(class: usize) -> usize {
    1 << (class + SMALLEST as usize)
}

fn map(size: usize) -> Option<NonNull<u8>> {
    let flags = MapFlags::PRIVATE;
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory that is in use.
    let result = unsafe { mmap_anonymous(ptr::null_mut(), size, ProtFlags::READ | ProtFlags::WRITE, flags) };
    result.ok().and_then(|start| NonNull::new(start.cast()))
}

impl State {
    fn take(&mut self, class: usize) -> *mut u8 {
        if let Some(first) = self.free[class] {
            // SAFETY: blocks in a list are free, as large as a `Free` at least, aligned to 16 bytes, and hold
            // one (`give`).
            self.free[class] = unsafe { first.as_ref() }.0;
            return first.as_ptr().cast();
        }
        let size = block(class);
        let mut start = self.next.next_multiple_of(ALIGNMENT.min(size));
        if self.next == 0 || start + size > self.end {
            let Some(piece) = map(PIECE) else {
                return ptr::null_mut();
            };
            start = piece.as_ptr().expose_provenance();
            self.end = start + PIECE;
        }
        self.next = start + size;
        ptr::with_exposed_provenance_mut(start)
    }

    /// Puts a block into its list.
    ///
    /// # Safety
    /// The block came from `take` with the same class and is not used any more.
    unsafe fn give(&mut self, start: NonNull<u8>, class: usize) {
        let start = start.cast::<Free>();
        // SAFETY: the block is ours now, at least 16 bytes long and aligned to that.
        unsafe { start.write(Free(self.free[class])) };
        self.free[class] = Some(start);
    }
}

// SAFETY: blocks are disjoint, at least as large as asked for, aligned as asked for (`class`), and stay where
// they are until they are freed; nothing here unwinds.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class(layout) {
            Some(class) => self.with(|state| state.take(class)),
            // A mapping is aligned to pages; nothing of ours asks for more.
            None if layout.align() > 4096 => ptr::null_mut(),
            None => map(layout.size()).map_or(ptr::null_mut(), NonNull::as_ptr),
        }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        let Some(block) = NonNull::new(start) else { return };
        match class(layout) {
            // SAFETY: by the contract of `GlobalAlloc` it came from `alloc` with this layout, and so with this class.
            Some(class) => self.with(|state| unsafe { state.give(block, class) }),
            None => {
                // SAFETY: it is a mapping of its own of this size, and not used any more. A failure would only
                // keep it mapped.
                unsafe { munmap(start.cast(), layout.size()) }.ok();
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the same contract.
        let start = unsafe { self.alloc(layout) };
        // New mappings are zero already; blocks may have been used before.
        if !start.is_null() && class(layout).is_some() {
            // SAFETY: the block is at least that long.
            unsafe { ptr::write_bytes(start, 0, layout.size()) };
        }
        start
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else {
            return ptr::null_mut();
        };
        if class(wanted).is_some() && class(wanted) == class(layout) {
            return start;
        }
        // SAFETY: the caller promises that the size is not zero.
        let new = unsafe { self.alloc(wanted) };
        if !new.is_null() {
            // SAFETY: the new block does not overlap the old one, and both are at least that long.
            unsafe { ptr::copy_nonoverlapping(start, new, layout.size().min(size)) };
            // SAFETY: the old block came from here with this layout, and its contents have moved.
            unsafe { self.dealloc(start, layout) };
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn requests_have_classes() {
        for (size, align, want) in [
            (0, 1, Some(0)),
            (1, 1, Some(0)),
            (16, 16, Some(0)),
            (17, 8, Some(1)),
            (32_768, 64, Some(11)),
            (32_769, 8, None),
            (8, 64, None),
            (128, 64, Some(3)),
            (4096, 4096, None),
        ] {
            assert_eq!(class(layout(size, align)), want, "{size} {align}");
        }
    }

    /// Blocks of many sizes, written full, must not overlap, and freed ones must come back.
    #[test]
    fn blocks_are_disjoint_aligned_and_used_again() {
        let arena = Arena::new();
        let mut held: Vec<(*mut u8, Layout, u8)> = Vec::new();
        for round in 0..2000_usize {
            let layout = layout(
                1 + (round * 7919) % 5000 + if round % 97 == 0 { 100_000 } else { 0 },
                1 << (round % 7),
            );
            // SAFETY: the size is not zero.
            let start = unsafe { arena.alloc(layout) };
            assert!(!start.is_null() && start.addr().is_multiple_of(layout.align()));
            let mark = (round % 251) as u8;
            // SAFETY: the block is that long.
            unsafe { ptr::write_bytes(start, mark, layout.size()) };
            held.push((start, layout, mark));
            if round % 3 == 0 {
                let (start, layout, mark) = held.swap_remove((round * 31) % held.len());
                // SAFETY: the block is that long and was written.
                let bytes = unsafe { std::slice::from_raw_parts(start, layout.size()) };
                assert!(bytes.iter().all(|byte| *byte == mark));
                // SAFETY: it came from this allocator with this layout.
                unsafe { arena.dealloc(start, layout) };
            }
        }
        for (start, layout, mark) in held {
            // SAFETY: as above.
            let grown = unsafe { arena.realloc(start, layout, layout.size() * 2) };
            // SAFETY: the block is that long, its first half was written.
            let bytes = unsafe { std::slice::from_raw_parts(grown, layout.size()) };
            assert!(bytes.iter().all(|byte| *byte == mark));
            let doubled = Layout::from_size_align(layout.size() * 2, layout.align()).unwrap();
            // SAFETY: as above, with the new size.
            unsafe { arena.dealloc(grown, doubled) };
        }
        let before = arena.with(|state| (state.next, state.end));
        for _ in 0..1000 {
            // SAFETY: the size is not zero.
            let start = unsafe { arena.alloc_zeroed(layout(3000, 8)) };
            // SAFETY: the block is that long and was zeroed.
            let bytes = unsafe { std::slice::from_raw_parts(start, 3000) };
            assert!(bytes.iter().all(|byte| *byte == 0));
            // SAFETY: the block is that long.
            unsafe { ptr::write_bytes(start, 1, 3000) };
            // SAFETY: it came from this allocator with this layout.
            unsafe { arena.dealloc(start, layout(3000, 8)) };
        }
        assert_eq!(arena.with(|state| (state.next, state.end)), before);
    }
}
