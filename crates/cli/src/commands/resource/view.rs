//! Resources in tables and lines.

use serde_json::Value;
use steadfast_client::api::drift::v1::{Presence, Resource, ResourceEvent, ResourceKey, Verdict};

use crate::{json, moment, table};

/// Characters of a value in a table.
const VALUE_LENGTH: usize = 80;

/// For example `do/droplet/7`.
pub(crate) fn name(key: Option<&ResourceKey>) -> String {
    key.map_or_else(String::new, |key| {
        table::clean(&format!("{}/{}/{}", key.provider, key.r#type, key.id))
    })
}

/// For example `do/droplet`.
pub(crate) fn type_name(provider: &str, kind: &str) -> String {
    match (provider, kind) {
        ("", _) => String::new(),
        (provider, "") => table::clean(provider),
        (provider, kind) => table::clean(&format!("{provider}/{kind}")),
    }
}

fn verdict(resource: &Resource) -> String {
    let verdict = match resource.verdict() {
        Verdict::Unspecified => "not compared".to_owned(),
        _ => json::drift::verdict(resource.verdict).replace('_', " "),
    };
    if resource.due {
        format!("{verdict}, due")
    } else {
        verdict
    }
}

fn drifts(resource: &Resource) -> String {
    match (resource.open_drifts, resource.suppressed_drifts) {
        (0, _) => String::new(),
        (open, 0) => open.to_string(),
        (open, hidden) => format!("{open} ({hidden} hidden)"),
    }
}

fn version(resource: &Resource) -> String {
    match resource.spec_version {
        0 => String::new(),
        version => version.to_string(),
    }
}

fn presence(resource: &Resource) -> String {
    match resource.presence() {
        Presence::Present => resource.transition.clone(),
        _ => json::drift::presence(resource.presence),
    }
}

pub(super) fn list(resources: &[Resource], more: bool) -> String {
    if resources.is_empty() {
        return "no resources".to_owned();
    }
    let mut rows = table::with_head(&[
        "RESOURCE", "VERDICT", "DRIFTS", "VERSION", "APPLIED", "OBSERVED", "STATE",
    ]);
    for resource in resources {
        rows.add_row([
            name(resource.key.as_ref()),
            verdict(resource),
            drifts(resource),
            version(resource),
            moment::relative(resource.applied_time.as_ref()),
            moment::relative(resource.observe_time.as_ref()),
            table::clean(&presence(resource)),
        ]);
    }
    let shown = table::count(resources.len(), "resource");
    let more = if more { "; --limit shows more" } else { "" };
    format!("{}\n\n{shown}{more}", table::text(&rows))
}

/// The resource, then both of its documents.
pub(super) fn one(resource: &Resource) -> String {
    let mut labels: Vec<_> = resource
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    labels.sort();
    let fields = table::of_fields([
        ("resource", name(resource.key.as_ref())),
        ("verdict", verdict(resource)),
        ("drifts", drifts(resource)),
        ("state", table::clean(&presence(resource))),
        ("labels", table::clean(&labels.join(", "))),
        ("spec version", version(resource)),
        ("recorded by", table::clean(&resource.recorded_by)),
        ("recorded", moment::relative(resource.record_time.as_ref())),
        ("applied", moment::relative(resource.applied_time.as_ref())),
        ("saga", resource.saga_id.clone()),
        ("observed", moment::relative(resource.observe_time.as_ref())),
        ("inventory", resource.inventory_id.clone()),
        ("etag", resource.etag.clone()),
    ]);
    let document = |head: &str, text: &str| match text {
        "" => format!("{head}: none"),
        text => format!("{head}:\n{}", pretty(text)),
    };
    [
        fields,
        document("spec", &resource.spec_json),
        document("attributes", &resource.attributes_json),
    ]
    .join("\n\n")
}

/// The document on several lines, without what could steer a terminal.
pub(super) fn pretty(text: &str) -> String {
    let pretty = serde_json::from_str::<Value>(text)
        .map_or_else(|_| text.to_owned(), |value| format!("{value:#}"));
    pretty.replace(
        |letter: char| letter.is_control() && letter != '\n',
        "\u{fffd}",
    )
}

pub(super) fn events(events: &[ResourceEvent]) -> String {
    if events.is_empty() {
        return "no events".to_owned();
    }
    let mut rows = table::with_head(&["SEQ", "WHEN", "WHAT", "PATH", "WHO", "DETAIL"]);
    for event in events {
        let detail = match (event.reason.as_str(), event.detail_json.as_str()) {
            ("", detail) => detail.to_owned(),
            (reason, "") => reason.to_owned(),
            (reason, detail) => format!("{reason} {detail}"),
        };
        rows.add_row([
            event.seq.to_string(),
            moment::relative(event.time.as_ref()),
            json::drift::event_kind(event.kind).replace('_', " "),
            table::clean(&event.path),
            table::clean(&event.actor),
            table::shorten(&detail, VALUE_LENGTH),
        ]);
    }
    table::text(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource() -> Resource {
        Resource {
            key: Some(ResourceKey {
                provider: "do".to_owned(),
                r#type: "droplet".to_owned(),
                id: "7".to_owned(),
            }),
            verdict: Verdict::InSync.into(),
            presence: Presence::Present.into(),
            due: true,
            open_drifts: 2,
            suppressed_drifts: 1,
            spec_version: 3,
            spec_json: "{\"a\":\"\u{9b}\"}".to_owned(),
            ..Resource::default()
        }
    }

    #[test]
    fn a_resource_tells_its_verdict_and_what_is_hidden() {
        let text = list(&[resource()], true);
        assert!(text.contains("do/droplet/7"), "{text}");
        assert!(
            text.contains("in sync, due") && text.contains("2 (1 hidden)"),
            "{text}"
        );
        assert!(text.ends_with("1 resource; --limit shows more"), "{text}");
        assert_eq!(list(&[], false), "no resources");
        let gone = Resource {
            presence: Presence::Gone.into(),
            ..resource()
        };
        assert!(list(&[gone], false).contains("gone"));
    }

    #[test]
    fn documents_do_not_steer_the_terminal() {
        let text = one(&resource());
        assert!(
            text.contains("spec:\n{\n  \"a\": \"\u{fffd}\"\n}"),
            "{text}"
        );
        assert!(text.ends_with("attributes: none"), "{text}");
    }
}
