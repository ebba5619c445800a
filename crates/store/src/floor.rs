//! What a server without Steadfast's ideas would do to the database, for the bench to compare with.
//!
//! Each write is one statement that commits by itself, through the same pools with the same limits as the store's own
//! statements: an insert without any order, an insert with its number from one updated counter row, and on SQLite an insert
//! through the one writer. The rows hold what a row of the change log holds, with fewer indexes, so that a floor is never
//! slower than it has to be. Behind the feature `floors`, and no part of the server.

use std::{fs::File, sync::Arc};

use sqlx::FromRow;
use steadfast_types::{Mark, Timestamp};
use uuid::Uuid;

use crate::{
    Change, Engine, Error, Options,
    cpu_latency::CpuLatency,
    engine::{self, Db, Sql},
    log::encode_changes,
};

/// Tables of its own, which no migration makes: these statements are not among those that a test prepares.
static CREATE: [Sql; 5] = [
    Sql {
        name: "floor_create_inserted",
        postgres: Some(
            "CREATE TABLE floor_inserted (write_id text COLLATE \"C\" PRIMARY KEY, mark bigint NOT NULL, \
             origin text NOT NULL, time_us bigint NOT NULL, changes text NOT NULL)",
        ),
        sqlite: Some(
            "CREATE TABLE floor_inserted (revision INTEGER PRIMARY KEY, write_id TEXT NOT NULL, mark INTEGER NOT NULL, \
             origin TEXT NOT NULL, time_us INTEGER NOT NULL, changes TEXT NOT NULL) STRICT",
        ),
    },
    Sql {
        name: "floor_create_counted",
        postgres: Some(
            "CREATE TABLE floor_counted (revision bigint PRIMARY KEY, write_id text NOT NULL, mark bigint NOT NULL, \
             origin text NOT NULL, time_us bigint NOT NULL, changes text NOT NULL)",
        ),
        sqlite: None,
    },
    Sql {
        name: "floor_create_counter",
        postgres: Some(
            "CREATE TABLE floor_counter AS SELECT 1::smallint AS id, 0::bigint AS revision",
        ),
        sqlite: None,
    },
    Sql {
        name: "floor_create_lease",
        postgres: Some("CREATE TABLE floor_lease AS SELECT 1::smallint AS id, 1::bigint AS fence"),
        sqlite: Some("CREATE TABLE floor_lease AS SELECT 1 AS id, 1 AS fence"),
    },
    Sql {
        name: "floor_create_saga",
        postgres: Some(
            "CREATE TABLE floor_saga (id bigint PRIMARY KEY, step bigint NOT NULL, machine text NOT NULL) \
             WITH (fillfactor = 70)",
        ),
        sqlite: Some(
            "CREATE TABLE floor_saga (id INTEGER PRIMARY KEY, step INTEGER NOT NULL, machine TEXT NOT NULL) STRICT",
        ),
    },
];

/// Sagas that are where they begin.
static BEGIN: Sql = Sql {
    name: "floor_begin",
    postgres: Some("INSERT INTO floor_saga SELECT n, 0, '' FROM generate_series(1, $1) AS n"),
    sqlite: Some(
        "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < $1) \
         INSERT INTO floor_saga SELECT n, 0, '' FROM numbers",
    ),
};

/// Moves sagas, whose numbers are a JSON array, one step on, under the lease's fence: what an engine cannot do with less.
static STEP: Sql = Sql {
    name: "floor_step",
    postgres: Some(
        "WITH held AS MATERIALIZED (SELECT 1 FROM floor_lease WHERE id = 1 AND fence = 1 FOR SHARE) \
         UPDATE floor_saga SET step = step + 1, machine = $2 WHERE EXISTS (SELECT 1 FROM held) \
         AND id = ANY (ARRAY(SELECT e::bigint FROM json_array_elements_text($1::json) AS e))",
    ),
    sqlite: Some(
        "UPDATE floor_saga SET step = step + 1, machine = $2 \
         WHERE EXISTS (SELECT 1 FROM floor_lease WHERE id = 1 AND fence = 1) \
         AND id IN (SELECT value FROM json_each($1))",
    ),
};

/// What the database takes on disk.
static BYTES: Sql = Sql {
    name: "floor_bytes",
    postgres: Some("SELECT pg_database_size(current_database()) AS revision"),
    sqlite: None,
};

/// No order: nothing is shared between two calls but the write-ahead log.
static INSERT: Sql = Sql {
    name: "floor_insert",
    postgres: Some(
        "INSERT INTO floor_inserted (write_id, mark, origin, time_us, changes) \
         VALUES ($1, $2, $3, $4, $5) RETURNING 0::bigint AS revision",
    ),
    sqlite: Some(
        "INSERT INTO floor_inserted (write_id, mark, origin, time_us, changes) \
         VALUES ($1, $2, $3, $4, $5) RETURNING revision",
    ),
};

/// Order by one row that every call updates.
static COUNT: Sql = Sql {
    name: "floor_count",
    postgres: Some(
        "WITH next AS (UPDATE floor_counter SET revision = revision + 1 WHERE id = 1 RETURNING revision) \
         INSERT INTO floor_counted (revision, write_id, mark, origin, time_us, changes) \
         SELECT next.revision, $1, $2, $3, $4, $5 FROM next RETURNING revision",
    ),
    sqlite: None,
};

/// A page of both documents of resources, and nothing else.
static DOCUMENTS: Sql = Sql {
    name: "floor_documents",
    postgres: Some(
        "SELECT r.key, r.spec, l.attributes FROM drift_resource r JOIN LATERAL \
         (SELECT * FROM drift_live l WHERE l.key = r.key LIMIT 1) l ON true WHERE r.key > $1 ORDER BY r.key LIMIT $2",
    ),
    sqlite: Some(
        "SELECT r.key, r.spec, l.attributes FROM drift_resource r JOIN drift_live l ON l.key = r.key \
         WHERE r.key > $1 ORDER BY r.key LIMIT $2",
    ),
};

/// How many rows were written since the statistics began; PostgreSQL only.
static ROWS: Sql = Sql {
    name: "floor_rows",
    postgres: Some(
        "SELECT CAST(sum(n_tup_ins + n_tup_upd + n_tup_del) AS BIGINT) AS revision FROM pg_stat_user_tables",
    ),
    sqlite: None,
};

static VERSION: Sql = Sql {
    name: "floor_version",
    postgres: Some("SELECT current_setting('server_version') AS value"),
    sqlite: Some("SELECT sqlite_version() AS value"),
};

static JOURNAL_MODE: Sql = Sql {
    name: "floor_journal_mode",
    postgres: None,
    sqlite: Some("PRAGMA journal_mode"),
};

static SYNCHRONOUS: Sql = Sql {
    name: "floor_synchronous",
    postgres: None,
    sqlite: Some("PRAGMA synchronous"),
};

/// The settings that decide what a commit costs.
static SETTINGS: Sql = Sql {
    name: "floor_settings",
    postgres: Some(
        "SELECT name, setting || coalesce(unit, '') AS value FROM pg_settings WHERE name IN \
         ('fsync', 'synchronous_commit', 'full_page_writes', 'wal_sync_method', 'wal_level', 'commit_delay', \
          'shared_buffers', 'wal_buffers', 'max_connections', 'default_transaction_isolation') ORDER BY name",
    ),
    sqlite: None,
};

/// How a write is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloorKind {
    /// One unordered insert per call.
    Insert,
    /// One updated counter row and one insert per call; PostgreSQL only.
    Counter,
}

/// A database with the floors' tables.
#[derive(Debug, Clone)]
pub struct Floor {
    db: Db,
    cpu_latency: Arc<CpuLatency>,
    /// Held, not read: it keeps a second program off the same SQLite file.
    _lock: Option<Arc<File>>,
}

#[derive(FromRow)]
struct Revision {
    revision: i64,
}

#[derive(FromRow)]
struct Setting {
    name: String,
    value: String,
}

// === impl Floor ===

impl Floor {
    /// Opens the database as the store does.
    ///
    /// # Errors
    /// As [`crate::Store::open`].
    pub async fn open(options: &Options) -> Result<Self, Error> {
        let (db, lock) = engine::open(options).await?;
        Ok(Self {
            db,
            cpu_latency: CpuLatency::new(options.cpu_latency_qos),
            _lock: lock.map(Arc::new),
        })
    }

    /// Makes the tables, in a database that has none of them.
    ///
    /// # Errors
    /// If they are there, or if the database does not answer.
    pub async fn create(&self) -> Result<(), Error> {
        for sql in &CREATE {
            let exists_here = match self.db.engine() {
                Engine::Postgres => sql.postgres.is_some(),
                Engine::Sqlite => sql.sqlite.is_some(),
            };
            if exists_here {
                self.db.write(sql).execute().await?;
            }
        }
        Ok(())
    }

    /// Commits one call by itself and returns its number, which is 0 where calls have no order, and its mark.
    ///
    /// # Errors
    /// If the database does not answer, or does not know this kind.
    pub async fn write(
        &self,
        kind: FloorKind,
        origin: &str,
        changes: &[Change],
    ) -> Result<(i64, i64), Error> {
        let sql = match kind {
            FloorKind::Insert => &INSERT,
            FloorKind::Counter => &COUNT,
        };
        let mark = Mark::random().to_sql();
        // All rows, although there is one: the driver then waits for the end of the statement, which is its commit.
        let rows: Vec<Revision> = self
            .db
            .write(sql)
            .bind(Uuid::now_v7().to_string())
            .bind(mark)
            .bind(origin)
            .bind(Timestamp::now().0)
            .bind(encode_changes(changes))
            .all()
            .await?;
        let row = rows.first().ok_or(Error::Corrupt("floor_counter"))?;
        Ok((row.revision, mark))
    }

    /// Makes sagas from 1 up to this number, none of which has taken a step.
    ///
    /// # Errors
    /// If they are there, or if the database does not answer.
    pub async fn begin_sagas(&self, count: i64) -> Result<(), Error> {
        self.db.write(&BEGIN).bind(count).execute().await?;
        Ok(())
    }

    /// Moves these sagas one step on, in one fenced commit.
    ///
    /// # Errors
    /// If the database does not answer, or not all of them are there.
    pub async fn step_sagas(&self, ids: &[i64], machine: &str) -> Result<(), Error> {
        let json = serde_json::to_string(ids).map_err(|_| Error::Corrupt("floor_saga"))?;
        let moved = self
            .db
            .write(&STEP)
            .bind(json)
            .bind(machine)
            .execute()
            .await?;
        if moved != ids.len() as u64 {
            return Err(Error::Corrupt("floor_saga"));
        }
        Ok(())
    }

    /// Moves the first one step on, for a caller that does so again and again: processors are kept from sleeping as the store keeps
    /// them, so that what is left between the two is the engine.
    ///
    /// # Errors
    /// As [`Floor::step_sagas`].
    pub async fn step_alone(&self, machine: &str) -> Result<(), Error> {
        self.cpu_latency.came_alone();
        self.step_sagas(&[1], machine).await
    }

    /// Reads both documents of all resources of a server's own database, in pages of this many, and returns how many resources
    /// there are.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn read_documents(&self, page: i64) -> Result<usize, Error> {
        let (mut after, mut count) = (0, 0);
        loop {
            let read = self.db.read(&DOCUMENTS).bind(after).bind(page);
            let rows: Vec<(i64, String, String)> = read.all().await?;
            let Some(last) = rows.last() else {
                return Ok(count);
            };
            after = last.0;
            count += rows.len();
        }
    }

    /// How many rows were written so far, as the database counts them: it does so a second or more later. PostgreSQL only.
    ///
    /// # Errors
    /// If the database does not answer, or is SQLite.
    pub async fn rows_written(&self) -> Result<i64, Error> {
        let row: Revision = self.db.read(&ROWS).one().await?;
        Ok(row.revision)
    }

    /// What the database takes on disk; PostgreSQL only.
    ///
    /// # Errors
    /// If the database does not answer, or is SQLite.
    pub async fn bytes(&self) -> Result<i64, Error> {
        let row: Revision = self.db.read(&BYTES).one().await?;
        Ok(row.revision)
    }

    /// The database's version, and the settings that decide what a commit costs.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn facts(&self) -> Result<Vec<(String, String)>, Error> {
        let (version,): (String,) = self.db.write(&VERSION).one().await?;
        let mut facts = vec![("version".to_owned(), version)];
        match self.db.engine() {
            Engine::Postgres => {
                let settings: Vec<Setting> = self.db.read(&SETTINGS).all().await?;
                facts.extend(settings.into_iter().map(|row| (row.name, row.value)));
            }
            Engine::Sqlite => {
                let (mode,): (String,) = self.db.write(&JOURNAL_MODE).one().await?;
                facts.push(("journal_mode".to_owned(), mode));
                let (level,): (i64,) = self.db.write(&SYNCHRONOUS).one().await?;
                let level = match level {
                    0 => "OFF",
                    1 => "NORMAL",
                    2 => "FULL",
                    _ => "EXTRA",
                };
                facts.push(("synchronous".to_owned(), level.to_owned()));
            }
        }
        Ok(facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Op, test_stores::both};

    #[tokio::test]
    async fn every_kind_commits_one_row_per_call() {
        for fixture in both().await {
            let floor = Floor {
                cpu_latency: CpuLatency::new(false),
                db: fixture.store.db().clone(),
                _lock: None,
            };
            floor.create().await.unwrap();
            let changes = [Change::new("app/floor", "key", Op::Upsert, "")];
            let engine = fixture.store.engine();
            let expected = match engine {
                Engine::Sqlite => [1, 2],
                Engine::Postgres => [0, 0],
            };
            for expected in expected {
                let (number, _) = floor
                    .write(FloorKind::Insert, "me", &changes)
                    .await
                    .unwrap();
                assert_eq!(number, expected, "{engine}");
            }
            let counted = floor.write(FloorKind::Counter, "me", &changes).await;
            match engine {
                Engine::Postgres => assert_eq!(counted.unwrap().0, 1),
                Engine::Sqlite => assert!(counted.is_err()),
            }
            floor.begin_sagas(3).await.unwrap();
            floor.step_sagas(&[1, 3], "{}").await.unwrap();
            assert!(
                floor.step_sagas(&[3, 4], "{}").await.is_err(),
                "4 is not there"
            );
            assert_eq!(floor.bytes().await.is_ok(), engine == Engine::Postgres);
            let facts = floor.facts().await.unwrap();
            let names: Vec<_> = facts.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names.first(), Some(&"version"));
            let durability = match engine {
                Engine::Postgres => "synchronous_commit",
                Engine::Sqlite => "synchronous",
            };
            assert!(names.contains(&durability), "{names:?}");
        }
    }
}
