//! What is said of a difference, with its place, its title, and whether it is about a secret; and differences that are only remarks.

use serde_json::{Map, Value};
use steadfast_api::schema::v1::{SchemaChange, SchemaChangeClass as Class};

use super::{ANY, Comparison, same::is_validating, shorten};
use crate::field;

// === impl Comparison: telling ===

impl Comparison<'_> {
    pub(super) fn compare_annotations(
        &mut self,
        old: &Map<String, Value>,
        new: &Map<String, Value>,
        path: &[String],
    ) {
        const NOT_SAID: [&str; 8] = [
            "$defs",
            "definitions",
            "$id",
            "id",
            "$schema",
            "$anchor",
            "$dynamicAnchor",
            "$recursiveAnchor",
        ];
        let gone = old.keys().filter(|keyword| !new.contains_key(*keyword));
        for keyword in new.keys().chain(gone) {
            let (before, after) = (old.get(keyword), new.get(keyword));
            if before == after || is_validating(keyword) || NOT_SAID.contains(&keyword.as_str()) {
                continue;
            }
            let message = match (keyword.as_str(), before, after) {
                ("writeOnly", _, Some(Value::Bool(true))) => "is marked as a secret now".to_owned(),
                ("writeOnly", Some(Value::Bool(true)), _) => {
                    "is no longer marked as a secret".to_owned()
                }
                ("title", Some(Value::String(before)), Some(Value::String(after))) => format!(
                    "its title is \"{}\" now, and was \"{}\"",
                    shorten(after),
                    shorten(before)
                ),
                (_, None, _) => format!("has a `{}` now", shorten(keyword)),
                (_, _, None) => format!("has no `{}` any more", shorten(keyword)),
                _ => format!("its `{}` is another one now", shorten(keyword)),
            };
            self.push(path, keyword, Class::Cosmetic, &message);
        }
    }

    pub(super) fn unclear(&mut self, path: &[String], keyword: &str, what: &str) {
        let message = format!("{what}; whether documents still fit cannot be told");
        self.push(path, keyword, Class::PossiblyBreaking, &message);
    }

    pub(super) fn push(&mut self, path: &[String], keyword: &str, class: Class, message: &str) {
        let mut pointer = String::new();
        for token in path {
            pointer.push('/');
            pointer.push_str(&token.replace('~', "~0").replace('/', "~1"));
        }
        let (before, after) = self.fields(path);
        let title = if after.title.is_empty() {
            before.title
        } else {
            after.title
        };
        self.changes.push(SchemaChange {
            pointer,
            title,
            message: message.to_owned(),
            class: class.into(),
            secret: before.secret || after.secret,
            keyword: shorten(keyword),
        });
    }

    pub(super) fn is_secret(&self, path: &[String]) -> bool {
        let (before, after) = self.fields(path);
        before.secret || after.secret
    }

    /// What both schemas say of a place.
    fn fields(&self, path: &[String]) -> (field::Field, field::Field) {
        // Of all items, any will do.
        let path: Vec<String> = path
            .iter()
            .map(|token| if token == ANY { "0" } else { token }.to_owned())
            .collect();
        (
            field::describe(self.old.document, &path),
            field::describe(self.new.document, &path),
        )
    }
}
