//! Writing a document again with other values in some places, and the rest as it was written.

use std::borrow::Cow;

use crate::document::{Node, Value};

/// What becomes of a member.
pub(crate) enum Rewrite {
    /// As it is; its own members are looked at.
    Enter,
    /// As it is.
    Keep,
    /// This instead.
    Replace(String),
    /// Nothing.
    Remove,
}

/// Renders a value again with another text in some places: `replace` sees each member of a map with its names, and says what to
/// write for it, if not itself.
pub(crate) fn rewrite<'t>(
    value: &Value<'t>,
    replace: &mut impl FnMut(&[&str], &Value<'t>) -> Rewrite,
) -> Cow<'t, str> {
    let mut text = String::with_capacity(value.text.len());
    if write_again(&mut text, value, &mut Vec::new(), replace) {
        Cow::Owned(text)
    } else {
        Cow::Borrowed(value.text)
    }
}

/// Appends the value; says whether that differs from its own text in more than its spaces.
fn write_again<'v, 't>(
    text: &mut String,
    value: &'v Value<'t>,
    names: &mut Vec<&'v str>,
    replace: &mut impl FnMut(&[&str], &Value<'t>) -> Rewrite,
) -> bool {
    let Node::Map(members) = &value.node else {
        text.push_str(value.text);
        return false;
    };
    let mut changed = false;
    let begin = text.len();
    text.push('{');
    // As they were written: a person finds them again.
    let mut ordered: Vec<_> = members.iter().collect();
    ordered.sort_by_key(|(_, member)| member.text.as_ptr() as usize);
    for (name, member) in ordered {
        names.push(name);
        let became = replace(names, member);
        let before = text.len();
        if !matches!(became, Rewrite::Remove) {
            if text.len() > begin + 1 {
                text.push(',');
            }
            text.push_str(&serde_json::Value::from(name.as_ref()).to_string());
            text.push(':');
        }
        match became {
            Rewrite::Enter => changed |= write_again(text, member, names, replace),
            Rewrite::Keep => text.push_str(member.text),
            Rewrite::Replace(other) => {
                text.push_str(&other);
                changed = true;
            }
            Rewrite::Remove => {
                debug_assert_eq!(text.len(), before);
                changed = true;
            }
        }
        names.pop();
    }
    text.push('}');
    changed
}
