//! Resources of twenty fields: what was asked for, and what a provider says of it in its own words.

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use steadfast_api::drift::v1::ResourceKey;

/// Leaves of each spec.
pub(super) const FIELDS: usize = 20;

/// Of each five fields, one of these: a number, a text, a truth, a list, and a value in a map.
const KINDS: usize = 5;

/// So many resources, and how they are described next.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) resources: u32,
    /// Counts descriptions, so that each is in other words.
    described: u64,
    /// Another value of those that differ.
    turn: u32,
}

// === impl Fleet ===

impl Fleet {
    pub(super) fn new(resources: u32) -> Self {
        Self {
            resources,
            described: 0,
            turn: 0,
        }
    }

    pub(super) fn key(number: u32) -> ResourceKey {
        ResourceKey {
            provider: "bench".to_owned(),
            r#type: "server".to_owned(),
            id: format!("{number:08}"),
        }
    }

    /// From now on those that differ have other values than before.
    pub(super) fn turn(&mut self) {
        self.turn += 1;
    }

    /// From now on everything is said in other words.
    pub(super) fn describe(&mut self) {
        self.described += 1;
    }

    /// How many differ if so many of a hundred do.
    pub(super) fn drifted(&self, percent: u32) -> u32 {
        let differs = |number: &u32| Self::differs(*number, percent);
        u32::try_from((0..self.resources).filter(differs).count()).unwrap_or(u32::MAX)
    }

    pub(super) fn differs(number: u32, percent: u32) -> bool {
        number % 100 < percent
    }

    pub(super) fn spec(number: u32) -> String {
        let (mut members, mut nested) = (Vec::new(), Vec::new());
        for field in 0..FIELDS {
            let value = u64::from(number) * 31 + field as u64;
            let member = match field % KINDS {
                0 => format!("\"number_{field}\":{value}"),
                1 => format!("\"text_{field}\":\"value {value} of the bench\""),
                2 => format!("\"truth_{field}\":{}", value.is_multiple_of(2)),
                3 => format!("\"list_{field}\":[\"a{value}\",\"b{value}\",\"c{value}\"]"),
                _ => {
                    nested.push(format!("\"inner_{field}\":{value}"));
                    continue;
                }
            };
            members.push(member);
        }
        members.push(format!("\"nested\":{{{}}}", nested.join(",")));
        format!("{{{}}}", members.join(","))
    }

    /// What the provider says: numbers as texts, lists in any order and with what is there twice, half of the fields under
    /// `attrs`, and more than was asked for. Where fields are does not change, nor does what any of it means.
    pub(super) fn attributes(&self, number: u32, differs: bool) -> String {
        let mut rng = StdRng::seed_from_u64((self.described << 32) | u64::from(number));
        let mut places = [
            vec![format!("\"id\":{number}"), "\"locked\":false".to_owned()],
            vec!["\"image\":{\"slug\":\"bench-1\",\"public\":true}".to_owned()],
        ];
        let mut nested = Vec::new();
        for field in 0..FIELDS {
            let mut value = u64::from(number) * 31 + field as u64;
            if field == 0 && differs {
                value += 1_000_000_000 * u64::from(self.turn + 1);
            }
            let number_in_any_form = |rng: &mut StdRng| match rng.random_range(0..3) {
                0 => format!("{value}"),
                1 => format!("\"{value}\""),
                _ => format!("{value}.0"),
            };
            let member = match field % KINDS {
                0 => format!("\"number_{field}\":{}", number_in_any_form(&mut rng)),
                1 => format!("\"text_{field}\":\"value {value} of the bench\""),
                2 if rng.random() => format!("\"truth_{field}\":\"{}\"", value.is_multiple_of(2)),
                2 => format!("\"truth_{field}\":{}", value.is_multiple_of(2)),
                3 => {
                    let mut elements =
                        ["a", "b", "c", "a"].map(|name| format!("\"{name}{value}\""));
                    elements.shuffle(&mut rng);
                    format!("\"list_{field}\":[{}]", elements.join(","))
                }
                _ => {
                    nested.push(format!(
                        "\"inner_{field}\":{}",
                        number_in_any_form(&mut rng)
                    ));
                    continue;
                }
            };
            places[field % 2].push(member);
        }
        nested.shuffle(&mut rng);
        places[0].push(format!("\"nested\":{{{}}}", nested.join(",")));
        places
            .iter_mut()
            .for_each(|members| members.shuffle(&mut rng));
        let [top, below] = places.map(|members| members.join(","));
        format!("{{{top},\"attrs\":{{{below}}}}}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn leaves(value: &Value) -> usize {
        match value {
            Value::Object(members) => members.values().map(leaves).sum(),
            _ => 1,
        }
    }

    #[test]
    fn a_spec_has_twenty_leaves_and_observations_differ_in_form_only() {
        let mut fleet = Fleet::new(300);
        let spec: Value = serde_json::from_str(&Fleet::spec(7)).unwrap();
        assert_eq!(leaves(&spec), FIELDS);
        let one = fleet.attributes(7, false);
        fleet.describe();
        let other = fleet.attributes(7, false);
        assert_ne!(one, other);
        for text in [&one, &other] {
            let live: Value = serde_json::from_str(text).unwrap();
            let found = |name: &str| live.get(name).or_else(|| live["attrs"].get(name));
            let names = spec.as_object().unwrap().keys();
            assert!(names.clone().all(|name| found(name).is_some()), "{text}");
        }
        assert_eq!(
            (fleet.drifted(0), fleet.drifted(1), fleet.drifted(100)),
            (0, 3, 300)
        );
    }
}
