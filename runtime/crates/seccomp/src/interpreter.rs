//! What a filter answers to a call: classic BPF run as the kernel runs it.
//!
//! It checks on the way what the kernel checks before it takes a filter (`bpf_check_classic`, `seccomp_check_filter`): only known
//! instructions, aligned loads inside the data, jumps inside the program, a return at the end. The runtime asks it about the few calls that it
//! makes under a container's filter; the tests ask about everything, of our programs and those of others.

use libc::sock_filter;

/// What a filter is told of a call (`struct seccomp_data`), but for the instruction pointer, which is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// The call's number on its architecture.
    pub number: u32,
    /// The architecture (`AUDIT_ARCH_*`).
    pub arch: u32,
    /// Its arguments.
    pub args: [u64; 6],
}

/// What the kernel would not have taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// An instruction that seccomp does not have.
    #[error("instruction {at}: code {code:#x} is not known")]
    Instruction {
        /// Which one.
        at: usize,
        /// Its code.
        code: u16,
    },
    /// A load from beside the data.
    #[error("instruction {at}: a load from {place}")]
    Load {
        /// Which one.
        at: usize,
        /// Where from.
        place: u32,
    },
    /// A jump to behind the program, or no return at its end.
    #[error("the program goes on to instruction {at}, which it does not have")]
    End {
        /// Which one.
        at: usize,
    },
}

impl Call {
    fn word(&self, place: u32) -> Option<u32> {
        match place {
            0 => Some(self.number),
            4 => Some(self.arch),
            8 | 12 => Some(0),
            16..64 if place.is_multiple_of(4) => {
                let arg = self.args.get((place as usize - 16) / 8)?;
                Some(if place.is_multiple_of(8) {
                    *arg as u32
                } else {
                    (arg >> 32) as u32
                })
            }
            _ => None,
        }
    }
}

/// The filter's return value.
///
/// # Errors
/// [`Fault`]: the kernel would refuse the program.
pub fn run(program: &[sock_filter], call: &Call) -> Result<u32, Fault> {
    let mut accumulator = 0_u32;
    let mut at = 0_usize;
    loop {
        let Some(&sock_filter { code, jt, jf, k }) = program.get(at) else {
            return Err(Fault::End { at });
        };
        let here = at;
        at += 1;
        let either = |yes| usize::from(if yes { jt } else { jf });
        match code {
            0x20 => accumulator = call.word(k).ok_or(Fault::Load { at: here, place: k })?,
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += either(accumulator == k),
            0x25 => at += either(accumulator > k),
            0x35 => at += either(accumulator >= k),
            0x06 => return Ok(k),
            _ => return Err(Fault::Instruction { at: here, code }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(code: u16, k: u32) -> sock_filter {
        sock_filter {
            code,
            jt: 0,
            jf: 0,
            k,
        }
    }

    #[test]
    fn what_the_kernel_refuses_is_a_fault() {
        for (program, want) in [
            (vec![], Fault::End { at: 0 }),
            (vec![one(0x20, 0)], Fault::End { at: 1 }),
            (vec![one(0x05, 7), one(0x06, 0)], Fault::End { at: 8 }),
            (vec![one(0x20, 2)], Fault::Load { at: 0, place: 2 }),
            (vec![one(0x20, 64)], Fault::Load { at: 0, place: 64 }),
            (
                vec![one(0x20, 0), one(0x07, 0)],
                Fault::Instruction { at: 1, code: 0x07 },
            ),
        ] {
            assert_eq!(run(&program, &Call::default()), Err(want));
        }
    }

    #[test]
    fn both_halves_of_an_argument_can_be_read() {
        let call = Call {
            args: [0, 0x1_0000_0002, 0, 0, 0, 0],
            ..Call::default()
        };
        for (place, want) in [(24, 2), (28, 1), (16, 0)] {
            let program = [
                one(0x20, place),
                sock_filter {
                    code: 0x15,
                    jt: 0,
                    jf: 1,
                    k: want,
                },
                one(0x06, 1),
                one(0x06, 2),
            ];
            assert_eq!(run(&program, &call), Ok(1), "{place}");
        }
    }
}
