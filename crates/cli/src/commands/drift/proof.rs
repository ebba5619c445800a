//! What a sweep could prove: that nothing differs means little where nothing could be compared.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use steadfast_client::{
    Connection,
    api::drift::v1::{GetResourceRequest, ListResourcesRequest, ResourceKey, Verdict},
};

use crate::{failure::Failure, json, table};

/// Verdicts that prove nothing, and what is meant by them.
const UNPROVEN: [(Verdict, &str); 4] = [
    (
        Verdict::NotObserved,
        "nobody has looked since it was applied: report it, alone or in an inventory",
    ),
    (
        Verdict::Unreadable,
        "the last look at it failed or was incomplete: look again",
    ),
    (
        Verdict::Pending,
        "it was recorded as pending: record it without --pending once it is applied",
    ),
    (
        Verdict::Busy,
        "a saga holds it, or the provider is changing it: wait until that has ended",
    ),
];

/// Resources on one page of a list.
const PAGE: i32 = 1_000;
/// Pages that are counted; more is as bad.
const PAGES: usize = 20;

/// How much of what was asked for could be compared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Proof {
    /// At least one resource was.
    pub(super) any: bool,
    /// How many were not, by verdict; the empty verdict is of one that nobody recorded.
    pub(super) missing: BTreeMap<String, usize>,
    /// There are more of them than were counted.
    pub(super) more: bool,
}

// === impl Proof ===

impl Proof {
    /// Of one resource.
    pub(super) async fn of_one(
        connection: &Connection,
        key: &ResourceKey,
    ) -> Result<Self, Failure> {
        let mut client = connection.resources();
        let request = GetResourceRequest {
            key: Some(key.clone()),
        };
        let answer = connection.call(client.get_resource(request)).await?;
        let resource = answer.resource.unwrap_or_default();
        let any = matches!(resource.verdict(), Verdict::InSync | Verdict::Drifted);
        let mut proof = Self {
            any,
            ..Self::default()
        };
        if !any {
            proof.add(resource.verdict());
        }
        Ok(proof)
    }

    /// Of all resources with some labels.
    pub(super) async fn of_all(
        connection: &Connection,
        labels: &HashMap<String, String>,
    ) -> Result<Self, Failure> {
        let mut client = connection.resources();
        let request = |verdicts: &[Verdict], page_size| ListResourcesRequest {
            labels: labels.clone(),
            verdicts: verdicts.iter().map(|verdict| (*verdict).into()).collect(),
            page_size,
            ..ListResourcesRequest::default()
        };
        let compared = request(&[Verdict::InSync, Verdict::Drifted], 1);
        let answer = connection.call(client.list_resources(compared)).await?;
        let mut proof = Self {
            any: !answer.resources.is_empty(),
            ..Self::default()
        };
        let mut unproven = request(&UNPROVEN.map(|(verdict, _)| verdict), PAGE);
        for _ in 0..PAGES {
            let call = client.list_resources(unproven.clone());
            let answer = connection.call(call).await?;
            for resource in answer.resources {
                proof.add(resource.verdict());
            }
            unproven.page_token = answer.next_page_token;
            if unproven.page_token.is_empty() {
                return Ok(proof);
            }
        }
        proof.more = true;
        Ok(proof)
    }

    fn add(&mut self, verdict: Verdict) {
        let name = match verdict {
            Verdict::Unspecified => String::new(),
            verdict => json::drift::verdict(verdict.into()),
        };
        *self.missing.entry(name).or_default() += 1;
    }

    /// Everything that was asked about could be compared.
    pub(super) fn is_whole(&self) -> bool {
        self.any && self.missing.is_empty()
    }

    /// For example `2 not observed, 1 busy`; empty if nothing is missing.
    pub(super) fn missing(&self) -> String {
        let told = self.missing.iter().map(|(verdict, count)| {
            let verdict = match verdict.as_str() {
                "" => "recorded by nobody".to_owned(),
                verdict => verdict.replace('_', " "),
            };
            format!("{count} {verdict}")
        });
        let told = told.collect::<Vec<_>>().join(", ");
        match self.more {
            true => format!("more than {told}"),
            false => told,
        }
    }

    /// That it proves nothing, or not all, and what can be done about it.
    pub(super) fn complaint(&self, labels: bool) -> Failure {
        let what = match (self.any, self.missing.is_empty()) {
            (false, true) if labels => {
                "nothing was compared: no resource has these labels".to_owned()
            }
            (false, true) => "nothing was compared: no resource is recorded".to_owned(),
            (false, false) => format!("nothing could be compared: {}", self.missing()),
            (true, _) => format!("not everything could be compared: {}", self.missing()),
        };
        let mut failure = Failure::new(crate::failure::Exit::Error, what);
        for (verdict, remedy) in UNPROVEN {
            let name = json::drift::verdict(verdict.into());
            if self.missing.contains_key(&name) {
                failure = failure.hint(format!("{}: {remedy}", name.replace('_', " ")));
            }
        }
        if self.missing.contains_key("") || (!self.any && self.missing.is_empty() && !labels) {
            failure = failure.hint("say what was asked for with `steadfast resource record`");
        }
        failure
    }

    pub(super) fn json(&self) -> Value {
        let mut missing = self.missing.clone();
        let unrecorded = missing.remove("");
        missing.extend(unrecorded.map(|count| ("unrecorded".to_owned(), count)));
        json!({ "any_compared": self.any, "not_compared": missing, "more": self.more })
    }

    /// What follows the line of a sweep.
    pub(super) fn clause(&self) -> String {
        let missing = self.missing.values().sum::<usize>();
        match missing {
            0 => String::new(),
            _ => format!(
                "; {} could not be compared: {}",
                table::count(missing, "resource"),
                self.missing()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(any: bool, missing: &[(Verdict, usize)]) -> Proof {
        let mut proof = Proof {
            any,
            ..Proof::default()
        };
        for &(verdict, count) in missing {
            (0..count).for_each(|_| proof.add(verdict));
        }
        proof
    }

    #[test]
    fn what_is_missing_is_told_with_its_remedies() {
        let some = proof(true, &[(Verdict::Busy, 1), (Verdict::NotObserved, 2)]);
        assert!(!some.is_whole() && proof(true, &[]).is_whole());
        assert_eq!(some.missing(), "1 busy, 2 not observed");
        let complaint = some.complaint(false);
        assert!(complaint.message.starts_with("not everything"));
        assert_eq!(complaint.hints.len(), 2, "{:?}", complaint.hints);
        let none = proof(false, &[(Verdict::Pending, 3)]).complaint(true);
        assert_eq!(none.message, "nothing could be compared: 3 pending");
        assert!(none.hints[0].contains("--pending"), "{:?}", none.hints);
    }

    #[test]
    fn an_empty_scope_proves_nothing() {
        let empty = proof(false, &[]);
        assert!(!empty.is_whole());
        assert!(empty.complaint(false).message.contains("recorded"));
        assert!(empty.complaint(true).message.contains("labels"));
        let nobody = proof(false, &[(Verdict::Unspecified, 1)]);
        assert!(nobody.missing().contains("nobody"));
        assert!(nobody.complaint(false).hints[0].contains("resource record"));
        assert_eq!(nobody.json()["not_compared"]["unrecorded"], 1);
    }
}
