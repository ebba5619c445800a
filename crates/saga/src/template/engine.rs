//! The template engine as it is set up here: expressions, strict about what is not there, with fuel and a few filters.

use std::sync::OnceLock;

use minijinja::{
    Environment, Error, ErrorKind, UndefinedBehavior, filters, tests,
    value::{Value as Dynamic, ValueKind},
};

use super::{
    RENDERED_BYTES_MAX,
    value::{Budget, is_missing, to_json, to_text},
};
use crate::secret::url_encoded;

/// Instructions that one expression may take: some sixty references. Each may join two texts that are as long as an input.
const FUEL: u64 = 250;

/// How deep expressions may nest.
const RECURSION_MAX: usize = 64;

/// The largest integer that a float holds exactly, together with all below it.
const FLOAT_EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// Parts that a split may have.
const SPLIT_PARTS_MAX: usize = 10_000;

/// The filters that templates have. None does more work than its input and output are long.
pub const FILTERS: [&str; 20] = [
    "abs",
    "bool",
    "d",
    "default",
    "first",
    "float",
    "int",
    "join",
    "last",
    "length",
    "lower",
    "replace",
    "round",
    "split",
    "string",
    "times",
    "tojson",
    "trim",
    "upper",
    "urlencode",
];

/// The tests that templates have.
pub(super) const TESTS: [&str; 12] = [
    "boolean",
    "defined",
    "endingwith",
    "false",
    "mapping",
    "none",
    "number",
    "sequence",
    "startingwith",
    "string",
    "true",
    "undefined",
];

/// The one environment; it has no templates and changes nothing.
pub(super) fn environment() -> &'static Environment<'static> {
    static ENVIRONMENT: OnceLock<Environment<'static>> = OnceLock::new();
    ENVIRONMENT.get_or_init(build)
}

fn build() -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_MAX);
    add_default(&mut environment);
    add_text_filters(&mut environment);
    add_other_filters(&mut environment);
    add_tests(&mut environment);
    environment
}

fn add_default(environment: &mut Environment<'static>) {
    for name in ["default", "d"] {
        environment.add_filter(
            name,
            |value: &Dynamic, other: Option<Dynamic>, also_if_false: Option<bool>| {
                let replaced =
                    is_missing(value) || (also_if_false.unwrap_or(false) && !value.is_true());
                if replaced {
                    other.unwrap_or_else(|| Dynamic::from(""))
                } else {
                    value.clone()
                }
            },
        );
    }
}

fn add_text_filters(environment: &mut Environment<'static>) {
    environment.add_filter("lower", |value: &Dynamic| Ok(text(value)?.to_lowercase()));
    environment.add_filter("upper", |value: &Dynamic| Ok(text(value)?.to_uppercase()));
    environment.add_filter("trim", |value: &Dynamic| Ok(text(value)?.trim().to_owned()));
    environment.add_filter("string", |value: &Dynamic| text(value));
    environment.add_filter("urlencode", |value: &Dynamic| {
        Ok(url_encoded(&text(value)?))
    });
    environment.add_filter("tojson", |value: &Dynamic| {
        let json = to_json(present(value)?, &mut Budget::new(RENDERED_BYTES_MAX)).map_err(wrong)?;
        Ok(json.to_string())
    });
    environment.add_filter("replace", |value: &Dynamic, from: &str, to: &str| {
        let value = text(value)?;
        let grown = value.matches(from).count().saturating_mul(to.len());
        within_limit(value.len().saturating_add(grown))?;
        Ok(value.replace(from, to))
    });
    environment.add_filter("join", |value: &Dynamic, between: Option<&str>| {
        let mut budget = Budget::new(RENDERED_BYTES_MAX);
        let mut joined = String::new();
        for (index, item) in present(value)?.try_iter()?.enumerate() {
            if index > 0 {
                let between = between.unwrap_or_default();
                budget.take(between.len()).map_err(wrong)?;
                joined.push_str(between);
            }
            joined.push_str(&to_text(&item, &mut budget).map_err(wrong)?);
        }
        Ok(joined)
    });
    environment.add_filter("split", |value: &Dynamic, at: &str| {
        let value = text(value)?;
        if at.is_empty() {
            return Err(wrong("`split` needs a text to split at".to_owned()));
        }
        let parts: Vec<Dynamic> = value
            .split(at)
            .take(SPLIT_PARTS_MAX + 1)
            .map(Dynamic::from)
            .collect();
        if parts.len() > SPLIT_PARTS_MAX {
            return Err(wrong(format!("more than {SPLIT_PARTS_MAX} parts")));
        }
        Ok(Dynamic::from(parts))
    });
}

fn add_other_filters(environment: &mut Environment<'static>) {
    environment.add_filter("abs", |value: &Dynamic| {
        filters::abs(present(value)?.clone())
    });
    environment.add_filter("bool", |value: &Dynamic| Ok(present(value)?.is_true()));
    environment.add_filter("first", |value: &Dynamic| filters::first(present(value)?));
    environment.add_filter("last", |value: &Dynamic| {
        filters::last(present(value)?.clone())
    });
    environment.add_filter("length", |value: &Dynamic| filters::length(present(value)?));
    environment.add_filter("round", |value: &Dynamic, digits: Option<i32>| {
        let number = number(value)?;
        let scale = 10_f64.powi(digits.unwrap_or(0).clamp(-15, 15));
        Ok((number * scale).round() / scale)
    });
    environment.add_filter("float", |value: &Dynamic| number(value));
    environment.add_filter("int", |value: &Dynamic| {
        if let Some(integer) = present(value)?.as_i64() {
            return Ok(integer);
        }
        if let Some(integer) = value.as_str().and_then(|text| text.trim().parse().ok()) {
            return Ok(integer);
        }
        let whole = number(value)?.trunc();
        // Beyond it, a float does not tell one integer from the next.
        if whole.abs() > FLOAT_EXACT_MAX {
            return Err(wrong("the number is too large for an integer".to_owned()));
        }
        Ok(whole as i64)
    });
    environment.add_filter("times", |value: &Dynamic, by: &Dynamic| {
        if let (Some(a), Some(b)) = (present(value)?.as_i64(), present(by)?.as_i64()) {
            return a
                .checked_mul(b)
                .map(Dynamic::from)
                .ok_or_else(|| wrong("the product is too large".to_owned()));
        }
        Ok(Dynamic::from(number(value)? * number(by)?))
    });
}

fn add_tests(environment: &mut Environment<'static>) {
    environment.add_test("defined", |value: &Dynamic| !is_missing(value));
    environment.add_test("undefined", is_missing_test);
    environment.add_test("none", |value: &Dynamic| {
        value.is_none() || (is_missing(value) && !value.is_undefined())
    });
    environment.add_test("boolean", tests::is_boolean);
    environment.add_test("false", tests::is_false);
    environment.add_test("true", tests::is_true);
    environment.add_test("mapping", tests::is_mapping);
    environment.add_test("number", tests::is_number);
    environment.add_test("sequence", tests::is_sequence);
    environment.add_test("string", tests::is_string);
    environment.add_test("startingwith", |value: &Dynamic, start: &str| {
        Ok(text(value)?.starts_with(start))
    });
    environment.add_test("endingwith", |value: &Dynamic, end: &str| {
        Ok(text(value)?.ends_with(end))
    });
}

fn is_missing_test(value: &Dynamic) -> bool {
    is_missing(value)
}

/// The value, unless there is none.
fn present(value: &Dynamic) -> Result<&Dynamic, Error> {
    if is_missing(value) {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    Ok(value)
}

fn text(value: &Dynamic) -> Result<String, Error> {
    to_text(present(value)?, &mut Budget::new(RENDERED_BYTES_MAX)).map_err(wrong)
}

fn number(value: &Dynamic) -> Result<f64, Error> {
    let value = present(value)?;
    let number = match value.kind() {
        ValueKind::Number => f64::try_from(value.clone())?,
        ValueKind::String => value
            .as_str()
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| wrong("the text is no number".to_owned()))?,
        other => return Err(wrong(format!("a number is needed, not a {other}"))),
    };
    if number.is_finite() {
        Ok(number)
    } else {
        Err(wrong("the number is not finite".to_owned()))
    }
}

fn within_limit(bytes: usize) -> Result<(), Error> {
    if bytes > RENDERED_BYTES_MAX {
        return Err(wrong(format!(
            "a text of more than {RENDERED_BYTES_MAX} bytes"
        )));
    }
    Ok(())
}

fn wrong(problem: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
}
