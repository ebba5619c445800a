//! Faults that tests plan: each statement's name is its fault point.
//!
//! Every statement passes one door, and so does every commit. With the feature `faults` a plan is asked there what happens: the
//! answer is lost before or after the statement's transaction is durable, or the process stops at that very place, which for a
//! test means that it is killed there. Without the feature there is no plan, and a [`Faults`] is empty.

use crate::Error;

/// A place where something can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point<'a> {
    /// A statement is about to be sent.
    Sending(&'static str),
    /// A transaction of these statements is about to be committed.
    Committing(&'a [&'static str]),
    /// It is durable, and its caller does not know yet.
    Committed(&'a [&'static str]),
}

/// What happens at a place.
#[cfg(feature = "faults")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The connection is lost.
    Lost,
    /// The process goes no further here.
    Stop,
}

#[cfg(feature = "faults")]
type Plan = std::sync::Arc<dyn Fn(Point<'_>) -> Fault + Send + Sync>;

/// Which faults a store meets; none by default.
#[derive(Clone, Default)]
pub struct Faults {
    #[cfg(feature = "faults")]
    plan: Option<Plan>,
}

/// The statements of one transaction, and the faults that it meets.
#[derive(Default)]
pub(crate) struct Passage {
    faults: Faults,
    #[cfg(feature = "faults")]
    names: Vec<&'static str>,
}

// === impl Faults ===

#[cfg(feature = "faults")]
impl Faults {
    /// Asks `plan` at every place, in the order in which they are passed.
    pub fn planned(plan: impl Fn(Point<'_>) -> Fault + Send + Sync + 'static) -> Self {
        Self {
            plan: Some(std::sync::Arc::new(plan)),
        }
    }

    /// Goes past a place, or does not.
    pub(crate) async fn pass(&self, point: Point<'_>) -> Result<(), Error> {
        let fault = self.plan.as_ref().map_or(Fault::None, |plan| plan(point));
        match fault {
            Fault::None => Ok(()),
            Fault::Lost => {
                let lost = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
                let name = match point {
                    Point::Sending(name) => name,
                    Point::Committing(names) | Point::Committed(names) => {
                        names.last().copied().unwrap_or_default()
                    }
                };
                Err(Error::before_commit(lost).during(name))
            }
            Fault::Stop => std::future::pending().await,
        }
    }
}

#[cfg(not(feature = "faults"))]
impl Faults {
    #[expect(clippy::unused_async, reason = "with a plan it may stop here")]
    #[inline]
    pub(crate) async fn pass(&self, _: Point<'_>) -> Result<(), Error> {
        Ok(())
    }
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faults").finish_non_exhaustive()
    }
}

// === impl Passage ===

impl Passage {
    pub(crate) fn new(faults: &Faults) -> Self {
        Self {
            faults: faults.clone(),
            #[cfg(feature = "faults")]
            names: Vec::new(),
        }
    }

    /// The faults, for a statement of this transaction.
    pub(crate) fn statement(&mut self, _name: &'static str) -> Faults {
        #[cfg(feature = "faults")]
        self.names.push(_name);
        self.faults.clone()
    }

    pub(crate) async fn committing(&self) -> Result<(), Error> {
        self.faults.pass(Point::Committing(self.names())).await
    }

    pub(crate) async fn committed(&self) -> Result<(), Error> {
        self.faults.pass(Point::Committed(self.names())).await
    }

    #[cfg(feature = "faults")]
    fn names(&self) -> &[&'static str] {
        &self.names
    }

    #[cfg(not(feature = "faults"))]
    fn names(&self) -> &[&'static str] {
        &[]
    }
}

/// The names of all statements that an engine runs: all fault points that it has.
#[cfg(feature = "faults")]
#[must_use]
pub fn points(engine: crate::Engine) -> Vec<&'static str> {
    crate::all_statements()
        .into_iter()
        .filter(|sql| match engine {
            crate::Engine::Postgres => sql.postgres.is_some(),
            crate::Engine::Sqlite => sql.sqlite.is_some(),
        })
        .map(|sql| sql.name)
        .collect()
}
