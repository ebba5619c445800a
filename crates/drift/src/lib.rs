//! What was asked for against what is there.
//!
//! The decisions are pure, and each is a module of its own: [`compare`] says where two documents differ, by the rules that
//! [`comparator`] declares; [`verdict`] says whether a resource may be compared at all, and what it is to be called; [`policy`]
//! says what is to be done about a difference, and when it is hidden; [`flap`] says which differences come and go. They take
//! values and return values, and know neither the database nor the clock. [`sweep`] is what carries them out.

pub mod accept;
mod canonical;
pub mod comparator;
pub mod compare;
#[cfg(test)]
mod compare_tests;
pub mod document;
pub mod flap;
mod hide;
pub mod intake;
mod keep;
pub mod pointer;
pub mod policy;
#[cfg(test)]
mod policy_tests;
mod rewrite;
mod secret;
pub mod sweep;
#[cfg(test)]
mod tests;
pub mod verdict;

pub use accept::{AcceptRefusal, accept};
pub use comparator::{Comparator, Declaration, DeclarationProblem, Rules, TypeRules};
pub use compare::{Comparison, Divergence, DivergenceKind};
pub use document::DocumentError;
pub use keep::{AdoptError, adopt, written};
pub use policy::{
    Decision, DriftKind, Handling, Hidden, HiddenBy, InForce, Policies, Policy, PolicyProblem,
    Severity, Subject, Window,
};
pub use secret::{HashKey, MIN_KEY_BYTES};
pub use sweep::{SweepOptions, SweepTally, Sweeper};
pub use verdict::{Facts, Look, Presence, Readiness, Verdict};
