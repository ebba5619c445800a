//! Statement texts: one per statement, with named fragments where the engines' grammars differ.

/// A named statement in the grammar of both engines. The name is its metric label and its span.
#[derive(Debug)]
pub(crate) struct Sql {
    /// Lower snake case, unique in the crate.
    pub(crate) name: &'static str,
    /// For PostgreSQL; `None` if the statement exists on SQLite only.
    pub(crate) postgres: Option<&'static str>,
    /// For SQLite; `None` if the statement exists on PostgreSQL only.
    pub(crate) sqlite: Option<&'static str>,
}

/// A fragment in PostgreSQL's grammar.
macro_rules! postgres_fragment {
    (now) => {
        "steadfast_now_us()"
    };
    (for_update) => {
        " FOR UPDATE"
    };
    (for_share) => {
        " FOR SHARE"
    };
    (($($text:tt)*)) => {
        $($text)*
    };
    ($text:literal) => {
        $text
    };
}

/// A fragment in SQLite's grammar. Locks are absent: the one writer is the lock.
macro_rules! sqlite_fragment {
    (now) => {
        "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"
    };
    (for_update) => {
        ""
    };
    (for_share) => {
        ""
    };
    (($($text:tt)*)) => {
        $($text)*
    };
    ($text:literal) => {
        $text
    };
}

/// Defines named statements and `STATEMENTS`, the list of them, so that one test can prepare every statement of the crate on
/// both engines.
///
/// `NAME = "name" => ["text" now "more text"];` is for both engines, with the fragments `now` (microseconds since the epoch, by the
/// database's clock), `for_update` and `for_share`, and macros that make a text, in parentheses. `NAME = "name" => [postgres { … } sqlite { … }];` is for statements that
/// really differ; either part may be left out.
macro_rules! statements {
    (@one $name:literal postgres { $($p:tt)* } sqlite { $($s:tt)* }) => {
        $crate::engine::Sql {
            name: $name,
            postgres: Some(concat!($($crate::engine::sql::postgres_fragment!($p)),*)),
            sqlite: Some(concat!($($crate::engine::sql::sqlite_fragment!($s)),*)),
        }
    };
    (@one $name:literal postgres { $($p:tt)* }) => {
        $crate::engine::Sql {
            name: $name,
            postgres: Some(concat!($($crate::engine::sql::postgres_fragment!($p)),*)),
            sqlite: None,
        }
    };
    (@one $name:literal sqlite { $($s:tt)* }) => {
        $crate::engine::Sql {
            name: $name,
            postgres: None,
            sqlite: Some(concat!($($crate::engine::sql::sqlite_fragment!($s)),*)),
        }
    };
    (@one $name:literal $($part:tt)*) => {
        $crate::engine::Sql {
            name: $name,
            postgres: Some(concat!($($crate::engine::sql::postgres_fragment!($part)),*)),
            sqlite: Some(concat!($($crate::engine::sql::sqlite_fragment!($part)),*)),
        }
    };
    ($($(#[$doc:meta])* $const:ident = $name:literal => [ $($part:tt)+ ];)+) => {
        $(
            $(#[$doc])*
            static $const: $crate::engine::Sql = $crate::engine::sql::statements!(@one $name $($part)+);
        )+
        /// Every statement of this file, for the test that prepares them all and for tests that let each of them fail.
        #[cfg(any(test, feature = "faults"))]
        pub(crate) static STATEMENTS: &[&$crate::engine::Sql] = &[$(&$const),+];
    };
}

pub(crate) use {postgres_fragment, sqlite_fragment, statements};

// === impl Sql ===

impl Sql {
    /// The text for PostgreSQL. The caller matched on the engine, so a missing text is a defect of this crate that the test
    /// which prepares every statement finds.
    pub(crate) fn for_postgres(&self) -> &'static str {
        self.postgres
            .unwrap_or("SELECT statement_is_for_sqlite_only")
    }

    /// The text for SQLite; see [`Sql::for_postgres`].
    pub(crate) fn for_sqlite(&self) -> &'static str {
        self.sqlite
            .unwrap_or("SELECT statement_is_for_postgres_only")
    }
}
