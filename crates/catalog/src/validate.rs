//! Checking a document, which usually is a credential, against a schema.
//!
//! Nothing of the document's content may appear in the answer. Values are easy: messages are built here from the kind of the
//! violation and from the schema alone, and never from the library's texts. Property names are harder, because a name can
//! be a secret too (a token pasted as a key) and yet is what somebody needs to mend the document. The rule: a name is shown
//! only if the schema mentions it. Any other is told by its position among its siblings ("its 3rd property"), and the pointer
//! ends at the object around it; if a declared name is similar, that one is suggested.

use std::fmt::Write as _;

use jsonschema::{
    ValidationError,
    error::{TypeKind, ValidationErrorKind},
    paths::LocationSegment,
};
use serde_json::Value;
use steadfast_api::schema::v1::Violation;

use crate::{
    field,
    json::{self, JsonError, JsonLimits},
    schema::Compiled,
    weigh::{STEPS_MAX, TooMuch, weigh},
};

/// What is read of a document, unless less is configured.
pub const DOCUMENT_LIMITS: JsonLimits = JsonLimits {
    max_bytes: 1 << 20,
    max_depth: 64,
};

/// No answer lists more violations.
pub const MAX_VIOLATIONS: usize = 1_000;

/// How many characters of a schema's own values (limits, patterns, options) a message shows.
const MAX_SHOWN_CHARS: usize = 200;

/// Declared names this similar (0 to 1) to an unknown one are suggested.
const MIN_SUGGESTION: f64 = 0.6;

/// Why a document is not checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It exceeds a limit or is not JSON.
    #[error(transparent)]
    Document(#[from] JsonError),
    /// The schema leads back and forth, or the document has too many parts.
    #[error(
        "checking this document takes more than {STEPS_MAX} steps, or leads too deep: give fewer values at once, or have the \
         package's schema refer less"
    )]
    TooMuch,
}

/// Checks a document: all its violations, in the order of their pointers.
///
/// # Errors
/// If the text exceeds the limits or is not JSON, or if checking it takes too long.
pub fn validate(
    schema: &Compiled,
    text: &str,
    limits: JsonLimits,
) -> Result<Vec<Violation>, Refused> {
    let document = json::parse(text, limits)?;
    weigh(&schema.document, &document).map_err(|TooMuch| Refused::TooMuch)?;
    let mut violations = Vec::new();
    for error in schema.validator.iter_errors(&document) {
        let place = Place::of(schema, &document, &error);
        place.report(schema, &error, &mut violations);
        if violations.len() >= MAX_VIOLATIONS {
            violations.truncate(MAX_VIOLATIONS);
            break;
        }
    }
    violations.sort_by(|a, b| {
        let key = |violation: &Violation| (violation.pointer.clone(), violation.keyword.clone());
        key(a).cmp(&key(b))
    });
    violations.dedup();
    Ok(violations)
}

/// Where a violation is, in words that are safe to show.
struct Place<'a> {
    /// The tokens as they are in the document, for looking up titles. Not to be shown.
    path: Vec<String>,
    /// As far as the names are the schema's.
    pointer: String,
    /// The way on from there, such as "its 3rd property: "; usually empty.
    onward: String,
    /// The value there.
    value: Option<&'a Value>,
}

// === impl Place ===

impl<'a> Place<'a> {
    fn of(schema: &Compiled, document: &'a Value, error: &ValidationError<'_>) -> Self {
        let mut place = Self {
            path: Vec::new(),
            pointer: String::new(),
            onward: String::new(),
            value: Some(document),
        };
        for segment in error.instance_path().iter() {
            match segment {
                LocationSegment::Property(name) => place.enter(schema, &name),
                LocationSegment::Index(index) => {
                    place.enter_item(index);
                }
            }
        }
        place
    }

    fn enter(&mut self, schema: &Compiled, name: &str) {
        if self.onward.is_empty() && schema.names.contains(name) {
            self.pointer.push('/');
            self.pointer.push_str(&escape(name));
        } else {
            let position = self
                .value
                .and_then(Value::as_object)
                .and_then(|object| object.keys().position(|key| key == name));
            let _ = match position {
                Some(index) => write!(self.onward, "its {} property: ", ordinal(index + 1)),
                None => write!(self.onward, "a property of it: "),
            };
        }
        self.path.push(name.to_owned());
        self.value = self.value.and_then(|value| value.get(name));
    }

    fn enter_item(&mut self, index: usize) {
        if self.onward.is_empty() {
            let _ = write!(self.pointer, "/{index}");
        } else {
            let _ = write!(self.onward, "its {} item: ", ordinal(index + 1));
        }
        self.path.push(index.to_string());
        self.value = self.value.and_then(|value| value.get(index));
    }

    fn report(&self, schema: &Compiled, error: &ValidationError<'_>, out: &mut Vec<Violation>) {
        match error.kind() {
            ValidationErrorKind::Required { property } => {
                let mut missing = self.clone_path();
                // The name is the schema's own: it stands in `required` or `dependencies`.
                missing.enter(schema, property.as_str().unwrap_or_default());
                out.push(missing.violation(schema, error.kind(), "is required".into()));
            }
            ValidationErrorKind::AdditionalProperties { unexpected }
            | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
                for name in unexpected.iter().take(MAX_VIOLATIONS - out.len()) {
                    out.push(self.unexpected(schema, error.kind(), name));
                }
            }
            ValidationErrorKind::PropertyNames { error: inner } => {
                let message = format!(
                    "has a property whose name is not allowed: {}",
                    message(inner.kind())
                );
                out.push(self.violation(schema, error.kind(), message));
            }
            kind => out.push(self.violation(schema, kind, message(kind))),
        }
    }

    fn unexpected(&self, schema: &Compiled, kind: &ValidationErrorKind, name: &str) -> Violation {
        if schema.names.contains(name) {
            let mut known = self.clone_path();
            known.enter(schema, name);
            return known.violation(schema, kind, "is not allowed here".into());
        }
        let position = self
            .value
            .and_then(Value::as_object)
            .and_then(|object| object.keys().position(|key| key == name));
        let mut message = match position {
            Some(index) => format!(
                "its {} property is not one that the schema allows",
                ordinal(index + 1)
            ),
            None => "has a property that the schema does not allow".to_owned(),
        };
        let nearest = field::declared_names(&schema.document, &self.path)
            .into_iter()
            .map(|declared| {
                let similarity = strsim::normalized_damerau_levenshtein(
                    &declared.to_lowercase(),
                    &name.chars().take(64).collect::<String>().to_lowercase(),
                );
                (similarity, declared)
            })
            .max_by(|(a, _), (b, _)| a.total_cmp(b));
        if let Some((similarity, declared)) = nearest
            && similarity >= MIN_SUGGESTION
        {
            let _ = write!(message, "; did you mean `{}`?", shorten(declared));
        }
        self.violation(schema, kind, message)
    }

    fn violation(
        &self,
        schema: &Compiled,
        kind: &ValidationErrorKind,
        message: String,
    ) -> Violation {
        let field = field::describe(&schema.document, &self.path);
        Violation {
            pointer: self.pointer.clone(),
            keyword: kind.keyword().to_owned(),
            message: format!("{}{message}", self.onward),
            title: field.title,
            secret: field.secret,
        }
    }

    fn clone_path(&self) -> Self {
        Self {
            path: self.path.clone(),
            pointer: self.pointer.clone(),
            onward: self.onward.clone(),
            value: self.value,
        }
    }
}

/// What is wrong, said from the schema's side alone.
fn message(kind: &ValidationErrorKind) -> String {
    use ValidationErrorKind as Kind;
    match kind {
        Kind::Type {
            kind: TypeKind::Single(json_type),
        } => format!("expected {}", type_name(json_type.as_str())),
        Kind::Type {
            kind: TypeKind::Multiple(types),
        } => {
            let names: Vec<_> = types
                .iter()
                .map(|json_type| type_name(json_type.as_str()))
                .collect();
            format!("expected {}", names.join(" or "))
        }
        Kind::Format { format } => format!("expected to be {}", format_name(format)),
        Kind::Required { .. } => "is required".into(),
        Kind::Enum { options } => format!("expected one of: {}", listed(options)),
        Kind::Constant { expected_value } => format!("expected {}", shown(expected_value)),
        Kind::Pattern { pattern } => format!("expected to match the pattern {}", shorten(pattern)),
        Kind::MinLength { limit } => format!("expected at least {}", count(*limit, "character")),
        Kind::MaxLength { limit } => format!("expected at most {}", count(*limit, "character")),
        Kind::MinItems { limit } => format!("expected at least {}", count(*limit, "item")),
        Kind::MaxItems { limit } => format!("expected at most {}", count(*limit, "item")),
        Kind::MinProperties { limit } => format!("expected at least {}", properties(*limit)),
        Kind::MaxProperties { limit } => format!("expected at most {}", properties(*limit)),
        Kind::AdditionalItems { limit } => {
            format!("expected at most {}", count(*limit as u64, "item"))
        }
        Kind::Minimum { limit } => format!("expected {} or more", shown(limit)),
        Kind::Maximum { limit } => format!("expected {} or less", shown(limit)),
        Kind::ExclusiveMinimum { limit } => format!("expected more than {}", shown(limit)),
        Kind::ExclusiveMaximum { limit } => format!("expected less than {}", shown(limit)),
        Kind::MultipleOf { multiple_of } => format!("expected a multiple of {multiple_of}"),
        Kind::UniqueItems => "has items that are equal; each may stand once".into(),
        Kind::Contains => "has no item of the kind that the schema asks for".into(),
        Kind::UnevaluatedItems { .. } => "has items that the schema does not allow".into(),
        Kind::ContentEncoding { content_encoding } => {
            format!("expected to be encoded as {}", shorten(content_encoding))
        }
        Kind::FromUtf8 { .. } => "expected to be text once decoded".into(),
        Kind::ContentMediaType { content_media_type } => {
            format!("expected to hold {}", shorten(content_media_type))
        }
        Kind::AnyOf { context } => alternatives(context)
            .unwrap_or_else(|| "fits none of the alternatives that the schema allows".into()),
        Kind::OneOfNotValid { context } => alternatives(context)
            .unwrap_or_else(|| "fits none of the alternatives that the schema allows".into()),
        Kind::OneOfMultipleValid { .. } => {
            "fits several alternatives of which it may fit only one".into()
        }
        Kind::Not { .. } => "is something that the schema forbids".into(),
        Kind::FalseSchema => "is not allowed".into(),
        Kind::AdditionalProperties { .. } | Kind::UnevaluatedProperties { .. } => {
            "has properties that the schema does not allow".into()
        }
        Kind::PropertyNames { .. } => "has a property whose name is not allowed".into(),
        Kind::BacktrackLimitExceeded { .. } | Kind::RegexEngineFailure { .. } => {
            "could not be checked against the schema's pattern, which is too costly".into()
        }
        Kind::Referencing(_) => {
            "could not be checked: the schema refers to something that is not there".into()
        }
        Kind::Custom { .. } => "does not fit the schema".into(),
    }
}

/// "expected a string or expected null", if each alternative asks for one thing about this very place.
fn alternatives(context: &[Vec<ValidationError<'static>>]) -> Option<String> {
    const MAX_ALTERNATIVES: usize = 4;
    if context.is_empty() || context.len() > MAX_ALTERNATIVES {
        return None;
    }
    let place = context[0].first()?.instance_path().as_str();
    let mut texts = Vec::new();
    for errors in context {
        let [error] = errors.as_slice() else {
            return None;
        };
        let nested = matches!(
            error.kind(),
            ValidationErrorKind::AnyOf { .. }
                | ValidationErrorKind::OneOfNotValid { .. }
                | ValidationErrorKind::Required { .. }
        );
        if nested || error.instance_path().as_str() != place {
            return None;
        }
        let text = message(error.kind());
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    Some(texts.join(", or "))
}

fn type_name(json_type: &str) -> &'static str {
    match json_type {
        "string" => "a string",
        "number" => "a number",
        "integer" => "a whole number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "an object",
        _ => "null",
    }
}

fn format_name(format: &str) -> String {
    match format {
        "uri" => "a URI".into(),
        "uri-reference" => "a URI or a relative reference".into(),
        "uri-template" => "a URI template".into(),
        "iri" => "an internationalised URI".into(),
        "email" | "idn-email" => "an email address".into(),
        "hostname" | "idn-hostname" => "a host name".into(),
        "ipv4" => "an IPv4 address".into(),
        "ipv6" => "an IPv6 address".into(),
        "date" => "a date (YYYY-MM-DD)".into(),
        "time" => "a time with a zone (hh:mm:ssZ)".into(),
        "date-time" => "a date and time (RFC 3339)".into(),
        "duration" => "a duration (ISO 8601)".into(),
        "uuid" => "a UUID".into(),
        "regex" => "a regular expression".into(),
        "json-pointer" => "a JSON pointer".into(),
        other => format!("of the format `{}`", shorten(other)),
    }
}

fn count(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

fn properties(count: u64) -> String {
    match count {
        1 => "1 property".into(),
        _ => format!("{count} properties"),
    }
}

fn listed(options: &Value) -> String {
    let options = options.as_array().map(Vec::as_slice).unwrap_or_default();
    let texts: Vec<_> = options.iter().map(Value::to_string).collect();
    shorten(&texts.join(", "))
}

fn shown(value: &Value) -> String {
    shorten(&value.to_string())
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// 1st, 2nd, 3rd, 4th, 11th, 21st.
fn ordinal(number: usize) -> String {
    let suffix = match (number % 10, number % 100) {
        (1, rest) if rest != 11 => "st",
        (2, rest) if rest != 12 => "nd",
        (3, rest) if rest != 13 => "rd",
        _ => "th",
    };
    format!("{number}{suffix}")
}

/// A name as a token of a JSON pointer (RFC 6901).
fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
