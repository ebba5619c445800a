//! Which changes a subscriber wants.

use steadfast_store::{
    DRIFT_TOPIC, ICON_TOPIC, PACKAGE_TOPIC, POLICY_TOPIC, RESOURCE_TOPIC, SAGA_TOPIC, SCHEMA_TOPIC,
};

use crate::{Error, publish::is_topic_part};

/// Filters in one subscription at most.
const MAX_FILTERS: usize = 64;
/// Bytes of a topic or prefix at most.
const MAX_BYTES: usize = 512;

/// Topics of Steadfast itself.
const OWN_TOPICS: [&str; 7] = [
    PACKAGE_TOPIC,
    SCHEMA_TOPIC,
    ICON_TOPIC,
    SAGA_TOPIC,
    RESOURCE_TOPIC,
    DRIFT_TOPIC,
    POLICY_TOPIC,
];
/// The first part of users' topics.
const APP: &str = "app";

/// Keeps changes of one topic, or of all topics below one, whose key begins with a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    topic: Topic,
    key_prefix: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Topic {
    Exact(String),
    /// With the trailing slash.
    Below(String),
}

/// Any of several filters; none keeps everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filters(Vec<Filter>);

// === impl Filter ===

impl Filter {
    /// Reads a topic such as `registry`, `app/orders` or `app/*`, and a key prefix.
    ///
    /// # Errors
    /// With what is wrong and what is allowed.
    pub fn parse(topic: &str, key_prefix: &str) -> Result<Self, String> {
        if topic.is_empty() {
            return Err("a filter needs a topic, for example `registry` or `app/*`".to_owned());
        }
        if topic.len() > MAX_BYTES || key_prefix.len() > MAX_BYTES {
            return Err(format!(
                "topic and key prefix take at most {MAX_BYTES} bytes each"
            ));
        }
        let stem = topic.strip_suffix("/*");
        if stem.unwrap_or(topic).contains('*') || stem == Some("") {
            return Err(format!(
                "`{topic}`: `*` stands for a topic's last part only, as in `app/*`"
            ));
        }
        // A topic that no change can have would be waited for in silence, for ever.
        let known = match stem {
            Some(stem) => is_app_stem(stem),
            None => OWN_TOPICS.contains(&topic) || (topic != APP && is_app_stem(topic)),
        };
        if !known {
            return Err(format!(
                "`{topic}`: no change has such a topic; there are {}, and those that begin with `app/`, all of which `app/*` names",
                OWN_TOPICS.map(|topic| format!("`{topic}`")).join(", ")
            ));
        }
        Ok(Self {
            topic: match stem {
                Some(stem) => Topic::Below(format!("{stem}/")),
                None => Topic::Exact(topic.to_owned()),
            },
            key_prefix: key_prefix.to_owned(),
        })
    }

    fn keeps(&self, topic: &str, key: &str) -> bool {
        let topic = match &self.topic {
            Topic::Exact(exact) => topic == exact,
            Topic::Below(stem) => topic.starts_with(stem.as_str()),
        };
        topic && key.starts_with(self.key_prefix.as_str())
    }
}

// === impl Filters ===

impl Filters {
    /// Reads pairs of topic and key prefix.
    ///
    /// # Errors
    /// [`Error::InvalidFilter`] with the position of the first that cannot be understood.
    pub fn parse<'a>(filters: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Error> {
        let invalid = |index, message| Error::InvalidFilter { index, message };
        let mut parsed = Vec::new();
        for (index, (topic, prefix)) in filters.into_iter().enumerate() {
            if index == MAX_FILTERS {
                let message = format!("at most {MAX_FILTERS} filters; a topic `app/*` covers many");
                return Err(invalid(index, message));
            }
            parsed.push(Filter::parse(topic, prefix).map_err(|message| invalid(index, message))?);
        }
        Ok(Self(parsed))
    }

    /// Whether any keeps it.
    #[must_use]
    pub fn keeps(&self, topic: &str, key: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|filter| filter.keeps(topic, key))
    }

    /// Whether everything is kept.
    #[must_use]
    pub fn keeps_all(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whether it is `app`, or users' topics can begin with it.
fn is_app_stem(stem: &str) -> bool {
    let mut parts = stem.split('/');
    parts.next() == Some(APP) && parts.all(is_topic_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_keep_topics_and_prefixes() {
        let filters =
            Filters::parse([("registry", "@openfn/"), ("saga", ""), ("app/*", "")]).unwrap();
        for (topic, key, kept) in [
            ("registry", "@openfn/language-http", true),
            ("registry", "@other/x", false),
            ("saga", "0190", true),
            ("app/a", "", true),
            ("app/a/b", "k", true),
            ("app", "k", false),
            ("apple/a", "k", false),
            ("schema", "@openfn/x", false),
        ] {
            assert_eq!(filters.keeps(topic, key), kept, "{topic} {key}");
        }
        assert!(Filters::default().keeps("anything", ""));
    }

    #[test]
    fn bad_filters_are_named_by_position() {
        let long = "x".repeat(513);
        for bad in [
            "",
            "*",
            "/*",
            "a*",
            "app/*/b",
            "app",
            "app/",
            "app//x",
            "app/x y",
            "application/x",
            "regsitry",
            "registry/*",
            "schema/x",
            "saga/*",
            long.as_str(),
        ] {
            let parsed = Filters::parse([("registry", ""), (bad, "")]);
            assert!(
                matches!(parsed, Err(Error::InvalidFilter { index: 1, .. })),
                "{bad}"
            );
        }
        assert!(Filters::parse(std::iter::repeat_n(("app/a", ""), 65)).is_err());
    }
}
