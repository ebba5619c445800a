//! A JSON document as it is compared: read once, borrowed from its text.
//!
//! A sweep reads millions of small documents and keeps none of them. A tree that owns its strings costs an allocation for each;
//! here strings point into the text unless they hold an escape, numbers stay text, so that no digit is lost, and the members of
//! a map are sorted, so that two maps are compared side by side. Each value knows its own text: two lists with the same text are
//! equal without being looked into, and what is shown to a person is what was written.

use std::borrow::Cow;

/// Levels of maps and lists in a document.
pub const MAX_DEPTH: usize = 32;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Node<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// As it was written.
    Number(&'a str),
    /// Without its escapes.
    Text(Cow<'a, str>),
    /// In the order of the text.
    List(Vec<Value<'a>>),
    /// Sorted by name; of several members with one name, the last.
    Map(Vec<(Cow<'a, str>, Value<'a>)>),
}

/// A value with its own text.
#[derive(Debug, Clone, PartialEq)]
pub struct Value<'a> {
    /// What it is.
    pub node: Node<'a>,
    /// How it was written.
    pub text: &'a str,
}

/// The text is no JSON document that can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON.
    #[error("it is not JSON: byte {0} is unexpected")]
    Syntax(usize),
    /// Maps and lists within each other, too many.
    #[error("it has more than {MAX_DEPTH} levels")]
    TooDeep,
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

// === impl Value ===

impl<'a> Value<'a> {
    /// Reads a document.
    ///
    /// # Errors
    /// If the text is not JSON, or is too deep.
    pub fn read(text: &'a str) -> Result<Self, DocumentError> {
        let mut reader = Reader { text, at: 0 };
        reader.space();
        let value = reader.value(0)?;
        reader.space();
        if reader.at == text.len() {
            Ok(value)
        } else {
            Err(reader.unexpected())
        }
    }

    /// The member of that name; `None` if it has none, or is no map.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Self> {
        let Node::Map(members) = &self.node else {
            return None;
        };
        members
            .binary_search_by(|(key, _)| key.as_ref().cmp(name))
            .ok()
            .map(|at| &members[at].1)
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn unexpected(&self) -> DocumentError {
        DocumentError::Syntax(self.at)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), DocumentError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, DocumentError> {
        if depth > MAX_DEPTH {
            return Err(DocumentError::TooDeep);
        }
        let begin = self.at;
        let node = match self.peek() {
            Some(b'"') => Node::Text(self.string()?),
            Some(b'{') => Node::Map(self.members(depth)?),
            Some(b'[') => Node::List(self.elements(depth)?),
            Some(b't') => self.word("true", Node::Bool(true))?,
            Some(b'f') => self.word("false", Node::Bool(false))?,
            Some(b'n') => self.word("null", Node::Null)?,
            Some(b'-' | b'0'..=b'9') => Node::Number(self.number()?),
            _ => return Err(self.unexpected()),
        };
        Ok(Value {
            node,
            text: &self.text[begin..self.at],
        })
    }

    fn word(&mut self, word: &str, node: Node<'a>) -> Result<Node<'a>, DocumentError> {
        if self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(node)
        } else {
            Err(self.unexpected())
        }
    }

    fn digits(&mut self) -> Result<(), DocumentError> {
        let begin = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == begin {
            return Err(self.unexpected());
        }
        Ok(())
    }

    fn number(&mut self) -> Result<&'a str, DocumentError> {
        let begin = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(&self.text[begin..self.at])
    }

    fn string(&mut self) -> Result<Cow<'a, str>, DocumentError> {
        self.expect(b'"')?;
        let begin = self.at;
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(self.at) {
                Some(b'"') => {
                    let text = &self.text[begin..self.at];
                    self.at += 1;
                    return Ok(Cow::Borrowed(text));
                }
                Some(b'\\') => return self.escaped(begin).map(Cow::Owned),
                Some(0x00..=0x1f) | None => return Err(self.unexpected()),
                Some(_) => self.at += 1,
            }
        }
    }

    /// The rest of a string, from its first escape on.
    fn escaped(&mut self, begin: usize) -> Result<String, DocumentError> {
        let mut text = self.text[begin..self.at].to_owned();
        loop {
            let run = self.at;
            while self
                .peek()
                .is_some_and(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\')
            {
                self.at += 1;
            }
            text.push_str(&self.text[run..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => {
                    self.at += 1;
                    text.push(self.escape()?);
                }
                _ => return Err(self.unexpected()),
            }
        }
    }

    fn escape(&mut self) -> Result<char, DocumentError> {
        let letter = self.peek().ok_or_else(|| self.unexpected())?;
        let plain = match letter {
            b'"' | b'\\' | b'/' => char::from(letter),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                self.at += 1;
                return self.code_point();
            }
            _ => return Err(self.unexpected()),
        };
        self.at += 1;
        Ok(plain)
    }

    fn code_point(&mut self) -> Result<char, DocumentError> {
        let first = self.unit()?;
        let code = match first {
            0xd800..=0xdbff => {
                self.expect(b'\\')?;
                self.expect(b'u')?;
                let second = self.unit()?;
                if !(0xdc00..=0xdfff).contains(&second) {
                    return Err(self.unexpected());
                }
                0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
            }
            other => other,
        };
        char::from_u32(code).ok_or_else(|| self.unexpected())
    }

    fn unit(&mut self) -> Result<u32, DocumentError> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let unit = digits
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .ok_or_else(|| self.unexpected())?;
        self.at += 4;
        Ok(unit)
    }

    fn elements(&mut self, depth: usize) -> Result<Vec<Value<'a>>, DocumentError> {
        self.at += 1;
        self.space();
        let mut elements = Vec::new();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(elements);
        }
        loop {
            self.space();
            elements.push(self.value(depth + 1)?);
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(elements);
                }
                _ => return Err(self.unexpected()),
            }
        }
    }

    fn members(&mut self, depth: usize) -> Result<Vec<(Cow<'a, str>, Value<'a>)>, DocumentError> {
        self.at += 1;
        self.space();
        let mut members = Vec::new();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(members);
        }
        members.reserve(8);
        loop {
            self.space();
            let name = self.string()?;
            self.space();
            self.expect(b':')?;
            self.space();
            members.push((name, self.value(depth + 1)?));
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    break;
                }
                _ => return Err(self.unexpected()),
            }
        }
        sort(&mut members);
        Ok(members)
    }
}

/// Sorts by name, and of several members with one name keeps the last, as every reader of JSON does that does not refuse them.
fn sort(members: &mut Vec<(Cow<'_, str>, Value<'_>)>) {
    if members.windows(2).all(|pair| pair[0].0 < pair[1].0) {
        return;
    }
    members.sort_by(|one, other| one.0.cmp(&other.0));
    members.dedup_by(|later, kept| {
        let same = later.0 == kept.0;
        if same {
            std::mem::swap(later, kept);
        }
        same
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tests::any_json;

    /// The same as serde_json has it.
    fn plain(value: &Value<'_>) -> serde_json::Value {
        match &value.node {
            Node::Null => serde_json::Value::Null,
            Node::Bool(flag) => (*flag).into(),
            Node::Number(text) => serde_json::from_str(text).expect("a number"),
            Node::Text(text) => text.as_ref().into(),
            Node::List(elements) => elements.iter().map(plain).collect(),
            Node::Map(members) => members
                .iter()
                .map(|(name, value)| (name.clone().into_owned(), plain(value)))
                .collect(),
        }
    }

    fn agrees(text: &str) -> Result<(), TestCaseError> {
        let ours = Value::read(text);
        let theirs: Result<serde_json::Value, _> = serde_json::from_str(text);
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => {
                prop_assert_eq!(plain(&ours), theirs);
                prop_assert_eq!(ours.text, text.trim_matches([' ', '\n', '\r', '\t']));
            }
            (Err(_), Err(_)) => {}
            // A number beyond what a float holds is kept here, and refused there.
            (Ok(_), Err(error)) => prop_assert!(
                error.to_string().contains("out of range"),
                "{text}: {error}"
            ),
            (Err(error), Ok(_)) => prop_assert!(false, "{text}: {error}"),
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn it_reads_what_is_written(value in any_json()) {
            agrees(&value.to_string())?;
            agrees(&serde_json::to_string_pretty(&value).expect("JSON"))?;
        }

        #[test]
        fn it_refuses_what_is_broken(value in any_json(), at in any::<prop::sample::Index>(), with in prop::sample::select(b"\"\\{}[],:0.-eE+u \nt\0".to_vec())) {
            let mut text = value.to_string().into_bytes();
            let at = at.index(text.len());
            text[at] = with;
            if let Ok(text) = String::from_utf8(text) {
                agrees(&text)?;
            }
        }

        #[test]
        fn it_reads_any_text_as_serde_does(text in r#"[\[\]{}",:0-9eE.+\-\\u \n a-dntrufls]{0,24}"#) {
            agrees(&text)?;
        }
    }

    #[test]
    fn escapes_and_corners() {
        for text in [
            r#""\ud83d\ude00 \u00e9 \/ \b\f\n\r\t\\\"""#,
            r#""\ud83d""#,
            r#""\ude00""#,
            r#""\ud83d\u0041""#,
            r#""\u12""#,
            r#""\x""#,
            "\"\u{7f}\u{e9}\"",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "1E+05",
            "-0.0e-3",
            "nul",
            "[1,]",
            "{\"a\":1,}",
            "{\"a\" 1}",
            "{1:1}",
            "",
            " ",
            "1 1",
        ] {
            agrees(text).expect(text);
        }
    }

    #[test]
    fn the_last_of_several_members_with_one_name_counts() {
        let value = Value::read(r#"{"b":1,"a":2,"b":3,"a":4,"b":5}"#).expect("JSON");
        assert_eq!(plain(&value), serde_json::json!({"a": 4, "b": 5}));
        let member = value.member("b").map(|value| value.text);
        assert_eq!(member, Some("5"));
        assert_eq!(value.member("c"), None);
    }

    #[test]
    fn levels_are_bounded() {
        let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        assert!(Value::read(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(
            Value::read(&nested(MAX_DEPTH + 1)),
            Err(DocumentError::TooDeep)
        );
        assert_eq!(Value::read(&nested(100_000)), Err(DocumentError::TooDeep));
    }
}
