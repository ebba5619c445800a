//! Multi-step changes that complete, or are rolled back, or say that a person is needed.
//!
//! The [`machine`] is pure: a saga and an event go in, the next saga and what is to be done come out. It knows no database, no
//! clock and no network, so that every promise about order, proof and operator verbs can be tested by values alone. What
//! carries it out, on a database and with actions, is the [`engine`].

pub mod action;
pub mod check;
pub mod definition;
pub mod engine;
pub mod machine;
pub mod metric;
pub mod secret;
pub mod template;

pub use action::{Act, Actions, Attempt, KnownActions};
pub use check::{Format, Problem, check, parse, parse_steps};
pub use definition::{
    Action, Definition, Http, OnFailure, OnUnknown, Retry, Step, Timeouts, Undo, Wait,
};
pub use engine::{
    DefinitionRef, Engine, Error, Options, SagaEventView, SagaFilter, SagaView, StartSaga,
    StoredDefinition, has_nul,
};
pub use machine::{
    Direction, Effect, Event, Leg, Outcome, Probed, Record, Refusal, Saga, State, Transition, Verb,
};
pub use secret::{NoSecrets, SecretError, SecretPlaces, SecretSource, Secrets};
