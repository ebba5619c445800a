//! What everything is judged by: the rules that are declared, and the policies. Each has a generation.
//!
//! Whoever changes one of them changes its generation before anything that depends on it, and a page of a sweep keeps both as they
//! are until it is committed. So a page is either there before the change, and found by whoever makes due what that concerns; or it
//! is refused, because it was judged by what is no longer so.

use sqlx::FromRow;

use crate::{
    Error, Store,
    engine::{Tx, statements},
};

statements! {
    /// Generations by name.
    GET = "drift_generation_get" => ["SELECT name, value FROM drift_generation WHERE name IN ($1, $2)"];
    /// The same, kept as they are until the transaction ends.
    KEEP = "drift_generation_keep" => [
        "SELECT name, value FROM drift_generation WHERE name IN ($1, $2) ORDER BY name" for_share
    ];
    /// Declares rules, which nothing has adopted yet.
    DECLARE = "drift_generation_declare" => [
        "INSERT INTO drift_generation (name, value) VALUES ('adopted', ''), ('rules', $1) \
         ON CONFLICT (name) DO UPDATE SET value = excluded.value"
    ];
    /// Everything that depends on the rules knows of them, if they are still those.
    ADOPT = "drift_generation_adopt" => [
        "UPDATE drift_generation SET value = $1 WHERE name = 'adopted' \
         AND EXISTS (SELECT 1 FROM drift_generation r WHERE r.name = 'rules' AND r.value = $1)"
    ];
    /// Counts a change of the policies.
    COUNT = "drift_generation_count" => [
        "INSERT INTO drift_generation (name, value) VALUES ('policies', '1') \
         ON CONFLICT (name) DO UPDATE SET value = CAST(CAST(drift_generation.value AS BIGINT) + 1 AS TEXT)"
    ];
}

/// What a page was judged by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JudgedBy {
    /// The digest of the rules.
    pub rules: String,
    /// The generation of the policies; `None` if they do not matter.
    pub policies: Option<String>,
}

/// What is no longer as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outdated {
    /// Another replica has declared other rules since this one did.
    Rules,
    /// A policy was written.
    Policies,
}

/// How far rules are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RulesStanding {
    /// Everything that depends on them knows of them.
    Adopted,
    /// They are those that count, and not everything knows yet.
    Declared,
    /// Others count.
    Foreign,
}

#[derive(FromRow)]
struct GenerationRow {
    name: String,
    value: String,
}

fn value(rows: &[GenerationRow], name: &str) -> String {
    let row = rows.iter().find(|row| row.name == name);
    row.map_or_else(String::new, |row| row.value.clone())
}

/// Keeps the generations as they are until the transaction ends, and says which is not what a page was judged by.
pub(super) async fn keep(tx: &mut Tx, judged_by: &JudgedBy) -> Result<Option<Outdated>, Error> {
    let kept = tx.statement(&KEEP).bind("rules").bind("policies");
    let kept: Vec<GenerationRow> = kept.all().await?;
    if value(&kept, "rules") != judged_by.rules {
        return Ok(Some(Outdated::Rules));
    }
    let policies = judged_by.policies.as_ref();
    let moved = policies.is_some_and(|policies| *policies != value(&kept, "policies"));
    Ok(moved.then_some(Outdated::Policies))
}

/// Counts a change of the policies; before anything else of it is written, so that it waits for pages under way, and they for it.
pub(super) async fn count_policies(tx: &mut Tx) -> Result<(), Error> {
    tx.statement(&COUNT).execute().await?;
    Ok(())
}

impl Store {
    /// How far rules of this digest are known.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn rules_standing(&self, digest: &str) -> Result<RulesStanding, Error> {
        let rows = self.db().read(&GET).bind("rules").bind("adopted");
        let rows: Vec<GenerationRow> = rows.all().await?;
        Ok(match (value(&rows, "rules"), value(&rows, "adopted")) {
            (rules, _) if rules != digest => RulesStanding::Foreign,
            (_, adopted) if adopted != digest => RulesStanding::Declared,
            _ => RulesStanding::Adopted,
        })
    }

    /// Makes rules of this digest those that count: whoever sweeps by others commits no page any more. Nothing has adopted them yet.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn declare_rules(&self, digest: &str) -> Result<(), Error> {
        let declared = self.db().write(&DECLARE).bind(digest);
        declared.execute().await?;
        Ok(())
    }

    /// Remembers that everything which depends on rules of this digest knows of them, unless others count meanwhile.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn adopted_rules(&self, digest: &str) -> Result<(), Error> {
        let adopted = self.db().write(&ADOPT).bind(digest);
        adopted.execute().await?;
        Ok(())
    }

    /// The generation of the policies: read it before them.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn policies_generation(&self) -> Result<String, Error> {
        let rows = self.db().read(&GET).bind("policies").bind("policies");
        let rows: Vec<GenerationRow> = rows.all().await?;
        Ok(value(&rows, "policies"))
    }
}
