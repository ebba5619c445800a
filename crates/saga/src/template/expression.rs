//! Texts with `{{ … }}` in them: where expressions begin and end, and what they refer to, found without running them.

use minijinja::{Expression as Compiled, value::Value as Dynamic};

use super::{TEMPLATE_TEXT_BYTES_MAX, engine, value::is_missing};

/// A part of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// As it is.
    Text(&'a str),
    /// What stands between `{{` and `}}`.
    Expression(&'a str),
}

/// Something that an expression refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// For example `steps`, `droplet`, `output`, `id`. What follows a `[` is not in it.
    pub path: Vec<String>,
    /// For a step's output: the expression has a default wherever it refers to it, or asks whether it is defined.
    pub may_be_missing: bool,
}

/// An expression that can be run.
pub(super) struct Expression<'a> {
    source: &'a str,
    compiled: Compiled<'a, 'a>,
}

/// A word, symbol or literal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Symbol(char),
    Literal,
}

/// Splits a text into what stays and what is replaced.
pub(super) fn split(text: &str) -> Result<Vec<Part<'_>>, String> {
    if text.len() > TEMPLATE_TEXT_BYTES_MAX {
        return Err(format!(
            "{} bytes; a text with `{{{{` has at most {TEMPLATE_TEXT_BYTES_MAX}",
            text.len()
        ));
    }
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some(length) = expression_length(after) else {
            return Err("`{{` without its `}}`".to_owned());
        };
        if !before.is_empty() {
            parts.push(Part::Text(before));
        }
        let (source, closing) = after.split_at(length);
        if source.starts_with(['-', '+']) || source.ends_with(['-', '+']) {
            return Err(format!(
                "`{{{{{source}}}}}`: whitespace control is not supported; put a space after `{{{{`"
            ));
        }
        parts.push(Part::Expression(source));
        rest = closing.get(2..).unwrap_or_default();
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest));
    }
    Ok(parts)
}

/// How many bytes there are before the `}}` that ends the expression, which is neither quoted nor within brackets.
fn expression_length(text: &str) -> Option<usize> {
    let mut depth = 0_u32;
    let mut quote = None;
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match (quote, byte) {
            (Some(_), b'\\') => {
                bytes.next();
            }
            (Some(open), _) if open == byte => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'(' | b'[' | b'{') => depth += 1,
            (None, b'}') if depth == 0 => {
                return text.get(at..)?.starts_with("}}").then_some(at);
            }
            (None, b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
    }
    None
}

/// What a text refers to; nothing if there is no `{{` in it.
pub(super) fn references(text: &str) -> Result<Vec<Reference>, String> {
    if !text.contains("{{") {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for part in split(text)? {
        if let Part::Expression(source) = part {
            let expression = Expression::parse(source)?;
            let tokens = tokens(source);
            check_names(&tokens).map_err(|problem| format!("`{{{{{source}}}}}`: {problem}"))?;
            found.extend(expression.paths().into_iter().map(|path| Reference {
                may_be_missing: may_be_missing(&tokens, &path),
                path,
            }));
        }
    }
    Ok(found)
}

/// Filters and tests are found by name only when they are needed; a definition is refused before.
fn check_names(tokens: &[Token<'_>]) -> Result<(), String> {
    for window in tokens.windows(3) {
        match *window {
            [Token::Symbol('.'), Token::Word(name), Token::Symbol('(')] => {
                return Err(format!(
                    "there are no methods such as `{name}`; use a filter: {}",
                    engine::FILTERS.join(", ")
                ));
            }
            [Token::Word("is"), Token::Word("not"), Token::Word(test)] => known_test(test)?,
            [before, Token::Word("is"), Token::Word(test)]
                if test != "not" && before != Token::Symbol('.') =>
            {
                known_test(test)?;
            }
            _ => {}
        }
    }
    for window in tokens.windows(2) {
        if let [Token::Symbol('|'), Token::Word(filter)] = *window
            && !engine::FILTERS.contains(&filter)
        {
            return Err(format!(
                "there is no filter `{filter}`; there are {}",
                engine::FILTERS.join(", ")
            ));
        }
    }
    Ok(())
}

fn known_test(test: &str) -> Result<(), String> {
    if engine::TESTS.contains(&test) {
        return Ok(());
    }
    Err(format!(
        "there is no test `{test}`; there are {}",
        engine::TESTS.join(", ")
    ))
}

/// Whether the expression copes with the step's output not being there.
fn may_be_missing(tokens: &[Token<'_>], path: &[String]) -> bool {
    let [steps, name, output, ..] = path else {
        return false;
    };
    let head = [
        Token::Word(steps),
        Token::Symbol('.'),
        Token::Word(name),
        Token::Symbol('.'),
        Token::Word(output),
    ];
    let (mut every, mut asked) = (true, false);
    for at in 0..tokens.len() {
        let rest = tokens.get(at..).unwrap_or_default();
        let is_member = at > 0 && tokens.get(at - 1) == Some(&Token::Symbol('.'));
        if is_member || !rest.starts_with(&head) {
            continue;
        }
        match after_members(rest.get(head.len()..).unwrap_or_default()) {
            [Token::Symbol('|'), Token::Word("default" | "d"), ..] => {}
            [Token::Word("is"), Token::Word("defined" | "undefined"), ..]
            | [
                Token::Word("is"),
                Token::Word("not"),
                Token::Word("defined" | "undefined"),
                ..,
            ] => asked = true,
            _ => every = false,
        }
    }
    every || asked
}

/// What follows `.name` and `[…]`, as many as there are.
fn after_members<'t, 's>(mut tokens: &'t [Token<'s>]) -> &'t [Token<'s>] {
    loop {
        match tokens {
            [Token::Symbol('.'), Token::Word(_), rest @ ..] => tokens = rest,
            [Token::Symbol('['), rest @ ..] => {
                let mut depth = 1_u32;
                let end = rest.iter().position(|token| {
                    match token {
                        Token::Symbol('[') => depth += 1,
                        Token::Symbol(']') => depth -= 1,
                        _ => {}
                    }
                    depth == 0
                });
                let Some(end) = end else {
                    return &[];
                };
                tokens = rest.get(end + 1..).unwrap_or_default();
            }
            rest => return rest,
        }
    }
}

/// The tokens of an expression that is known to be well-formed.
fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = source.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' | '\'' => {
                tokens.push(Token::Literal);
                quoted_length(rest, first)
            }
            _ if first.is_alphabetic() || first == '_' => {
                let length = rest
                    .find(|c: char| !c.is_alphanumeric() && c != '_')
                    .unwrap_or(rest.len());
                tokens.push(Token::Word(rest.get(..length).unwrap_or_default()));
                length
            }
            _ if first.is_ascii_digit() => {
                tokens.push(Token::Literal);
                rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '.')
                    .unwrap_or(rest.len())
            }
            _ => {
                tokens.push(Token::Symbol(first));
                first.len_utf8()
            }
        };
        rest = rest.get(length..).unwrap_or_default().trim_start();
    }
    tokens
}

fn quoted_length(text: &str, quote: char) -> usize {
    let mut characters = text.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        if character == '\\' {
            characters.next();
        } else if character == quote {
            return at + quote.len_utf8();
        }
    }
    text.len()
}

// === impl Expression ===

impl<'a> Expression<'a> {
    pub(super) fn parse(source: &'a str) -> Result<Self, String> {
        let wrong = |problem: &str| format!("`{{{{{source}}}}}`: {problem}");
        if source.trim().is_empty() {
            return Err(wrong("there is nothing between the braces"));
        }
        let compiled = engine::environment()
            .compile_expression(source)
            .map_err(|error| wrong(&error.to_string()))?;
        if tokens(source).contains(&Token::Symbol('*')) {
            // It also repeats texts and lists, as often as it is told to.
            return Err(wrong("there is no `*`; use the filter `times`"));
        }
        Ok(Self { source, compiled })
    }

    /// What it refers to.
    pub(super) fn paths(&self) -> Vec<Vec<String>> {
        let mut paths: Vec<Vec<String>> = self
            .compiled
            .undeclared_variables(true)
            .into_iter()
            .map(|path| path.split('.').map(str::to_owned).collect())
            .collect();
        paths.sort();
        paths
    }

    /// Its value, which is never undefined.
    pub(super) fn evaluate(&self, names: &Dynamic) -> Result<Dynamic, String> {
        let wrong = |problem: String| format!("`{{{{{}}}}}`: {problem}", self.source);
        match self.compiled.eval(names.clone()) {
            Ok(value) if !value.is_undefined() => Ok(value),
            Ok(_) => Err(wrong(self.missing(names))),
            Err(error) if error.kind() == minijinja::ErrorKind::UndefinedError => {
                Err(wrong(self.missing(names)))
            }
            Err(error) => Err(wrong(error.to_string())),
        }
    }

    /// Which of the things that it refers to is not there.
    fn missing(&self, names: &Dynamic) -> String {
        for path in self.paths() {
            let mut value = names.clone();
            for (index, part) in path.iter().enumerate() {
                value = value.get_attr(part).unwrap_or(Dynamic::UNDEFINED);
                if is_missing(&value) {
                    let path = path.get(..=index).unwrap_or_default().join(".");
                    return format!("`{path}` is not there, and has no default");
                }
            }
        }
        "something that it refers to is not there, and has no default".to_owned()
    }
}
