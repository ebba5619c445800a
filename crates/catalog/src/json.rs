//! JSON from others: size and depth are checked before anything is built, and no error quotes the text.

use serde_json::Value;

/// What is read at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonLimits {
    /// Longer texts are refused unread.
    pub max_bytes: usize,
    /// Arrays and objects in each other; deeper texts are refused before they are parsed.
    pub max_depth: usize,
}

/// Why a text was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// It is not JSON.
    #[error("not JSON at line {line}, column {column} (byte {position})")]
    Syntax {
        /// From 1.
        line: usize,
        /// From 1, in bytes.
        column: usize,
        /// From 0, in bytes.
        position: usize,
    },
    /// It is too large.
    #[error("it has {size} bytes; at most {limit} are read")]
    TooLarge {
        /// In bytes.
        size: usize,
        /// In bytes.
        limit: usize,
    },
    /// It is nested too deeply.
    #[error("it is nested more than {limit} levels deep")]
    TooDeep {
        /// In levels.
        limit: usize,
    },
}

/// Parses a text within limits.
///
/// # Errors
/// If it exceeds a limit or is not JSON.
pub(crate) fn parse(text: &str, limits: JsonLimits) -> Result<Value, JsonError> {
    if text.len() > limits.max_bytes {
        return Err(JsonError::TooLarge {
            size: text.len(),
            limit: limits.max_bytes,
        });
    }
    if depth(text) > limits.max_depth {
        return Err(JsonError::TooDeep {
            limit: limits.max_depth,
        });
    }
    serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line().max(1), error.column().max(1));
        let line_start: usize = text
            .split_inclusive('\n')
            .take(line - 1)
            .map(str::len)
            .sum();
        JsonError::Syntax {
            line,
            column,
            position: (line_start + column - 1).min(text.len()),
        }
    })
}

/// How deeply brackets outside of strings are nested.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: JsonLimits = JsonLimits {
        max_bytes: 64,
        max_depth: 3,
    };

    #[test]
    fn limits_hold_before_parsing() {
        assert!(parse(r#"{"a":[{"b":"[[[[\"[["}]}"#, LIMITS).is_ok());
        assert_eq!(
            parse("[[[[]]]]", LIMITS),
            Err(JsonError::TooDeep { limit: 3 })
        );
        assert!(matches!(
            parse(&" ".repeat(65), LIMITS),
            Err(JsonError::TooLarge {
                size: 65,
                limit: 64
            })
        ));
    }

    #[test]
    fn a_syntax_error_has_a_position_and_no_text() {
        let text = "{\n  \"password\": hunter2\n}";
        let error = parse(text, LIMITS).expect_err("not JSON");
        let JsonError::Syntax { line, position, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(line, 2);
        assert!(text[..position].len() >= 16 && position <= text.len());
        assert!(!error.to_string().contains("hunter2"));
        assert!(matches!(
            parse("", LIMITS),
            Err(JsonError::Syntax { position: 0, .. })
        ));
    }
}
