//! Lists of resources, in order of their names: each looks at a bounded number of names.

use std::collections::BTreeMap;

use sqlx::FromRow;

use super::{
    super::{ResourceName, count, json},
    ResourceRow,
};
use crate::{Error, Store, engine::statements};

/// Names looked at by one statement.
const LOOK: i64 = 2_000;

/// Names looked at by one list at most.
const LOOKS: i64 = 20_000;

/// All after a name, and those of one provider, or one type of it.
macro_rules! all {
    () => {
        "(r.provider, r.type, r.id) > ($1, $2, $3) ORDER BY r.provider, r.type, r.id "
    };
}

macro_rules! of_provider {
    () => {
        "r.provider = $1 AND (r.type, r.id) > ($2, $3) ORDER BY r.type, r.id "
    };
}

macro_rules! of_type {
    () => {
        "r.provider = $1 AND r.type = $2 AND r.id > $3 ORDER BY r.id "
    };
}

/// Which of them a list keeps.
macro_rules! kept_postgres {
    () => {
        "WHERE (r.recorded OR l.key IS NOT NULL) AND ($5 = '' OR v.verdict = ANY (string_to_array($5, ','))) \
         AND (CAST($4 AS TEXT) IS NULL OR CAST(r.labels AS jsonb) @> CAST($4 AS jsonb)) ORDER BY r.provider, r.type, r.id LIMIT $6"
    };
}

macro_rules! kept_sqlite {
    () => {
        "WHERE (r.recorded OR l.key IS NOT NULL) AND ($5 = '' OR instr(',' || $5 || ',', ',' || v.verdict || ',') > 0) \
         AND ($4 IS NULL OR NOT EXISTS (SELECT 1 FROM json_each($4) wanted WHERE NOT EXISTS \
         (SELECT 1 FROM json_each(r.labels) own WHERE own.key = wanted.key AND own.value = wanted.value))) \
         ORDER BY r.provider, r.type, r.id LIMIT $6"
    };
}

statements! {
    /// Resources after a name, in order of their names, without documents: of the next so many those that a filter keeps.
    LIST = "drift_resource_list" => [
        postgres {
            "SELECT g.*, g.due_us <= " now " AS due FROM (" (columns!("''", "''"))
            "FROM (SELECT * FROM drift_resource r WHERE " (all!()) "LIMIT $7) r " (parts_postgres!()) (kept_postgres!())
            ") AS g ORDER BY g.provider, g.kind, g.id"
        }
        sqlite {
            "SELECT g.*, g.due_us <= " now " AS due FROM (" (columns!("''", "''"))
            "FROM (SELECT * FROM drift_resource r WHERE " (all!()) "LIMIT $7) r " (parts_sqlite!()) (kept_sqlite!())
            ") AS g ORDER BY g.provider, g.kind, g.id"
        }
    ];
    /// The same, of one provider.
    LIST_OF_PROVIDER = "drift_resource_list_of_provider" => [
        postgres {
            "SELECT g.*, g.due_us <= " now " AS due FROM (" (columns!("''", "''"))
            "FROM (SELECT * FROM drift_resource r WHERE " (of_provider!()) "LIMIT $7) r " (parts_postgres!()) (kept_postgres!())
            ") AS g ORDER BY g.provider, g.kind, g.id"
        }
        sqlite {
            "SELECT g.*, g.due_us <= " now " AS due FROM (" (columns!("''", "''"))
            "FROM (SELECT * FROM drift_resource r WHERE " (of_provider!()) "LIMIT $7) r " (parts_sqlite!()) (kept_sqlite!())
            ") AS g ORDER BY g.provider, g.kind, g.id"
        }
    ];
    /// The same, of one type of a provider.
    LIST_OF_TYPE = "drift_resource_list_of_type" => [
        postgres {
            "SELECT g.*, g.due_us <= " now " AS due FROM (" (columns!("''", "''"))
            "FROM (SELECT * FROM drift_resource r WHERE " (of_type!()) "LIMIT $7) r " (parts_postgres!()) (kept_postgres!())
            ") AS g ORDER BY g.provider, g.kind, g.id"
        }
        sqlite {
            "SELECT g.*, g.due_us <= " now " AS due FROM (" (columns!("''", "''"))
            "FROM (SELECT * FROM drift_resource r WHERE " (of_type!()) "LIMIT $7) r " (parts_sqlite!()) (kept_sqlite!())
            ") AS g ORDER BY g.provider, g.kind, g.id"
        }
    ];
    /// The last of the next so many names.
    LAST = "drift_resource_last" => [
        "SELECT r.provider, r.type AS kind, r.id FROM drift_resource r WHERE " (all!()) "LIMIT 1 OFFSET $4"
    ];
    /// The same, of one provider.
    LAST_OF_PROVIDER = "drift_resource_last_of_provider" => [
        "SELECT r.provider, r.type AS kind, r.id FROM drift_resource r WHERE " (of_provider!()) "LIMIT 1 OFFSET $4"
    ];
    /// The same, of one type of a provider.
    LAST_OF_TYPE = "drift_resource_last_of_type" => [
        "SELECT r.provider, r.type AS kind, r.id FROM drift_resource r WHERE " (of_type!()) "LIMIT 1 OFFSET $4"
    ];
    /// The next provider.
    PROVIDER = "drift_resource_provider" => [
        "SELECT provider FROM drift_resource WHERE provider > $1 ORDER BY provider LIMIT 1"
    ];
}

/// Resources in order of their names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResourceList {
    /// As many as were asked for, if there are so many.
    pub rows: Vec<ResourceRow>,
    /// The last name that was looked at, if the list is short only because the filter kept too few: there may be more after it.
    pub looked_at: Option<ResourceName>,
}

/// Which resources to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResourceFilter {
    /// Only those of this provider; empty for all.
    pub provider: String,
    /// Only those of this type; empty for all.
    pub kind: String,
    /// Only those that have all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Only those with one of these verdicts; empty for all.
    pub verdicts: Vec<String>,
}

#[derive(FromRow)]
struct ProviderRow {
    provider: String,
}

#[derive(FromRow)]
struct NameRow {
    provider: String,
    kind: String,
    id: String,
}

impl Store {
    /// Resources after a name, in order of their names, without documents. Looks at a bounded number of names, however few of them the
    /// filter keeps.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn resources(
        &self,
        filter: &ResourceFilter,
        after: Option<&ResourceName>,
        limit: i64,
    ) -> Result<ResourceList, Error> {
        // From where the filter begins: the index leads there.
        let first = ResourceName {
            provider: filter.provider.clone(),
            kind: filter.kind.clone(),
            id: String::new(),
        };
        let mut after = after.cloned().unwrap_or(first);
        let mut list = ResourceList::default();
        let mut looked = 0;
        // A type alone leads nowhere: it is looked for provider by provider.
        let one_by_one = filter.provider.is_empty() && !filter.kind.is_empty();
        if one_by_one && after.provider.is_empty() {
            match self.next_provider(&after.provider, &filter.kind).await? {
                Some(next) => after = next,
                None => return Ok(list),
            }
        }
        loop {
            let missing = limit - count(list.rows.len());
            list.rows.extend(self.some(filter, &after, missing).await?);
            if count(list.rows.len()) >= limit {
                return Ok(list);
            }
            let next = match self.last(filter, &after).await? {
                None if one_by_one => self.next_provider(&after.provider, &filter.kind).await?,
                next => next,
            };
            match next {
                Some(next) => after = next,
                None => return Ok(list),
            }
            looked += LOOK;
            if looked >= LOOKS {
                list.looked_at = Some(after);
                return Ok(list);
            }
        }
    }

    /// Of the names that are looked at next, those resources that the filter keeps.
    async fn some(
        &self,
        filter: &ResourceFilter,
        after: &ResourceName,
        limit: i64,
    ) -> Result<Vec<ResourceRow>, Error> {
        let labels = match &filter.labels {
            labels if labels.is_empty() => None,
            labels => Some(json(labels)?),
        };
        let sql = match (filter.provider.as_str(), filter.kind.as_str()) {
            ("", "") => &LIST,
            (_, "") => &LIST_OF_PROVIDER,
            _ => &LIST_OF_TYPE,
        };
        self.db()
            .read(sql)
            .bind(&after.provider)
            .bind(&after.kind)
            .bind(&after.id)
            .bind(labels)
            .bind(filter.verdicts.join(","))
            .bind(limit)
            .bind(LOOK)
            .all()
            .await
    }

    /// The last of the names that were looked at, if there may be more after it.
    async fn last(
        &self,
        filter: &ResourceFilter,
        after: &ResourceName,
    ) -> Result<Option<ResourceName>, Error> {
        let sql = match (filter.provider.as_str(), filter.kind.as_str()) {
            ("", "") => &LAST,
            (_, "") => &LAST_OF_PROVIDER,
            _ => &LAST_OF_TYPE,
        };
        let last = self.db().read(sql).bind(&after.provider);
        let last = last.bind(&after.kind).bind(&after.id).bind(LOOK - 1);
        let last: Option<NameRow> = last.optional().await?;
        Ok(last.map(|row| ResourceName {
            provider: row.provider,
            kind: row.kind,
            id: row.id,
        }))
    }

    /// The place before the first resource of a type that the next provider may have.
    async fn next_provider(&self, after: &str, kind: &str) -> Result<Option<ResourceName>, Error> {
        let next: Option<ProviderRow> = self.db().read(&PROVIDER).bind(after).optional().await?;
        Ok(next.map(|row| ResourceName {
            provider: row.provider,
            kind: kind.to_owned(),
            id: String::new(),
        }))
    }
}
