//! Runs a filter as the kernel would, and checks on the way what the kernel checks before it takes one: only
//! known instructions, aligned loads inside the data, jumps inside the program, a return at the end.

use libc::sock_filter;

/// What a filter is told of a call (`struct seccomp_data`).
#[derive(Clone, Copy, Default)]
pub(crate) struct Call {
    pub(crate) number: u32,
    pub(crate) arch: u32,
    pub(crate) args: [u64; 6],
}

impl Call {
    fn word(&self, place: u32) -> u32 {
        match place {
            0 => self.number,
            4 => self.arch,
            16..64 if place.is_multiple_of(4) => {
                let arg = self.args[(place as usize - 16) / 8];
                if place.is_multiple_of(8) {
                    arg as u32
                } else {
                    (arg >> 32) as u32
                }
            }
            _ => panic!("load from {place}"),
        }
    }
}

/// The filter's return value.
pub(crate) fn run(program: &[sock_filter], call: Call) -> u32 {
    let mut accumulator = 0_u32;
    let mut at = 0_usize;
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        let either = |yes| usize::from(if yes { jt } else { jf });
        match code {
            0x20 => accumulator = call.word(k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += either(accumulator == k),
            0x25 => at += either(accumulator > k),
            0x35 => at += either(accumulator >= k),
            0x06 => return k,
            _ => panic!("unknown instruction {code:#x}"),
        }
    }
}
