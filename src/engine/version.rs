//! Versions of templates.
//!
//! In: reading, writing and comparing `n.n.n`. Out: which version a caller means by "latest".

use std::fmt;

use thiserror::Error;

const LARGEST: u32 = 999_999_999;

/// A template's version; compared by its numbers, so that 1.10.0 is later than 1.9.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version([u32; 3]);

/// A text is not three numbers of at most nine digits' worth, separated by dots.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid version: \"{text}\"")]
pub struct VersionError {
    pub text: String,
}

impl Version {
    /// The version of a template that names none.
    pub const DEFAULT: Version = Version([0, 1, 0]);

    pub fn parse(text: &str) -> Result<Version, VersionError> {
        let refused = || VersionError { text: text.chars().take(80).collect() };
        let mut numbers = [0; 3];
        let mut parts = text.split('.');
        for number in &mut numbers {
            *number = parts.next().and_then(number_of).ok_or_else(refused)?;
        }
        if parts.next().is_some() { Err(refused()) } else { Ok(Version(numbers)) }
    }

    /// The three numbers, as columns hold them.
    pub fn numbers(self) -> [i32; 3] {
        // Each is at most LARGEST, far below i32::MAX.
        self.0.map(|number| number as i32)
    }
}

fn number_of(text: &str) -> Option<u32> {
    let digits_only = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|&number| digits_only && number <= LARGEST)
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_numbers_not_text() {
        assert!(Version::parse("1.10.0").unwrap() > Version::parse("1.9.9").unwrap());
        assert_eq!(Version::parse("1.2.3").map(|version| version.numbers()), Ok([1, 2, 3]));
        assert_eq!(Version::parse("999999999.0.0").map(|version| version.to_string()), Ok("999999999.0.0".to_owned()));
    }

    #[test]
    fn refuses_all_but_three_numbers() {
        for text in
            ["", "1", "1.2", "1.2.3.4", "1.2.x", "1..3", "+1.2.3", "-1.2.3", "1.2.3 ", "1.2.1000000000", "v1.2.3"]
        {
            assert!(Version::parse(text).is_err(), "{text}");
        }
    }
}
