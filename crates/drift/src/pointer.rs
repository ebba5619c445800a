//! Paths within documents: JSON Pointers (RFC 6901).
//!
//! Only the names of members are followed. A list is compared as a whole, so that no path leads into one.

use std::borrow::Cow;

/// Names in one path, at most.
const MAX_SEGMENTS: usize = crate::document::MAX_DEPTH;

/// Why a text is no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PointerError {
    /// It does not begin with `/`.
    #[error("a path begins with `/`, for example `/size_slug`")]
    NoSlash,
    /// A tilde stands for nothing.
    #[error("`~` is written `~0`, and `/` within a name `~1`")]
    Escape,
    /// Too many names.
    #[error("it has more than {MAX_SEGMENTS} names")]
    TooDeep,
}

/// The names that a path consists of; none for the empty path, which is the whole document.
///
/// # Errors
/// If the text is no path.
pub fn parse(path: &str) -> Result<Vec<Cow<'_, str>>, PointerError> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let names = path.strip_prefix('/').ok_or(PointerError::NoSlash)?;
    let names: Vec<_> = names.split('/').map(unescape).collect::<Result<_, _>>()?;
    if names.len() > MAX_SEGMENTS {
        return Err(PointerError::TooDeep);
    }
    Ok(names)
}

/// The path of these names.
pub fn format<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let mut path = String::new();
    for name in names {
        path.push('/');
        for letter in name.as_ref().chars() {
            match letter {
                '~' => path.push_str("~0"),
                '/' => path.push_str("~1"),
                letter => path.push(letter),
            }
        }
    }
    path
}

fn unescape(name: &str) -> Result<Cow<'_, str>, PointerError> {
    if !name.contains('~') {
        return Ok(Cow::Borrowed(name));
    }
    let mut plain = String::with_capacity(name.len());
    let mut letters = name.chars();
    while let Some(letter) = letters.next() {
        plain.push(match (letter, letter == '~') {
            (letter, false) => letter,
            (_, true) => match letters.next() {
                Some('0') => '~',
                Some('1') => '/',
                _ => return Err(PointerError::Escape),
            },
        });
    }
    Ok(Cow::Owned(plain))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_survive(names in prop::collection::vec("[a~/01é ]{0,4}", 0..5)) {
            let path = format(&names);
            prop_assert_eq!(parse(&path).expect("a path"), names);
        }
    }

    #[test]
    fn what_is_no_path_says_why() {
        assert_eq!(parse("a"), Err(PointerError::NoSlash));
        assert_eq!(parse("/a~"), Err(PointerError::Escape));
        assert_eq!(parse("/a~2"), Err(PointerError::Escape));
        assert_eq!(parse(&"/a".repeat(33)), Err(PointerError::TooDeep));
        assert_eq!(parse("/"), Ok(vec![Cow::Borrowed("")]));
    }
}
