//! Comparing the numbers of schemas, exactly or not at all.

use std::cmp::Ordering;

use serde_json::Value;

/// Whole numbers up to here are exact as floating-point numbers.
const EXACT: i128 = 1 << 53;

/// The order of two numbers; `None` if it cannot be told, or if one is no number.
pub(super) fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        (Some(a), None) if a.abs() <= EXACT => (a as f64).partial_cmp(&float(b)?),
        (None, Some(b)) if b.abs() <= EXACT => float(a)?.partial_cmp(&(b as f64)),
        (None, None) => float(a)?.partial_cmp(&float(b)?),
        _ => None,
    }
}

/// Whether each multiple of `a` is one of `b`, too.
pub(super) fn is_multiple(a: &Value, b: &Value) -> bool {
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => b != 0 && a % b == 0,
        _ => false,
    }
}

fn whole(value: &Value) -> Option<i128> {
    let number = value.as_i64().map(i128::from);
    number.or_else(|| value.as_u64().map(i128::from))
}

fn float(value: &Value) -> Option<f64> {
    value.as_f64()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_compared_exactly_or_not_at_all() {
        let order = |a: Value, b: Value| compare(&a, &b);
        assert_eq!(order(json!(1), json!(2)), Some(Ordering::Less));
        assert_eq!(order(json!(2), json!(2.0)), Some(Ordering::Equal));
        assert_eq!(order(json!(2.5), json!(2)), Some(Ordering::Greater));
        assert_eq!(order(json!(u64::MAX), json!(-1)), Some(Ordering::Greater));
        assert_eq!(order(json!(u64::MAX), json!(1.5)), None);
        assert_eq!(order(json!("1"), json!(1)), None);
        assert!(is_multiple(&json!(6), &json!(3)) && !is_multiple(&json!(3), &json!(6)));
        assert!(!is_multiple(&json!(6.0), &json!(3)));
    }
}
