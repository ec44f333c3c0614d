//! Bytes that compress like those of real files, and are the same every time.

/// A small random number generator (xorshift64*): all that is asked of it is that it never changes.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit.max(1)
    }

    /// A number in 0..1.
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A file's size: most are small, few are large (log-normal, by the sum of twelve uniform numbers), with this median.
    pub(crate) fn size(&mut self, median: f64) -> u64 {
        let normal: f64 = (0..12).map(|_| self.fraction()).sum::<f64>() - 6.0;
        (median * (1.6 * normal).exp()) as u64
    }
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Source code, documents: words.
    Text,
    /// Programs, libraries: records that resemble one another.
    Program,
    /// Pictures, archives: nothing to be gained.
    Packed,
}

/// Fills `out` up to `size` bytes.
pub(crate) fn fill(out: &mut Vec<u8>, random: &mut Random, kind: Kind, size: usize) {
    out.clear();
    out.reserve(size + 64);
    match kind {
        Kind::Text => {
            while out.len() < size {
                word(out, random);
            }
        }
        Kind::Program => {
            let mut record = [0u8; 16];
            while out.len() < size {
                let fresh = random.next();
                // Some bytes of a record change each time, others seldom; now and then a piece comes again.
                record[..4].copy_from_slice(&fresh.to_le_bytes()[..4]);
                if fresh >> 61 == 0 {
                    record[8..].copy_from_slice(&random.next().to_le_bytes());
                }
                record[4] = (fresh >> 40) as u8 & 0x0f;
                record[6] = (fresh >> 48) as u8 & 0x3f;
                if (fresh >> 56) & 0x0f == 0 && out.len() > 4096 {
                    let from = out.len() - 4096 + random.below(2048) as usize;
                    out.extend_from_within(from..from + 256);
                } else {
                    out.extend_from_slice(&record);
                }
            }
        }
        Kind::Packed => {
            while out.len() < size {
                out.extend_from_slice(&random.next().to_le_bytes());
            }
        }
    }
    out.truncate(size);
}

/// One of some thousand words, the short ones more often, and what stands between words.
fn word(out: &mut Vec<u8>, random: &mut Random) {
    const VOWELS: &[u8] = b"aeiou";
    const CONSONANTS: &[u8] = b"bcdfghklmnprstvw";
    // Squared, so that low numbers are frequent.
    let choice = random.fraction();
    let mut number = (choice * choice * 6000.0) as usize;
    loop {
        out.push(CONSONANTS[number % CONSONANTS.len()]);
        number /= CONSONANTS.len();
        out.push(VOWELS[number % VOWELS.len()]);
        number /= VOWELS.len();
        if number == 0 {
            break;
        }
    }
    match random.below(12) {
        0 => out.extend_from_slice(b",\n    "),
        1 => out.extend_from_slice(b"();\n"),
        2 => out.extend_from_slice(b" = "),
        _ => out.push(b' '),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn compressed(kind: Kind) -> f64 {
        let mut bytes = Vec::new();
        fill(&mut bytes, &mut Random::new(7), kind, 1 << 20);
        assert_eq!(bytes.len(), 1 << 20);
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(&bytes).unwrap();
        encoder.finish().unwrap().len() as f64 / bytes.len() as f64
    }

    #[test]
    fn content_compresses_like_real_files() {
        let (text, program, packed) = (
            compressed(Kind::Text),
            compressed(Kind::Program),
            compressed(Kind::Packed),
        );
        assert!((0.3..0.5).contains(&text), "{text}");
        assert!((0.2..0.5).contains(&program), "{program}");
        assert!(packed > 0.99, "{packed}");
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let make = |seed| {
            let mut bytes = Vec::new();
            fill(&mut bytes, &mut Random::new(seed), Kind::Program, 10_000);
            bytes
        };
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
    }

    #[test]
    fn most_files_are_small() {
        let mut random = Random::new(3);
        let mut sizes: Vec<u64> = (0..1000).map(|_| random.size(4096.0)).collect();
        sizes.sort_unstable();
        assert!((3000..6000).contains(&sizes[500]), "{}", sizes[500]);
        assert!(sizes[999] > 20 * sizes[500]);
    }
}
