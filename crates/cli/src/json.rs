//! Messages of the contract as JSON: the names of their fields, enum values in lower case without their prefix, times in
//! RFC 3339, and cursors as the text that `--after` takes.

use serde_json::{Map, Value, json};
use steadfast_client::{
    api::{
        admin::v1::{MissedRunPolicy, OverlapPolicy, Schedule},
        common::v1::{Cursor, ItemError, ReadState},
        registry::v1::{
            Icon, IconFormat, IconShape, MatchKind, Package, PackageSummary, PackageVersion,
            Refresh, RefreshItem, RefreshKind, RefreshOutcome, RefreshState, RefreshTrigger,
            Resolution,
        },
        schema::v1::{AuthKind, SchemaChange, SchemaChangeClass, SchemaSummary, Violation},
        watch::v1::{Change, Op, Value as WatchedValue, value::Kind as WatchedKind},
    },
    cursor_from_api,
};

use crate::moment::rfc3339;

/// The value's name without the prefix that protocol buffers want, in lower case; empty for "unspecified".
macro_rules! enum_name {
    ($value:expr, $type:ty, $prefix:literal) => {
        match <$type>::try_from($value) {
            Ok(value) => match value.as_str_name().strip_prefix($prefix) {
                Some("UNSPECIFIED") | None => String::new(),
                Some(name) => name.to_ascii_lowercase(),
            },
            Err(unknown) => unknown.0.to_string(),
        }
    };
}

pub(crate) mod drift;
pub(crate) mod nodes;
pub(crate) mod saga;

/// A document of the server; as a text if it is none, which would be the server's mistake.
fn document(text: &str) -> Value {
    match text {
        "" => Value::Null,
        text => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
    }
}

pub(crate) fn refresh_state(value: i32) -> String {
    enum_name!(value, RefreshState, "REFRESH_STATE_")
}

pub(crate) fn refresh_kind(value: i32) -> String {
    enum_name!(value, RefreshKind, "REFRESH_KIND_")
}

pub(crate) fn refresh_trigger(value: i32) -> String {
    enum_name!(value, RefreshTrigger, "REFRESH_TRIGGER_")
}

pub(crate) fn refresh_outcome(value: i32) -> String {
    enum_name!(value, RefreshOutcome, "REFRESH_OUTCOME_")
}

pub(crate) fn icon_shape(value: i32) -> String {
    enum_name!(value, IconShape, "ICON_SHAPE_")
}

pub(crate) fn icon_format(value: i32) -> String {
    enum_name!(value, IconFormat, "ICON_FORMAT_")
}

pub(crate) fn match_kind(value: i32) -> String {
    enum_name!(value, MatchKind, "MATCH_KIND_")
}

pub(crate) fn auth_kind(value: i32) -> String {
    enum_name!(value, AuthKind, "AUTH_KIND_")
}

pub(crate) fn op(value: i32) -> String {
    enum_name!(value, Op, "OP_")
}

/// As `--after` takes it; empty if there is none.
pub(crate) fn cursor_text(cursor: Option<&Cursor>) -> String {
    cursor_from_api(cursor.cloned()).map_or_else(|_| String::new(), |cursor| cursor.to_string())
}

pub(crate) fn read_state(state: Option<&ReadState>) -> Value {
    let Some(state) = state else {
        return Value::Null;
    };
    let cursor = Cursor {
        store_id: state.store_id.clone(),
        revision: state.revision,
        mark: state.mark,
    };
    json!({
        "store_id": state.store_id,
        "revision": state.revision,
        "cursor": cursor_text(Some(&cursor)),
        "checked_time": rfc3339(state.checked_time.as_ref()),
    })
}

pub(crate) fn item_error(error: &ItemError) -> Value {
    let metadata: Map<_, _> = sorted(&error.metadata);
    json!({
        "code": error.code,
        "reason": error.reason,
        "message": error.message,
        "metadata": metadata,
    })
}

/// The pairs in the order of their keys, so that output can be compared.
fn sorted<'m>(map: impl IntoIterator<Item = (&'m String, &'m String)>) -> Map<String, Value> {
    let mut pairs: Vec<_> = map.into_iter().collect();
    pairs.sort();
    pairs
        .into_iter()
        .map(|(key, value)| (key.clone(), Value::from(value.as_str())))
        .collect()
}

pub(crate) fn package(package: &Package) -> Value {
    let repository = package.repository.as_ref().map(|repository| {
        json!({
            "type": repository.r#type,
            "url": repository.url,
            "directory": repository.directory,
        })
    });
    json!({
        "name": package.name,
        "label": package.label,
        "description": package.description,
        "homepage": package.homepage,
        "license": package.license,
        "repository": repository,
        "dist_tags": sorted(&package.dist_tags),
        "versions": package.versions.iter().map(version).collect::<Vec<_>>(),
        "source": package.source,
        "deprecated": package.deprecated,
        "unlisted": package.unlisted,
        "etag": package.etag,
    })
}

pub(crate) fn version(version: &PackageVersion) -> Value {
    json!({
        "version": version.version,
        "publish_time": rfc3339(version.publish_time.as_ref()),
        "deprecated": version.deprecated,
        "deprecation_message": version.deprecation_message,
        "integrity": version.integrity,
        "tarball_url": version.tarball_url,
        "unpacked_size": version.unpacked_size,
        "dependencies": sorted(&version.dependencies),
        "peer_dependencies": sorted(&version.peer_dependencies),
    })
}

pub(crate) fn package_summary(package: &PackageSummary) -> Value {
    json!({
        "name": package.name,
        "label": package.label,
        "description": package.description,
        "latest_version": package.latest_version,
        "version_count": package.version_count,
        "deprecated": package.deprecated,
        "has_schema": package.has_schema,
        "source": package.source,
        "unlisted": package.unlisted,
        "etag": package.etag,
    })
}

pub(crate) fn resolution(resolution: &Resolution) -> Value {
    json!({
        "specifier": resolution.specifier,
        "name": resolution.name,
        "version": resolution.version.as_ref().map(version),
        "match": match_kind(resolution.r#match),
        "latest_version": resolution.latest_version,
    })
}

pub(crate) fn schema_summary(schema: &SchemaSummary) -> Value {
    json!({
        "package": schema.package,
        "version": schema.version,
        "etag": schema.etag,
        "title": schema.title,
        "auth_kind": auth_kind(schema.auth_kind),
        "size": schema.size,
    })
}

pub(crate) fn icon(icon: &Icon) -> Value {
    json!({
        "package": icon.package,
        "shape": icon_shape(icon.shape),
        "format": icon_format(icon.format),
        "etag": icon.etag,
        "size": icon.size,
        "media_type": icon.media_type,
        "path": icon.path,
    })
}

pub(crate) fn violation(violation: &Violation) -> Value {
    json!({
        "pointer": violation.pointer,
        "keyword": violation.keyword,
        "message": violation.message,
        "title": violation.title,
        "secret": violation.secret,
    })
}

pub(crate) fn schema_change_class(value: i32) -> String {
    enum_name!(value, SchemaChangeClass, "SCHEMA_CHANGE_CLASS_")
}

pub(crate) fn schema_change(change: &SchemaChange) -> Value {
    json!({
        "pointer": change.pointer,
        "title": change.title,
        "message": change.message,
        "class": schema_change_class(change.class),
        "secret": change.secret,
        "keyword": change.keyword,
    })
}

pub(crate) fn refresh(refresh: &Refresh) -> Value {
    let counts: Vec<_> = refresh
        .counts
        .iter()
        .map(|counts| {
            json!({
                "kind": refresh_kind(counts.kind),
                "listed": counts.listed,
                "changed": counts.changed,
                "unchanged": counts.unchanged,
                "failed": counts.failed,
            })
        })
        .collect();
    let kinds: Vec<_> = refresh
        .kinds
        .iter()
        .map(|kind| refresh_kind(*kind))
        .collect();
    json!({
        "id": refresh.id,
        "state": refresh_state(refresh.state),
        "kinds": kinds,
        "package": refresh.package,
        "trigger": refresh_trigger(refresh.trigger),
        "requested_by": refresh.requested_by,
        "create_time": rfc3339(refresh.create_time.as_ref()),
        "start_time": rfc3339(refresh.start_time.as_ref()),
        "end_time": rfc3339(refresh.end_time.as_ref()),
        "counts": counts,
        "owner": refresh.owner,
        "attempts": refresh.attempts,
        "error": refresh.error,
        "dry_run": refresh.dry_run,
        "force": refresh.force,
    })
}

pub(crate) fn refresh_item(item: &RefreshItem) -> Value {
    json!({
        "kind": refresh_kind(item.kind),
        "package": item.package,
        "version": item.version,
        "outcome": refresh_outcome(item.outcome),
        "reason": item.reason,
        "message": item.message,
        "revision": item.revision,
        "source": item.source,
    })
}

pub(crate) fn schedule(schedule: &Schedule) -> Value {
    json!({
        "name": schedule.name,
        "cron": schedule.cron,
        "time_zone": schedule.time_zone,
        "paused": schedule.paused,
        "overlap_policy": enum_name!(schedule.overlap_policy, OverlapPolicy, "OVERLAP_POLICY_"),
        "missed_run_policy":
            enum_name!(schedule.missed_run_policy, MissedRunPolicy, "MISSED_RUN_POLICY_"),
        "next_run_time": rfc3339(schedule.next_run_time.as_ref()),
        "last_run_time": rfc3339(schedule.last_run_time.as_ref()),
        "last_result": schedule.last_result,
    })
}

/// The change's own fields; a watch adds its cursor.
pub(crate) fn change(change: &Change) -> Map<String, Value> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    put("revision", change.revision.into());
    put("topic", change.topic.clone().into());
    put("key", change.key.clone().into());
    put("op", op(change.op).into());
    put("etag", change.etag.clone().into());
    put("origin", change.origin.clone().into());
    put("own", change.own.into());
    put("time", rfc3339(change.time.as_ref()));
    put("payload_base64", STANDARD.encode(&change.payload).into());
    if let Ok(text) = std::str::from_utf8(&change.payload) {
        put("payload_text", text.into());
    }
    if let Some(value) = change.value.as_ref().and_then(watched_value) {
        put("value", value);
    }
    fields
}

/// What came with a change, by its kind.
fn watched_value(value: &WatchedValue) -> Option<Value> {
    Some(match value.kind.as_ref()? {
        WatchedKind::Package(answer) => json!({
            "package": answer.package.as_ref().map(package),
            "read_state": read_state(answer.read_state.as_ref()),
        }),
        WatchedKind::Schema(answer) => json!({
            "schema_json": answer.schema_json,
            "package": answer.package,
            "version": answer.version,
            "etag": answer.etag,
            "read_state": read_state(answer.read_state.as_ref()),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enum_values_lose_their_prefix() {
        assert_eq!(refresh_state(RefreshState::Partial.into()), "partial");
        assert_eq!(op(Op::Upsert.into()), "upsert");
        assert_eq!(op(0), "");
        assert_eq!(op(99), "99");
        assert_eq!(
            refresh_trigger(RefreshTrigger::EmptyCatalogue.into()),
            "empty_catalogue"
        );
    }

    #[test]
    fn a_change_has_its_payload_in_both_forms_if_it_is_text() {
        let text = Change {
            payload: "hé".into(),
            revision: 3,
            ..Change::default()
        };
        let fields = change(&text);
        assert_eq!(fields["payload_text"], "hé");
        assert_eq!(fields["payload_base64"], "aMOp");
        assert_eq!(fields["revision"], 3);
        let binary = Change {
            payload: vec![0xff].into(),
            ..Change::default()
        };
        assert!(!change(&binary).contains_key("payload_text"));
    }

    #[test]
    fn maps_come_in_the_order_of_their_keys() {
        let tags = [("b", "2"), ("a", "1"), ("c", "3")]
            .map(|(tag, version)| (tag.to_owned(), version.to_owned()));
        let found = Package {
            dist_tags: tags.into(),
            ..Package::default()
        };
        assert_eq!(
            package(&found)["dist_tags"].to_string(),
            r#"{"a":"1","b":"2","c":"3"}"#
        );
    }
}
