//! Page tokens: opaque to callers, and bound to the other arguments of the call.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

/// Where a list goes on. The text carries the last key that was shown and a digest of the call's other arguments, so that a
/// token cannot be used with another filter, which would skip or repeat rows in silence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageToken {
    /// The last key of the page before.
    pub after: String,
}

/// The token is malformed, or belongs to a call with other arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the page token is malformed or belongs to a call with other arguments; start again without one"
)]
pub struct InvalidPageToken;

const DIGEST_BYTES: usize = 8;

// === impl PageToken ===

impl PageToken {
    /// A token that goes on after `after`.
    pub fn new(after: impl Into<String>) -> Self {
        Self {
            after: after.into(),
        }
    }

    /// The text for callers; `arguments` are all arguments that select or order rows, in a fixed order.
    #[must_use]
    pub fn encode(&self, arguments: &[&str]) -> String {
        let mut bytes = digest(arguments).to_vec();
        bytes.extend_from_slice(self.after.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a caller's text; the empty text is the first page.
    ///
    /// # Errors
    /// If the text is not a token of a call with these arguments.
    pub fn decode(text: &str, arguments: &[&str]) -> Result<Option<Self>, InvalidPageToken> {
        if text.is_empty() {
            return Ok(None);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidPageToken)?;
        let (found, after) = bytes
            .split_at_checked(DIGEST_BYTES)
            .ok_or(InvalidPageToken)?;
        if found != digest(arguments) {
            return Err(InvalidPageToken);
        }
        let after = String::from_utf8(after.to_vec()).map_err(|_| InvalidPageToken)?;
        Ok(Some(Self { after }))
    }
}

fn digest(arguments: &[&str]) -> [u8; DIGEST_BYTES] {
    let mut hash = Sha256::new();
    for argument in arguments {
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        hash.update((argument.len() as u64).to_be_bytes());
        hash.update(argument.as_bytes());
    }
    let mut out = [0; DIGEST_BYTES];
    out.copy_from_slice(&hash.finalize()[..DIGEST_BYTES]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_bound_to_the_arguments() {
        let token = PageToken::new("@a/b");
        let text = token.encode(&["query", "x"]);
        assert_eq!(PageToken::decode(&text, &["query", "x"]), Ok(Some(token)));
        assert_eq!(
            PageToken::decode(&text, &["query", "y"]),
            Err(InvalidPageToken)
        );
        assert_eq!(
            PageToken::decode(&text, &["queryx", ""]),
            Err(InvalidPageToken)
        );
        assert_eq!(PageToken::decode("", &[]), Ok(None));
        for garbage in ["A", "!!", "AAAA"] {
            assert_eq!(PageToken::decode(garbage, &[]), Err(InvalidPageToken));
        }
    }
}
