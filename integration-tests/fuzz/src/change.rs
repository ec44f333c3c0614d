//! How an input becomes another.

use croze_integration_tests::seed::Seed;

/// Bytes at which parsers look.
const BYTES: [u8; 20] = [
    0, 1, 0x7f, 0x80, 0xff, b' ', b'\n', b'/', b'.', b':', b'@', b'"', b'=', b',', b'-', b'0', b'9', b'{',
    b'[', b'\\',
];
/// Numbers at which they stumble.
const NUMBERS: [&str; 12] = [
    "0",
    "-1",
    "1",
    "511",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e400",
    "00000000000000000000000000000000001",
];

/// A new input from what there is.
pub(crate) fn draw(seed: &mut Seed, corpus: &[Vec<u8>], words: &[Vec<u8>], longest: usize) -> Vec<u8> {
    let mut input = if corpus.is_empty() {
        Vec::new()
    } else {
        seed.pick(corpus).clone()
    };
    // Mostly few changes: many make noise of it.
    let most = 2 + seed.below(6);
    let changes = 1 + seed.below(most);
    for _ in 0..changes {
        change(seed, &mut input, corpus, words);
        input.truncate(longest);
    }
    input
}

/// A stretch of the input: where it begins and ends.
fn stretch(seed: &mut Seed, input: &[u8]) -> (usize, usize) {
    let from = seed.below(input.len() + 1);
    let most = (input.len() - from).min(1 + seed.below(64));
    (from, from + seed.below(most + 1))
}

fn change(seed: &mut Seed, input: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[Vec<u8>]) {
    let (from, to) = stretch(seed, input);
    match seed.below(11) {
        0 if !input.is_empty() => {
            let at = seed.below(input.len());
            input[at] ^= 1 << seed.below(8);
        }
        1 if !input.is_empty() => {
            let at = seed.below(input.len());
            input[at] = *seed.pick(&BYTES);
        }
        2 => drop(input.drain(from..to)),
        3 => {
            let copy = input[from..to].to_vec();
            insert(seed, input, &copy);
        }
        4 => {
            let times = 1 + seed.below(300);
            let copy = input[from..to].repeat(times);
            insert(seed, input, &copy);
        }
        5 if !words.is_empty() => {
            let word = seed.pick(words).clone();
            insert(seed, input, &word);
        }
        6 if !words.is_empty() => {
            let word = seed.pick(words).clone();
            input.splice(from..to, word);
        }
        7 => number(seed, input),
        8 if !corpus.is_empty() => {
            let other = seed.pick(corpus).clone();
            let (start, end) = stretch(seed, &other);
            let end = if seed.below(2) == 0 { other.len() } else { end };
            input.splice(from..to, other[start..end].iter().copied());
        }
        9 => input.truncate(from),
        _ => {
            let byte = *seed.pick(&BYTES);
            insert(seed, input, &[byte]);
        }
    }
}

fn insert(seed: &mut Seed, input: &mut Vec<u8>, bytes: &[u8]) {
    let at = seed.below(input.len() + 1);
    input.splice(at..at, bytes.iter().copied());
}

/// Puts another number where one stands.
fn number(seed: &mut Seed, input: &mut Vec<u8>) {
    let digits: Vec<usize> = (0..input.len())
        .filter(|&at| input[at].is_ascii_digit() && (at == 0 || !input[at - 1].is_ascii_digit()))
        .collect();
    if digits.is_empty() {
        return;
    }
    let from = *seed.pick(&digits);
    let length = input[from..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let other = seed.pick(&NUMBERS).bytes();
    input.splice(from..from + length, other);
}
