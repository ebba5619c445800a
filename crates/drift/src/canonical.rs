//! The form that stands for the meaning of a value: two values are equal if their forms are.
//!
//! Providers return `1` where `"1"` was sent, sort tags, and drop repeated ones. Equality of a canonical form is reflexive,
//! symmetric and transitive by construction, which a table of "equal enough" pairs is not. A [`Mode`] says what the form keeps.
//!
//! The form is bytes: a tag for each value, lengths before texts. It is compared and hashed, never stored or shown.

use std::borrow::Cow;

use crate::document::{Node, Value};

/// The most characters that a number is written out with; a longer one is written with an exponent.
const PLAIN_DIGITS: usize = 40;

const TAG_NULL: u8 = 1;
const TAG_LIST: u8 = 2;
const TAG_MAP: u8 = 3;
const TAG_TEXT: u8 = 4;
const TAG_BOOL: u8 = 5;
const TAG_NUMBER: u8 = 6;

/// What becomes of scalars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scalars {
    /// Numbers, booleans and texts are what they look like: `1`, `1.0` and `"1"` are one.
    Loose,
    /// As loose, and texts that are numbers are those: `"1.0"` and `1` are one.
    Numeric,
    /// As loose, without regard to upper and lower case.
    Folded,
    /// Numbers, booleans and texts are apart; `1` and `1.0` are one.
    Typed,
}

/// What becomes of lists, at every level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lists {
    /// Neither order nor repetition means anything.
    Set,
    /// Repetition means something.
    Multiset,
    /// Order and repetition mean something.
    Ordered,
}

/// What the form keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Mode {
    pub(crate) scalars: Scalars,
    pub(crate) lists: Lists,
}

// === impl Mode ===

impl Mode {
    /// Where nothing is declared.
    pub(crate) const DEFAULT: Self = Self {
        scalars: Scalars::Loose,
        lists: Lists::Set,
    };
    /// Whatever is equal in this mode is equal in every mode.
    pub(crate) const EXACT: Self = Self {
        scalars: Scalars::Typed,
        lists: Lists::Ordered,
    };
}

/// Whether two values mean the same.
pub(crate) fn equal(one: &Value<'_>, other: &Value<'_>, mode: Mode) -> bool {
    if one.text == other.text {
        return true;
    }
    match (&one.node, &other.node) {
        (Node::Null, _) | (_, Node::Null) => one.node == other.node,
        (Node::List(ours), Node::List(theirs)) => lists_equal(ours, theirs, mode),
        (Node::Map(ours), Node::Map(theirs)) => {
            ours.len() == theirs.len()
                && ours
                    .iter()
                    .zip(theirs)
                    .all(|((name, value), (other_name, other))| {
                        name == other_name && equal(value, other, mode)
                    })
        }
        (Node::List(_) | Node::Map(_), _) | (_, Node::List(_) | Node::Map(_)) => false,
        (ours, theirs) => scalar(ours, mode.scalars) == scalar(theirs, mode.scalars),
    }
}

fn lists_equal(ours: &[Value<'_>], theirs: &[Value<'_>], mode: Mode) -> bool {
    match mode.lists {
        Lists::Ordered => {
            ours.len() == theirs.len()
                && ours
                    .iter()
                    .zip(theirs)
                    .all(|(value, other)| equal(value, other, mode))
        }
        Lists::Multiset if ours.len() != theirs.len() => false,
        Lists::Set | Lists::Multiset => forms(ours, mode) == forms(theirs, mode),
    }
}

/// The canonical elements of a list, sorted; without repetitions if it is a set.
pub(crate) fn forms<'a>(elements: &'a [Value<'_>], mode: Mode) -> Vec<Cow<'a, [u8]>> {
    let mut forms: Vec<Cow<'a, [u8]>> =
        elements.iter().map(|element| form(element, mode)).collect();
    forms.sort_unstable();
    if mode.lists == Lists::Set {
        forms.dedup();
    }
    forms
}

/// The form of an element. A text is itself if it cannot be taken for one of the forms that begin with a tag: that is how most
/// elements are compared without a copy.
fn form<'a>(element: &'a Value<'_>, mode: Mode) -> Cow<'a, [u8]> {
    if matches!(
        element.node,
        Node::Bool(_) | Node::Number(_) | Node::Text(_)
    ) {
        let (tag, text) = scalar(&element.node, mode.scalars);
        if tag == TAG_TEXT && text.as_bytes().first().is_some_and(|first| *first > b' ') {
            return match text {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            };
        }
    }
    let mut form = Vec::with_capacity(element.text.len() + 16);
    write(&mut form, element, mode);
    Cow::Owned(form)
}

/// Appends the form of a value.
pub(crate) fn write(form: &mut Vec<u8>, value: &Value<'_>, mode: Mode) {
    match &value.node {
        Node::Null => form.push(TAG_NULL),
        Node::List(elements) if mode.lists == Lists::Ordered => {
            form.push(TAG_LIST);
            write_length(form, elements.len());
            for element in elements {
                write(form, element, mode);
            }
        }
        Node::List(elements) => {
            form.push(TAG_LIST);
            let elements = forms(elements, mode);
            write_length(form, elements.len());
            for element in elements {
                write_bytes(form, &element);
            }
        }
        Node::Map(members) => {
            form.push(TAG_MAP);
            write_length(form, members.len());
            for (name, member) in members {
                write_bytes(form, name.as_bytes());
                write(form, member, mode);
            }
        }
        node => {
            let (tag, text) = scalar(node, mode.scalars);
            form.push(tag);
            write_bytes(form, text.as_bytes());
        }
    }
}

fn write_length(form: &mut Vec<u8>, length: usize) {
    form.extend_from_slice(&(length as u64).to_le_bytes());
}

fn write_bytes(form: &mut Vec<u8>, bytes: &[u8]) {
    write_length(form, bytes.len());
    form.extend_from_slice(bytes);
}

/// A tag and a text for what is neither null nor a list nor a map. The tags are one where types mean nothing.
fn scalar<'a>(node: &'a Node<'_>, scalars: Scalars) -> (u8, Cow<'a, str>) {
    let tag = |tag| {
        if scalars == Scalars::Typed {
            tag
        } else {
            TAG_TEXT
        }
    };
    match node {
        Node::Bool(true) => (tag(TAG_BOOL), Cow::Borrowed("true")),
        Node::Bool(false) => (tag(TAG_BOOL), Cow::Borrowed("false")),
        Node::Number(text) => (tag(TAG_NUMBER), decimal(text)),
        Node::Text(text) => {
            let text = match scalars {
                Scalars::Loose | Scalars::Typed => Cow::Borrowed(text.as_ref()),
                Scalars::Numeric => number_in(text).unwrap_or(Cow::Borrowed(text.as_ref())),
                Scalars::Folded => Cow::Owned(text.to_lowercase()),
            };
            (TAG_TEXT, text)
        }
        // They have forms of their own.
        Node::Null | Node::List(_) | Node::Map(_) => (TAG_NULL, Cow::Borrowed("")),
    }
}

/// The number that a text is, if it is one: digits, with a sign, a point and an exponent as anybody writes them.
fn number_in(text: &str) -> Option<Cow<'_, str>> {
    let text = text.trim_matches([' ', '\t', '\n', '\r']);
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let (whole, fraction) = unsigned(mantissa)
        .split_once('.')
        .unwrap_or((unsigned(mantissa), ""));
    let is_number = whole.len() + fraction.len() > 0
        && digits(whole)
        && digits(fraction)
        && exponent
            .is_none_or(|exponent| !unsigned(exponent).is_empty() && digits(unsigned(exponent)));
    is_number.then(|| decimal(text))
}

fn unsigned(text: &str) -> &str {
    text.strip_prefix(['+', '-']).unwrap_or(text)
}

fn digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The shortest decimal of a number: without a sign of plus, zeros that mean nothing, or an exponent, unless it were longer than
/// 40 digits. No digit is lost; exponents beyond ±10^17 are one.
fn decimal(text: &str) -> Cow<'_, str> {
    let (negative, body) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let plain = body.len() <= PLAIN_DIGITS && body.bytes().all(|byte| byte.is_ascii_digit());
    if plain && !body.starts_with('0') && !text.starts_with('+') {
        return Cow::Borrowed(text);
    }
    let (mantissa, exponent) = match body.find(['e', 'E']) {
        Some(at) => (&body[..at], exponent(&body[at + 1..])),
        None => (body, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all: String = [whole, fraction].concat();
    let digits = all.trim_start_matches('0');
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Cow::Borrowed("0");
    }
    let length = |text: &str| i64::try_from(text.len()).unwrap_or(i64::MAX);
    // The value is the significant digits, as an integer, times ten to this.
    let power = exponent - length(fraction) + (length(digits) - length(significant));
    let point = length(significant) + power;
    let limit = PLAIN_DIGITS as i64;
    let zeros = |count: i64| "0".repeat(usize::try_from(count).unwrap_or(0));
    let sign = if negative { "-" } else { "" };
    Cow::Owned(if power >= 0 && point <= limit {
        format!("{sign}{significant}{}", zeros(power))
    } else if power < 0 && point > 0 && length(significant) < limit {
        let (whole, fraction) = significant.split_at(usize::try_from(point).unwrap_or(0));
        format!("{sign}{whole}.{fraction}")
    } else if power < 0 && point <= 0 && length(significant) - point < limit {
        format!("{sign}0.{}{significant}", zeros(-point))
    } else {
        format!("{sign}{significant}e{power}")
    })
}

/// An exponent, within what can be calculated with.
fn exponent(text: &str) -> i64 {
    const LIMIT: i64 = 100_000_000_000_000_000;
    let negative = text.starts_with('-');
    let digits = text.trim_start_matches(['+', '-']).trim_start_matches('0');
    let value = match digits.len() {
        0 => 0,
        1..=17 => digits.parse().unwrap_or(LIMIT),
        _ => LIMIT,
    };
    if negative { -value } else { value }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::tests::{any_json, reshaped, shuffled};

    const MODES: [Mode; 6] = [
        Mode::DEFAULT,
        Mode::EXACT,
        Mode {
            scalars: Scalars::Numeric,
            lists: Lists::Set,
        },
        Mode {
            scalars: Scalars::Folded,
            lists: Lists::Set,
        },
        Mode {
            scalars: Scalars::Loose,
            lists: Lists::Multiset,
        },
        Mode {
            scalars: Scalars::Loose,
            lists: Lists::Ordered,
        },
    ];

    fn same(one: &str, other: &str, mode: Mode) -> bool {
        let (one, other) = (
            Value::read(one).expect("JSON"),
            Value::read(other).expect("JSON"),
        );
        let form = |value| {
            let mut form = Vec::new();
            write(&mut form, value, mode);
            form
        };
        let same = equal(&one, &other, mode);
        assert_eq!(same, equal(&other, &one, mode), "symmetric");
        assert_eq!(
            same,
            form(&one) == form(&other),
            "equality is that of the forms"
        );
        same
    }

    proptest! {
        /// With the test of `same`, this makes equality that of a function's values: reflexive, symmetric and transitive.
        #[test]
        fn equality_is_that_of_the_forms(one in any_json(), other in any_json()) {
            for mode in MODES {
                prop_assert!(same(&one.to_string(), &one.to_string(), mode));
                same(&one.to_string(), &other.to_string(), mode);
            }
        }

        #[test]
        fn another_shape_is_no_difference(value in any_json(), seed in any::<u64>()) {
            let other = reshaped(&value, seed);
            prop_assert!(same(&value.to_string(), &other.to_string(), Mode::DEFAULT), "{value} {other}");
        }

        #[test]
        fn order_is_no_difference_in_sets_and_multisets(value in any_json(), seed in any::<u64>()) {
            let other = shuffled(&value, seed);
            for lists in [Lists::Set, Lists::Multiset] {
                let mode = Mode { scalars: Scalars::Typed, lists };
                prop_assert!(same(&value.to_string(), &other.to_string(), mode));
            }
            let differs = !same(&value.to_string(), &other.to_string(), Mode::EXACT);
            prop_assert_eq!(differs, value != other);
        }

        #[test]
        fn a_decimal_is_the_number(number in any::<f64>().prop_filter("JSON", |number| number.is_finite())) {
            let text = format!("{number:e}");
            let decimal = decimal(&text).into_owned();
            prop_assert_eq!(decimal.parse::<f64>().expect("a number"), number);
            let again = super::decimal(&decimal).into_owned();
            prop_assert_eq!(again, decimal);
        }

        #[test]
        fn a_decimal_does_not_depend_on_how_it_is_written(digits in "[1-9][0-9]{0,50}", shift in -60_i64..60, zeros in 0_usize..5) {
            let one = decimal(&format!("{digits}e{shift}")).into_owned();
            let padded = format!("{digits}{}e{}", "0".repeat(zeros), shift - zeros as i64);
            prop_assert_eq!(decimal(&padded), one.as_str());
            let pointed = format!("{}.{}e{}", &digits[..1], &digits[1..], shift + digits.len() as i64 - 1);
            let pointed = pointed.replace(".e", ".0e");
            prop_assert_eq!(decimal(&pointed), one.as_str());
            if shift >= 0 {
                let plain = format!("{digits}{}", "0".repeat(shift as usize));
                prop_assert_eq!(decimal(&plain), one.as_str());
            }
            let next = format!("{digits}1e{}", shift - 1);
            prop_assert!(decimal(&next) != one.as_str());
        }
    }

    #[test]
    fn numbers_booleans_and_texts_are_what_they_look_like() {
        let same =
            |one: Json, other: Json| same(&one.to_string(), &other.to_string(), Mode::DEFAULT);
        for (one, other) in [
            (json!(1), json!("1")),
            (json!(1.0), json!(1)),
            (json!(true), json!("true")),
            (json!([3, "a", "a", 1.5]), json!(["a", "1.5", "3"])),
            (
                json!({"a": 1, "b": [1, 2]}),
                json!({"b": ["2", "1"], "a": "1"}),
            ),
            (json!([]), json!([])),
        ] {
            assert!(same(one.clone(), other.clone()), "{one} {other}");
        }
        let distinct = [
            json!(null),
            json!(""),
            json!("null"),
            json!([]),
            json!({}),
            json!([null]),
            json!([""]),
            json!(["null"]),
            json!(0),
            json!("00"),
            json!("1.0"),
            json!(1),
            json!(-1),
            json!([1]),
            json!([[1]]),
            json!({"1": 1}),
            json!(["1", "2"]),
            json!(["12"]),
            json!(true),
            json!("True"),
            json!(" 1"),
            json!("\u{1}"),
            json!(["\u{1}"]),
        ];
        for (at, one) in distinct.iter().enumerate() {
            for (beside, other) in distinct.iter().enumerate() {
                assert_eq!(
                    same(one.clone(), other.clone()),
                    at == beside,
                    "{one} {other}"
                );
            }
        }
    }

    #[test]
    fn each_mode_keeps_what_it_says() {
        let numeric = MODES[2];
        assert!(same("\"1.50\"", "1.5", numeric));
        assert!(same("\" +007 \"", "7", numeric));
        assert!(same("\"1e3\"", "1000", numeric));
        assert!(!same("\"1.5\"", "\"1,5\"", numeric));
        assert!(!same("\"\"", "0", numeric));
        assert!(!same("\"e5\"", "0", numeric));
        assert!(!same("\"--1\"", "-1", numeric));
        assert!(same("\"Ä-b\"", "\"ä-B\"", MODES[3]));
        assert!(!same("\"Ä-b\"", "\"ä-B\"", Mode::DEFAULT));
        assert!(!same("[1,1,2]", "[2,1]", MODES[4]));
        assert!(same("[1,1,2]", "[2,1,1]", MODES[4]));
        assert!(!same("[1,2]", "[2,1]", MODES[5]));
        assert!(same("[1,2]", "[\"1\",\"2\"]", MODES[5]));
        assert!(!same("1", "\"1\"", Mode::EXACT));
        assert!(same("1", "1.0", Mode::EXACT));
        assert!(!same("true", "\"true\"", Mode::EXACT));
    }

    #[test]
    fn no_digit_is_lost() {
        let decimal = |text: &str| decimal(text).into_owned();
        assert_eq!(decimal("18446744073709551617"), "18446744073709551617");
        assert_eq!(decimal("0.1000"), "0.1");
        assert_eq!(decimal("-0.0"), "0");
        assert_eq!(decimal("1e21"), "1000000000000000000000");
        assert_eq!(decimal("1e-7"), "0.0000001");
        assert_eq!(decimal("12.50e1"), "125");
        assert_eq!(decimal("1e400"), "1e400");
        assert_eq!(decimal("10e399"), "1e400");
        assert_ne!(
            decimal(&format!("1{}", "0".repeat(60))),
            decimal(&format!("1{}1", "0".repeat(59)))
        );
        assert_eq!(
            decimal("1e99999999999999999999"),
            decimal("1e99999999999999999998")
        );
    }
}
