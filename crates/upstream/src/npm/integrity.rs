//! Subresource Integrity: the hashes a registry publishes beside a tarball.

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::Digest;

/// A hash algorithm, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// Broken: collisions are made to order. Old versions have nothing else.
    Sha1,
    /// 256 bits.
    Sha256,
    /// 384 bits.
    Sha384,
    /// 512 bits; what npm has published since 2017.
    Sha512,
}

/// A parsed integrity text: the hashes of its strongest algorithm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Integrity {
    algorithm: Algorithm,
    digests: Vec<Vec<u8>>,
}

/// Why an integrity text is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIntegrity {
    /// It has no hash of a known algorithm.
    #[error("no hash of a known algorithm")]
    Empty,
    /// A hash is not base64 of the algorithm's length.
    #[error("its {} hash is malformed", .0.name())]
    Digest(Algorithm),
}

// === impl Algorithm ===

impl Algorithm {
    const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The name, as the text spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    const fn digest_bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    fn digest(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => <sha1::Sha1 as sha1::Digest>::digest(bytes).to_vec(),
            Self::Sha256 => sha2::Sha256::digest(bytes).to_vec(),
            Self::Sha384 => sha2::Sha384::digest(bytes).to_vec(),
            Self::Sha512 => sha2::Sha512::digest(bytes).to_vec(),
        }
    }
}

// === impl Integrity ===

impl Integrity {
    /// Reads `algorithm-base64` items separated by white space; options after `?` and unknown algorithms are ignored, as W3C's
    /// Subresource Integrity says. A malformed hash of a known algorithm is an error: ignoring it would quietly fall back to a
    /// weaker one.
    ///
    /// # Errors
    /// If there is no usable hash.
    pub fn parse(text: &str) -> Result<Self, InvalidIntegrity> {
        let mut strongest: Option<Self> = None;
        for item in text.split_ascii_whitespace() {
            let Some((name, digest)) = item.split_once('-') else {
                continue;
            };
            let Some(algorithm) = Algorithm::ALL.into_iter().find(|a| a.name() == name) else {
                continue;
            };
            let digest = digest.split('?').next().unwrap_or_default();
            let digest = STANDARD
                .decode(digest)
                .ok()
                .filter(|digest| digest.len() == algorithm.digest_bytes())
                .ok_or(InvalidIntegrity::Digest(algorithm))?;
            match &mut strongest {
                Some(held) if held.algorithm > algorithm => {}
                Some(held) if held.algorithm == algorithm => held.digests.push(digest),
                _ => {
                    strongest = Some(Self {
                        algorithm,
                        digests: vec![digest],
                    });
                }
            }
        }
        strongest.ok_or(InvalidIntegrity::Empty)
    }

    /// From the hexadecimal `shasum` that registries published before there was `integrity`, as integrity text.
    pub(super) fn text_of_shasum(shasum: &str) -> Option<String> {
        if shasum.len() != 40 || !shasum.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let digest: Vec<u8> = (0..20)
            .filter_map(|n| u8::from_str_radix(&shasum[2 * n..2 * n + 2], 16).ok())
            .collect();
        Some(format!("sha1-{}", STANDARD.encode(digest)))
    }

    /// The strongest algorithm present, the only one that counts.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether the bytes are those that were hashed.
    #[must_use]
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let actual = self.algorithm.digest(bytes);
        self.digests.contains(&actual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(algorithm: Algorithm, bytes: &[u8]) -> String {
        format!(
            "{}-{}",
            algorithm.name(),
            STANDARD.encode(algorithm.digest(bytes))
        )
    }

    #[test]
    fn every_algorithm_verifies_its_bytes_and_no_others() {
        for algorithm in Algorithm::ALL {
            let integrity = Integrity::parse(&item(algorithm, b"x")).expect("usable");
            assert_eq!(integrity.algorithm(), algorithm);
            assert!(integrity.matches(b"x"));
            assert!(!integrity.matches(b"y"));
        }
        // The hash of the empty input from FIPS 180-4's examples, so that our own encoder is not its only witness.
        let known = "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=";
        assert!(Integrity::parse(known).expect("usable").matches(b""));
    }

    #[test]
    fn only_the_strongest_counts_and_any_of_its_hashes_will_do() {
        let weak_is_right = format!(
            "{} {}",
            item(Algorithm::Sha1, b"x"),
            item(Algorithm::Sha512, b"other")
        );
        let (weak, strong) = weak_is_right.split_once(' ').expect("two hashes");
        for text in [weak_is_right.clone(), format!("{strong} {weak}")] {
            let integrity = Integrity::parse(&text).expect("usable");
            assert_eq!(integrity.algorithm(), Algorithm::Sha512);
            assert!(!integrity.matches(b"x"));
        }
        let either = format!("{weak_is_right}\n{}?opt", item(Algorithm::Sha512, b"x"));
        assert!(Integrity::parse(&either).expect("usable").matches(b"x"));
    }

    #[test]
    fn nothing_falls_back_to_a_weaker_hash() {
        for text in ["", "md5-abc", "nonsense"] {
            assert_eq!(
                Integrity::parse(text),
                Err(InvalidIntegrity::Empty),
                "{text}"
            );
        }
        let text = format!("sha512-AAAA {}", item(Algorithm::Sha1, b"x"));
        assert_eq!(
            Integrity::parse(&text),
            Err(InvalidIntegrity::Digest(Algorithm::Sha512))
        );
    }

    #[test]
    fn a_shasum_becomes_integrity_text() {
        let hex = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
        let text = Integrity::text_of_shasum(hex).expect("a shasum");
        assert_eq!(text, "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=");
        assert_eq!(Integrity::text_of_shasum("da39"), None);
        assert_eq!(Integrity::text_of_shasum(&"é".repeat(20)), None);
    }
}
