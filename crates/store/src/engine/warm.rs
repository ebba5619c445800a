//! Connections of the pool that were used last, and are used next.
//!
//! The pool hands out the connection that has been idle for longest, and asks each that comes back whether it is alive. A few
//! writers then wake a different process of the server each time, with cold caches, and pay a second round trip. So the last few
//! that came back stay here, the newest on top; all others, and those that have been here for a while, go back to the pool, which
//! knows how old a connection may become. None stays here while somebody may be waiting for the pool.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{Connection as _, PgConnection, PgPool, Postgres, pool::PoolConnection};

use super::{Listening, answer, session::Session};

/// As many as are busy at once in a server that is not under load.
const WARM: usize = 4;

/// How long a connection stays away from the pool.
const AWAY: Duration = Duration::from_secs(60);

/// A PostgreSQL connection that was idle for longer is tested before it is used: the server may have been restarted meanwhile.
/// Busy ones are not, as that would be one more round trip per statement.
pub(super) const SUSPICIOUS: Duration = Duration::from_secs(1);

/// A pool, and those of its connections that are warm.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    pool: PgPool,
    session: Arc<Session>,
    listening: Arc<Listening>,
    shelf: Arc<Shelf>,
}

/// The last connections that came back; nothing once the pool is closed.
#[derive(Debug)]
struct Shelf(Mutex<Option<Vec<Warm>>>);

#[derive(Debug)]
struct Warm {
    connection: PoolConnection<Postgres>,
    /// When it left the pool.
    left: Instant,
    /// When it came back.
    idle_since: Instant,
}

/// A connection that is kept only after its statement, or its transaction, was answered. One that is waited for no longer, or in
/// vain, is closed: the pool would wait for its answer, and for a host that vanished it would do so for a quarter of an hour.
pub(crate) struct Borrowed {
    /// Taken when it is given back.
    connection: Option<PoolConnection<Postgres>>,
    left: Instant,
    home: Connections,
}

// === impl Connections ===

impl Connections {
    pub(super) fn new(pool: PgPool, session: Session, listening: Listening) -> Self {
        Self {
            pool,
            session: Arc::new(session),
            listening: Arc::new(listening),
            shelf: Arc::new(Shelf(Mutex::new(Some(Vec::with_capacity(WARM))))),
        }
    }

    /// The pool itself.
    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Whether sessions are shared with strangers.
    pub(crate) fn is_pooled(&self) -> bool {
        self.session.is_pooled()
    }

    /// What a connection is opened with that listens.
    pub(crate) fn listening(&self) -> &Listening {
        &self.listening
    }

    /// How many are here rather than in the pool.
    #[cfg(test)]
    pub(crate) fn warm(&self) -> usize {
        self.shelf.lock(|kept| kept.as_ref().map_or(0, Vec::len))
    }

    /// A connection that was alive a moment ago. One whose server is silent for so long is given up.
    pub(super) async fn acquire(&self, silence: Duration) -> Result<Borrowed, sqlx::Error> {
        while let Some(warm) = self.shelf.lock(|kept| kept.as_mut().and_then(Vec::pop)) {
            let mut borrowed = self.lend(warm.connection, warm.left);
            if warm.idle_since.elapsed() < SUSPICIOUS
                || answer(silence, borrowed.ping()).await.is_ok()
            {
                return Ok(borrowed);
            }
        }
        // Boxed, as it is rare and large: every statement would carry it along, and is handed on several times before it is sent.
        let acquired = Box::pin(self.pool.acquire()).await?;
        Ok(self.lend(acquired, Instant::now()))
    }

    pub(super) async fn close(&self) {
        // Dropped, they return to the pool, which waits for them.
        drop(self.shelf.lock(Option::take));
        self.pool.close().await;
    }

    fn lend(&self, connection: PoolConnection<Postgres>, left: Instant) -> Borrowed {
        Borrowed {
            connection: Some(connection),
            left,
            home: self.clone(),
        }
    }

    /// Keeps a connection, if there is room and nobody can be waiting for it elsewhere.
    fn keep(&self, connection: PoolConnection<Postgres>, left: Instant) {
        let pool = &self.pool;
        let to_spare = pool.num_idle() > 0 || pool.size() < pool.options().get_max_connections();
        let mut connection = Some(connection);
        if to_spare && left.elapsed() < AWAY {
            self.shelf.lock(|kept| {
                if let Some(kept) = kept.as_mut().filter(|kept| kept.len() < WARM) {
                    kept.extend(connection.take().map(|connection| Warm {
                        connection,
                        left,
                        idle_since: Instant::now(),
                    }));
                }
            });
        }
        drop(connection);
    }
}

// === impl Shelf ===

impl Shelf {
    fn lock<T>(&self, with: impl FnOnce(&mut Option<Vec<Warm>>) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        // Whoever drops a store may be outside of any runtime, and the pool would spawn a task to take these back.
        for warm in self.lock(Option::take).unwrap_or_default() {
            drop(warm.connection.detach());
        }
    }
}

// === impl Borrowed ===

impl Borrowed {
    /// What it is set to.
    pub(super) fn session(&self) -> &Session {
        &self.home.session
    }

    /// Says that nothing is under way on it.
    pub(super) fn give_back(mut self) {
        if let Some(connection) = self.connection.take() {
            self.home.keep(connection, self.left);
        }
    }
}

impl Deref for Borrowed {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match &self.connection {
            Some(connection) => connection,
            None => unreachable!("it is taken only by value"),
        }
    }
}

impl DerefMut for Borrowed {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match &mut self.connection {
            Some(connection) => connection,
            None => unreachable!("it is taken only by value"),
        }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            connection.close_on_drop();
        }
    }
}
