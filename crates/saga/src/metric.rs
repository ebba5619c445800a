//! Names of what this crate measures.

/// Sagas that this replica has in hand.
pub const IN_HAND: &str = "steadfast_sagas_in_hand";
/// Sagas that have not ended, by `state`.
pub const SAGAS: &str = "steadfast_sagas";
/// Sagas that ended, by `state`.
pub const ENDED: &str = "steadfast_sagas_ended_total";
/// Sagas that came to need a person.
pub const STUCK_TOTAL: &str = "steadfast_sagas_stuck_total";
/// Attempts by `outcome`.
pub const ATTEMPTS: &str = "steadfast_saga_attempts_total";
/// Seconds per attempt.
pub const ATTEMPT_SECONDS: &str = "steadfast_saga_attempt_seconds";
/// Sagas taken over from replicas that were lost.
pub const TAKEN_OVER: &str = "steadfast_sagas_taken_over_total";
/// Times that a saga was left to another replica, because this one does not have its next action.
pub const PASSED_ON: &str = "steadfast_sagas_passed_on_total";
