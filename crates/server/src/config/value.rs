//! A value as it was written, before it has a meaning.

use std::fmt;

use toml::de::DeValue;

/// A TOML value with the lines of its parts.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    List(Vec<Located>),
    Table(Vec<(String, Located)>),
    /// A date, or a number that no type holds, as it was written.
    Other(String),
}

/// A value and the line that it begins on, counted from 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Located {
    pub(super) value: Value,
    pub(super) line: usize,
}

/// Finds lines of byte offsets.
pub(super) struct Lines<'a>(pub(super) &'a str);

// === impl Lines ===

impl Lines<'_> {
    pub(super) fn line(&self, offset: usize) -> usize {
        let before = self.0.as_bytes().iter().take(offset);
        before.filter(|byte| **byte == b'\n').count() + 1
    }
}

// === impl Located ===

impl Located {
    pub(super) fn of(value: &toml::Spanned<DeValue<'_>>, lines: &Lines<'_>) -> Self {
        Self {
            value: Value::of(value.get_ref(), lines),
            line: lines.line(value.span().start),
        }
    }
}

// === impl Value ===

impl Value {
    pub(super) fn of(value: &DeValue<'_>, lines: &Lines<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
                .map_or_else(|_| Self::Other(integer.as_str().to_owned()), Self::Integer),
            DeValue::Float(float) => float
                .as_str()
                .parse()
                .map_or_else(|_| Self::Other(float.as_str().to_owned()), Self::Float),
            DeValue::Boolean(boolean) => Self::Boolean(*boolean),
            DeValue::Datetime(time) => Self::Other(time.to_string()),
            DeValue::Array(array) => {
                Self::List(array.iter().map(|item| Located::of(item, lines)).collect())
            }
            DeValue::Table(table) => Self::Table(
                table
                    .iter()
                    .map(|(key, value)| (key.get_ref().to_string(), Located::of(value, lines)))
                    .collect(),
            ),
        }
    }

    /// Reads the text of a variable or flag as the type that the default has; text that is not of that type stays text, and
    /// is refused as such by the reader.
    pub(super) fn of_text(text: &str, like: &Self) -> Self {
        let parsed = match like {
            Self::Text(_) | Self::Other(_) => None,
            Self::Integer(_) => text.replace('_', "").parse().ok().map(Self::Integer),
            Self::Float(_) => text.parse().ok().map(Self::Float),
            Self::Boolean(_) => text.parse().ok().map(Self::Boolean),
            Self::List(_) | Self::Table(_) => DeValue::parse(text)
                .ok()
                .map(|value| Self::of(value.get_ref(), &Lines(text))),
        };
        parsed.unwrap_or_else(|| Self::Text(text.to_owned()))
    }

    /// The name of the type, with its article.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(_) => "something else",
        }
    }
}

impl fmt::Display for Value {
    /// As TOML.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => toml::Value::String(text.clone()).fmt(f),
            Self::Integer(integer) => integer.fmt(f),
            Self::Float(float) => write!(f, "{float:?}"),
            Self::Boolean(boolean) => boolean.fmt(f),
            Self::List(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        f.write_str(", ")?;
                    }
                    item.value.fmt(f)?;
                }
                f.write_str("]")
            }
            Self::Table(entries) => {
                f.write_str("{ ")?;
                for (index, (key, value)) in entries.iter().enumerate() {
                    if index > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{key} = {}", value.value)?;
                }
                f.write_str(" }")
            }
            Self::Other(text) => text.fmt(f),
        }
    }
}
