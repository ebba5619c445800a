//! Sagas: started, taken in hand, moved on, steered, and pruned.
//!
//! The state machine is not known here: its form is a text, and what a transition means was decided before it arrives. What is
//! kept here is who may write: a transition names the version of the row that it was decided on and the replica that has the
//! saga in hand, and its transaction locks the row that holds that replica's fence.

mod claim;
mod definition;
mod row;
mod start;
mod steer;
mod transition;
mod write;

pub use definition::{SagaDefinitionRow, SagaPlanRow};
pub use row::{SagaEventRow, SagaListFilter, SagaRow};
pub use start::{NewSaga, SagaFirst, StartedSaga};
pub use steer::{SteerWrite, Steered};
pub use transition::{SagaTransition, TransitionOutcome};

pub(crate) use write::SagaWrites;

/// The topic of sagas; the key is the saga's id, the etag its state and how many transitions it has made.
pub const SAGA_TOPIC: &str = "saga";

#[cfg(any(test, feature = "faults"))]
pub(crate) fn statements() -> Vec<&'static crate::engine::Sql> {
    [
        claim::STATEMENTS,
        definition::STATEMENTS,
        row::STATEMENTS,
        start::STATEMENTS,
        steer::STATEMENTS,
        transition::STATEMENTS,
        write::STATEMENTS,
    ]
    .concat()
}
