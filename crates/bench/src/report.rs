//! What a measurement found.

use serde_json::{Map, Value, json};

use crate::statistics::Series;

/// The result of one command.
#[derive(Debug)]
pub(crate) struct Report {
    bench: &'static str,
    figures: Vec<Figure>,
    environment: Map<String, Value>,
}

/// One figure.
#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
    /// In the same unit.
    pub(crate) floor: Option<f64>,
    pub(crate) target: Option<Target>,
    /// Of the value, round by round.
    pub(crate) rounds: Series,
}

/// What a ratio should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

// === impl Report ===

impl Report {
    pub(crate) fn new(bench: &'static str, environment: Map<String, Value>) -> Self {
        Self {
            bench,
            figures: Vec::new(),
            environment,
        }
    }

    /// Adds a figure without a floor: the median of the rounds.
    pub(crate) fn plain(&mut self, name: &str, unit: &'static str, rounds: &Series) {
        self.push(name, unit, rounds, None);
    }

    /// Adds a figure with its floor: the medians of their rounds.
    pub(crate) fn floored(
        &mut self,
        name: &str,
        unit: &'static str,
        rounds: &Series,
        floor: &Series,
    ) {
        self.push(name, unit, rounds, Some(floor.median()));
    }

    /// Adds the ratio of two medians as a figure of its own. Its value is the ratio and its floor is 1, so that it reads the
    /// same whichever of `value` and `ratio` is looked at.
    pub(crate) fn ratio(
        &mut self,
        name: &str,
        rounds: &Series,
        floor: &Series,
        target: Option<Target>,
    ) {
        self.figures.push(Figure {
            name: format!("{}.{name}", self.bench),
            unit: "ratio",
            value: rounds.median() / floor.median(),
            floor: Some(1.0),
            target,
            rounds: rounds.over(floor),
        });
    }

    /// Adds a figure that is itself aimed at something.
    pub(crate) fn aimed(
        &mut self,
        name: &str,
        unit: &'static str,
        rounds: &Series,
        floor: Option<&Series>,
        target: Option<Target>,
    ) {
        self.push(name, unit, rounds, floor.map(Series::median));
        if let Some(figure) = self.figures.last_mut() {
            figure.target = target;
        }
    }

    fn push(&mut self, name: &str, unit: &'static str, rounds: &Series, floor: Option<f64>) {
        self.figures.push(Figure {
            name: format!("{}.{name}", self.bench),
            unit,
            value: rounds.median(),
            floor,
            target: None,
            rounds: rounds.clone(),
        });
    }

    pub(crate) fn bench(&self) -> &'static str {
        self.bench
    }

    pub(crate) fn figures(&self) -> &[Figure] {
        &self.figures
    }

    pub(crate) fn environment(&self) -> &Map<String, Value> {
        &self.environment
    }

    /// One object: `figures` by name, each `{value, unit, floor, ratio}`; `targets` and `rounds` of those figures; `environment`.
    pub(crate) fn to_json(&self) -> Value {
        let mut figures = Map::new();
        let mut targets = Map::new();
        let mut rounds = Map::new();
        for figure in &self.figures {
            figures.insert(
                figure.name.clone(),
                json!({
                    "value": rounded(figure.value),
                    "unit": figure.unit,
                    "floor": figure.floor.map(rounded),
                    "ratio": figure.ratio().map(rounded),
                }),
            );
            let values: Vec<f64> = figure
                .rounds
                .values()
                .iter()
                .copied()
                .map(rounded)
                .collect();
            rounds.insert(figure.name.clone(), json!(values));
            if let Some(target) = figure.target {
                let (bound, limit) = match target {
                    Target::AtMost(limit) => ("at_most", limit),
                    Target::AtLeast(limit) => ("at_least", limit),
                };
                targets.insert(
                    figure.name.clone(),
                    json!({ bound: limit, "met": target.is_met(figure.value) }),
                );
            }
        }
        json!({
            "bench": self.bench,
            "figures": figures,
            "targets": targets,
            "rounds": rounds,
            "environment": self.environment,
        })
    }
}

// === impl Figure ===

impl Figure {
    /// The value over the floor.
    pub(crate) fn ratio(&self) -> Option<f64> {
        self.floor
            .filter(|floor| *floor > 0.0)
            .map(|floor| self.value / floor)
    }
}

// === impl Target ===

impl Target {
    pub(crate) fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

/// To four places: more is noise.
fn rounded(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new("lookup", Map::new());
        let (server, echo): (Series, Series) = (
            [24.0, 25.0, 30.0].into_iter().collect(),
            [20.0, 20.0, 20.0].into_iter().collect(),
        );
        report.ratio(
            "server_cpu_ratio",
            &server,
            &echo,
            Some(Target::AtMost(1.25)),
        );
        report.floored("server_cpu", "us/call", &server, &echo);
        report.plain("reply", "bytes", &echo);
        report
    }

    #[test]
    fn every_figure_has_value_unit_floor_and_ratio() {
        let json = report().to_json();
        assert_eq!(
            json["figures"],
            json!({
                "lookup.server_cpu_ratio": { "value": 1.25, "unit": "ratio", "floor": 1.0, "ratio": 1.25 },
                "lookup.server_cpu": { "value": 25.0, "unit": "us/call", "floor": 20.0, "ratio": 1.25 },
                "lookup.reply": { "value": 20.0, "unit": "bytes", "floor": null, "ratio": null },
            })
        );
        assert_eq!(
            json["targets"],
            json!({ "lookup.server_cpu_ratio": { "at_most": 1.25, "met": true } })
        );
        assert_eq!(
            json["rounds"]["lookup.server_cpu_ratio"],
            json!([1.2, 1.25, 1.5])
        );
    }

    #[test]
    fn a_target_is_met_at_its_limit() {
        assert!(Target::AtMost(1.25).is_met(1.25) && !Target::AtMost(1.25).is_met(1.26));
        assert!(Target::AtLeast(1.5).is_met(1.5) && !Target::AtLeast(1.5).is_met(1.49));
    }
}
