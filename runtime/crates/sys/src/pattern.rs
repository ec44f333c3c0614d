//! POSIX extended regular expressions, by the C library's own matcher: a crate for them would double a small program.

use std::ffi::CString;
use std::mem::MaybeUninit;

/// A compiled expression.
pub struct Pattern(Box<libc::regex_t>);

impl std::fmt::Debug for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pattern").finish_non_exhaustive()
    }
}

impl Pattern {
    /// Compiles an expression; `None` if it is malformed.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = CString::new(text).ok()?;
        let mut compiled = Box::new(MaybeUninit::<libc::regex_t>::zeroed());
        let flags = libc::REG_EXTENDED | libc::REG_NOSUB;
        // SAFETY: both pointers are valid for the call, and the text ends with a NUL byte.
        let result = unsafe { libc::regcomp(compiled.as_mut_ptr(), text.as_ptr(), flags) };
        if result != 0 {
            // A failed regcomp has freed what it had allocated.
            return None;
        }
        // SAFETY: a regcomp that succeeds has filled in the whole structure. It stays where it is: the box is only retyped.
        Some(Self(unsafe { compiled.assume_init() }))
    }

    /// Whether the expression matches a part of the text.
    #[must_use]
    pub fn is_in(&self, text: &str) -> bool {
        let Ok(text) = CString::new(text) else {
            return false;
        };
        // SAFETY: the expression was compiled, the text ends with a NUL byte, and no places are asked for.
        unsafe { libc::regexec(&raw const *self.0, text.as_ptr(), 0, std::ptr::null_mut(), 0) == 0 }
    }
}

impl Drop for Pattern {
    fn drop(&mut self) {
        // SAFETY: it was compiled, is freed once, and nobody uses it afterwards.
        unsafe { libc::regfree(&raw mut *self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_expressions_match_parts_of_a_text() {
        let matches = |pattern: &str, text: &str| Pattern::parse(pattern).expect("valid").is_in(text);
        for (pattern, text, want) in [
            ("test-*", "my-test-1", true),
            ("^test-[0-9]+$", "test-42", true),
            ("^test-[0-9]+$", "test-42x", false),
            ("a|b", "xbx", true),
            ("", "anything", true),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} in {text}");
        }
        for malformed in ["[", "(", "a{2,1}", "a\0b"] {
            assert!(Pattern::parse(malformed).is_none(), "{malformed:?}");
        }
    }
}
