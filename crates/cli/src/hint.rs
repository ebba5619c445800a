//! What to do about a failed call.

use steadfast_client::{Code, Error as CallError};

use crate::table::clean;

/// Hints for a failed call, the most useful first.
pub(crate) fn of(error: &CallError) -> Vec<String> {
    let mut hints: Vec<String> = error
        .field_violations
        .iter()
        // A single violation usually is the message already.
        .filter(|violation| !error.message.contains(&violation.description))
        .map(|violation| clean(&format!("{}: {}", violation.field, violation.description)))
        .collect();
    hints.extend(of_reason(error));
    if let Some(wait) = error.retry_after {
        hints.push(format!("the server asks to try again in {wait:?}"));
    }
    hints
}

fn of_reason(error: &CallError) -> Option<String> {
    let detail = |key: &str| {
        error
            .metadata
            .get(key)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    };
    let nearest = detail("nearest").map(|names| names.replace(',', ", "));
    if nearest
        .as_ref()
        .is_some_and(|names| error.message.contains(names))
    {
        return None;
    }
    let hint = match error.reason.as_str() {
        "PACKAGE_NOT_FOUND" => match nearest {
            Some(names) => format!("did you mean {names}?"),
            None => "`steadfast package list` shows what there is".to_owned(),
        },
        "VERSION_NOT_FOUND" => match detail("newest") {
            Some(newest) => format!("the newest version is {newest}"),
            None => "`steadfast package get NAME` shows the versions".to_owned(),
        },
        "PACKAGE_NOT_CONFIGURED" => match nearest {
            Some(names) => format!("did you mean {names}?"),
            None => "add it to names of a [[catalog.source]] and restart the server".to_owned(),
        },
        "NO_SOURCE" => "name packages in a [[catalog.source]] of the configuration (`steadfast init` writes one) and restart the server".to_owned(),
        "SCHEMA_NOT_FOUND" => "`steadfast schema list` shows the packages that carry one".to_owned(),
        "SCHEMA_NOT_FETCHED" => "ask for a newer version; or raise catalog.schema_newest, restart the server and run `steadfast refresh`".to_owned(),
        "ICON_NOT_FOUND" => "`steadfast icon list` shows those that there are; where a source's icons are is its icon_url".to_owned(),
        "BUNDLE_TRUNCATED" | "BUNDLE_ALTERED" | "BUNDLE_INVALID" => "nothing was written: copy the file again from where it was exported".to_owned(),
        "BUNDLE_NEWER" => "import it into a newer version, or export it with this one".to_owned(),
        "BUNDLE_TOO_LARGE" => "raise limits.bundle_max_bytes and restart the server".to_owned(),
        "REFRESH_NOT_FOUND" => "`steadfast refresh list` shows those that are kept".to_owned(),
        "SCHEDULE_NOT_FOUND" => "`steadfast schedule list` shows them".to_owned(),
        "DEFINITION_NOT_FOUND" => "`steadfast saga definitions` shows them, and `steadfast saga define FILE` stores one".to_owned(),
        "DEFINITION_EXISTS" => "give the changed definition another version".to_owned(),
        "SAGA_NOT_FOUND" => "`steadfast saga list` shows those that are kept".to_owned(),
        "STEP_NOT_FOUND" | "NOT_AT_STEP" | "SAGA_CHANGED" => "`steadfast saga get ID` shows where it stands now".to_owned(),
        "RESOURCE_NOT_FOUND" => "`steadfast resource list` shows those that are known".to_owned(),
        "INVENTORY_SOURCE_NOT_FOUND" => "sources are the [[drift.inventory]] blocks of the server's configuration; what is not listed there is reported with `steadfast inventory begin` and `steadfast resource report`".to_owned(),
        "INVENTORY_NOT_FOUND" | "INVENTORY_ENDED" => "`steadfast inventory list` shows those that are kept, and `steadfast inventory begin` begins one".to_owned(),
        "DRIFT_NOT_FOUND" => "`steadfast drift list` shows those that are open".to_owned(),
        "DRIFT_CHANGED" if matches!(detail("what"), Some("applied" | "look" | "busy")) => {
            "the next inventory or report says what is there now; then `steadfast drift detect` compares it".to_owned()
        }
        "DRIFT_CHANGED" => "`steadfast drift show ID` shows it as it is now, once `steadfast drift detect` has compared it again".to_owned(),
        "SWEEP_NOT_FOUND" => "`steadfast drift sweeps` shows those that are kept".to_owned(),
        "POLICY_NOT_FOUND" | "POLICY_EXISTS" => "`steadfast policy list` shows them".to_owned(),
        "RESOURCE_CHANGED" => "`steadfast resource get` shows it as it is now".to_owned(),
        "TOO_MANY_NODES" => "`steadfast nodes list --gone` shows them; raise limits.max_nodes, or let a process keep its incarnation while it runs".to_owned(),
        "REQUEST_ID_REUSED" => "repeat the first call exactly, or use another --request-id".to_owned(),
        "STORE_CHANGED" => "the database was restored: reload what you keep, and begin again without the cursor".to_owned(),
        "REVISION_COMPACTED" => "the log no longer reaches back that far: reload what you keep, and begin again without the cursor".to_owned(),
        "DATABASE_UNAVAILABLE" => "the server reconnects by itself; lookups go on meanwhile".to_owned(),
        "CONNECTION_FAILED" => "is the server running? `steadfast serve` starts one, and --endpoint names another".to_owned(),
        "INVALID_ENDPOINT" => "set --endpoint or STEADFAST_ENDPOINT to the server's gRPC address".to_owned(),
        "DEADLINE_EXCEEDED" => "--timeout sets how long to wait".to_owned(),
        _ if error.code == Code::Unimplemented => "the server does not know this call: is it of the same version, and is this its gRPC port?".to_owned(),
        _ => return None,
    };
    Some(hint)
}

/// The specifier with a mark below the position that the server names, for an INVALID_SPECIFIER.
pub(crate) fn point_at(error: &CallError, specifier: &str) -> Option<String> {
    // Other errors have positions too, in other texts.
    if error.reason != "INVALID_SPECIFIER" {
        return None;
    }
    let position: usize = error.metadata.get("position")?.parse().ok()?;
    // The position counts bytes, and a terminal shows characters.
    let before = specifier.get(..position)?.chars().count();
    let label = "hint: ".len();
    Some(format!("{specifier}\n{:1$}^", "", label + before))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use steadfast_client::FieldViolation;

    use super::*;

    pub(crate) fn call_error(code: Code, reason: &str, message: &str) -> CallError {
        CallError {
            code,
            reason: reason.to_owned(),
            message: message.to_owned(),
            metadata: BTreeMap::new(),
            retry_after: None,
            field_violations: Vec::new(),
        }
    }

    #[test]
    fn nearest_names_are_shown() {
        let mut error = call_error(Code::NotFound, "PACKAGE_NOT_FOUND", "");
        assert!(of(&error)[0].contains("package list"));
        error.metadata.insert("nearest".into(), "@a/b,@a/c".into());
        assert_eq!(of(&error), ["did you mean @a/b, @a/c?"]);
        error.message = "similar names: @a/b, @a/c".to_owned();
        assert!(of(&error).is_empty(), "the message says it already");
    }

    #[test]
    fn fields_come_first_and_the_wait_last() {
        let mut error = call_error(Code::Unavailable, "DATABASE_UNAVAILABLE", "");
        error.retry_after = Some(Duration::from_millis(1_500));
        error.field_violations.push(FieldViolation {
            field: "changes[0].topic".to_owned(),
            description: "begins with app/".to_owned(),
        });
        let hints = of(&error);
        assert_eq!(hints[0], "changes[0].topic: begins with app/");
        assert_eq!(hints[2], "the server asks to try again in 1.5s");
    }

    #[test]
    fn the_mark_stands_below_the_character() {
        let mut error = call_error(Code::InvalidArgument, "INVALID_SPECIFIER", "");
        assert_eq!(point_at(&error, "a b"), None);
        error.metadata.insert("position".into(), "3".into());
        // Two bytes, one character: the mark is below the `!`.
        assert_eq!(point_at(&error, "é !").as_deref(), Some("é !\n        ^"));
        error.metadata.insert("position".into(), "99".into());
        assert_eq!(point_at(&error, "a"), None);
        let mut error = call_error(Code::InvalidArgument, "INVALID_DOCUMENT", "");
        error.metadata.insert("position".into(), "0".into());
        assert_eq!(
            point_at(&error, "a"),
            None,
            "it is a position in the document"
        );
    }
}
