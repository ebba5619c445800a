//! Secret values: kept as keyed hashes, enough to compare, and never shown.
//!
//! A plain hash of a password is as good as the password to whoever can guess. The key is the operator's and is not in the
//! database. A hash names its key, so that after the key was changed a value is not compared with one hashed before.

use sha2::{Digest as _, Sha256};

use crate::{
    canonical::{self, Mode},
    document::{Node, Value},
};

/// The member that a hash is kept under.
const MEMBER: &str = "$hash";
/// The block of SHA-256.
const BLOCK_BYTES: usize = 64;
/// The shortest secret that a key is made from.
pub const MIN_KEY_BYTES: usize = 16;

/// What values at secret paths are hashed with.
#[derive(Clone)]
pub struct HashKey {
    inner: [u8; BLOCK_BYTES],
    outer: [u8; BLOCK_BYTES],
    id: String,
}

/// What became of comparing two secret values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sameness {
    Same,
    Different,
    /// They were hashed with different keys.
    Unknown,
}

// === impl HashKey ===

impl HashKey {
    /// From a secret of at least [`MIN_KEY_BYTES`]; `None` if it is shorter.
    #[must_use]
    pub fn new(secret: &str) -> Option<Self> {
        (secret.len() >= MIN_KEY_BYTES).then(|| Self::from_bytes(secret.as_bytes()))
    }

    fn from_bytes(secret: &[u8]) -> Self {
        let mut block = [0; BLOCK_BYTES];
        if secret.len() > BLOCK_BYTES {
            block[..32].copy_from_slice(&Sha256::digest(secret));
        } else {
            block[..secret.len()].copy_from_slice(secret);
        }
        let mut key = Self {
            inner: block.map(|byte| byte ^ 0x36),
            outer: block.map(|byte| byte ^ 0x5c),
            id: String::new(),
        };
        key.id = hex::encode(&key.mac(b"the name of this key")[..4]);
        key
    }

    /// Names the key, and does not give it away.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// HMAC (RFC 2104) with SHA-256.
    fn mac(&self, message: &[u8]) -> [u8; 32] {
        let inner = Sha256::new_with_prefix(self.inner).chain_update(message);
        let outer = Sha256::new_with_prefix(self.outer).chain_update(inner.finalize());
        outer.finalize().into()
    }

    /// What is kept in place of a value at a path: JSON. Equal values at one path have equal hashes, at two paths they have not.
    pub(crate) fn hash(&self, path: &str, value: &Value<'_>) -> String {
        let mut message = path.as_bytes().to_vec();
        message.push(0);
        canonical::write(&mut message, value, Mode::DEFAULT);
        let hash = hex::encode(self.mac(&message));
        format!("{{\"{MEMBER}\":\"{}:{hash}\"}}", self.id)
    }
}

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HashKey({})", self.id)
    }
}

/// The key's name and the hash, if that is what a value is.
pub(crate) fn hashed<'a>(value: &'a Value<'_>) -> Option<(&'a str, &'a str)> {
    let Node::Map(members) = &value.node else {
        return None;
    };
    match members.as_slice() {
        [
            (
                name,
                Value {
                    node: Node::Text(text),
                    ..
                },
            ),
        ] if name == MEMBER => text.split_once(':'),
        _ => None,
    }
}

/// Of what can be told.
pub(crate) fn of_equal(equal: bool) -> Sameness {
    if equal {
        Sameness::Same
    } else {
        Sameness::Different
    }
}

/// Compares two values at a secret path. Either may be from before the path was declared secret, and not be hashed yet.
pub(crate) fn sameness(
    key: Option<&HashKey>,
    path: impl Fn() -> String,
    one: &Value<'_>,
    other: &Value<'_>,
) -> Sameness {
    let (plain, (id, hash)) = match (hashed(one), hashed(other)) {
        (Some((id, hash)), Some((other_id, other_hash))) => {
            return match id == other_id {
                true => of_equal(hash == other_hash),
                false => Sameness::Unknown,
            };
        }
        (None, None) => return of_equal(canonical::equal(one, other, Mode::DEFAULT)),
        (Some(hashed), None) => (other, hashed),
        (None, Some(hashed)) => (one, hashed),
    };
    match key.filter(|key| key.id == id) {
        Some(key) => of_equal(key.hash(&path(), plain).contains(hash)),
        None => Sameness::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value<'_> {
        Value::read(text).expect("JSON")
    }

    #[test]
    fn the_mac_is_that_of_rfc_4231() {
        let mac = |key: &[u8], message: &[u8]| hex::encode(HashKey::from_bytes(key).mac(message));
        assert_eq!(
            mac(b"Jefe", b"what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            mac(
                &[0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First"
            ),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn hashes_are_compared_and_give_nothing_away() {
        let key = HashKey::new("sixteen bytes or more").expect("long enough");
        let other = HashKey::new("sixteen bytes or less").expect("long enough");
        let (one, two) = (value("\"hunter2\""), value("\"hunter3\""));
        let hash = key.hash("/password", &one);
        assert!(!hash.contains("hunter"));
        assert_eq!(key.hash("/password", &one), hash);
        assert_ne!(key.hash("/token", &one), hash);
        assert_ne!(other.hash("/password", &one), hash);
        let path = || "/password".to_owned();
        let (kept, of_two) = (value(&hash), key.hash("/password", &two));
        let theirs = other.hash("/password", &one);
        let (of_two, theirs) = (value(&of_two), value(&theirs));
        let compare = |one, other| sameness(Some(&key), path, one, other);
        assert_eq!(compare(&kept, &one), Sameness::Same);
        assert_eq!(compare(&two, &kept), Sameness::Different);
        assert_eq!(compare(&kept, &kept), Sameness::Same);
        assert_eq!(compare(&kept, &of_two), Sameness::Different);
        assert_eq!(compare(&kept, &theirs), Sameness::Unknown);
        assert_eq!(compare(&one, &two), Sameness::Different);
        assert_eq!(sameness(Some(&other), path, &kept, &one), Sameness::Unknown);
        assert_eq!(sameness(None, path, &kept, &one), Sameness::Unknown);
    }

    #[test]
    fn a_short_secret_makes_no_key() {
        assert!(HashKey::new("fifteen bytes..").is_none());
        let key = HashKey::new("sixteen bytes...").expect("long enough");
        assert!(!format!("{key:?}").contains("sixteen"));
    }
}
