//! What must hold when something breaks: a replica that is killed or frozen, a database that is away, restored or reached over
//! a bad network.

mod alone_storm;
mod fleet;
mod frozen;
mod lost_answers;
mod older_copy;
mod outage;
mod polling;
mod pooler;
mod replicas;
mod restore;
mod returning;
mod sqlite_crash;
