//! Accepting: what is there becomes what was asked for, if it is what somebody saw.
//!
//! A drift says what was there when it was found. Whether that is so still is asked of the last look at the resource, which has to
//! be one that a sweep would compare: from after the apply, and not while something is changing it.

use steadfast_store::AcceptScene;

use crate::{AdoptError, Rules, adopt, written};

/// Why a drift is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AcceptRefusal {
    /// It is closed.
    #[error("the drift is not open any more")]
    Closed,
    /// It is not as it was seen.
    #[error("the drift has changed since it was read")]
    DriftChanged,
    /// The spec is another one than the one that it was found against.
    #[error("the spec has changed since the drift was found")]
    SpecChanged,
    /// Something else is there than what it says.
    #[error("what is there has changed since the drift was found")]
    ActualChanged,
    /// Nobody has seen what the last apply did.
    #[error("the spec was applied again since the drift was found: wait for the next observation")]
    AppliedSince,
    /// The last look brought the value, and cannot be relied on.
    #[error("the last look at the resource failed or is under way: wait for the next observation")]
    Unreadable,
    /// A saga holds the resource, or the provider is changing it.
    #[error("the resource is being changed: wait until that has ended")]
    Busy,
    /// Only hashes of the values are known.
    #[error("only a hash of the value is known: record the spec with the value instead")]
    Secret,
}

/// What the spec becomes if a drift of this etag is accepted; `None` forgets it.
///
/// # Errors
/// If it is not what was seen any more, or cannot be taken over.
pub fn accept(
    scene: &AcceptScene,
    etag: &str,
    rules: &Rules,
) -> Result<Option<String>, AcceptRefusal> {
    let (drift, resource) = (&scene.drift, &scene.resource);
    if drift.state != "open" {
        return Err(AcceptRefusal::Closed);
    }
    if drift.etag() != etag {
        return Err(AcceptRefusal::DriftChanged);
    }
    if drift.spec_version != resource.spec_version {
        return Err(AcceptRefusal::SpecChanged);
    }
    let rules = rules.of(&resource.provider, &resource.kind);
    match drift.kind.as_str() {
        "gone" => {
            if !resource.recorded {
                return Err(AcceptRefusal::SpecChanged);
            }
            check_look(scene)?;
            if resource.misses < 2 {
                return Err(AcceptRefusal::ActualChanged);
            }
            Ok(None)
        }
        "unmanaged" => {
            if resource.recorded {
                return Err(AcceptRefusal::SpecChanged);
            }
            check_look(scene)?;
            let there = Some(resource.attributes.as_str()).filter(|_| resource.misses < 2);
            match (there, &drift.actual) {
                (Some(there), Some(seen)) if rules.same("", there, seen) => written(seen)
                    .map(Some)
                    .map_err(|_| AcceptRefusal::ActualChanged),
                _ => Err(AcceptRefusal::ActualChanged),
            }
        }
        _ => {
            if drift.secret || rules.is_secret(&drift.path) {
                return Err(AcceptRefusal::Secret);
            }
            if !resource.recorded {
                return Err(AcceptRefusal::SpecChanged);
            }
            check_look(scene)?;
            if resource.misses >= 2 || !is_there(scene, rules) {
                return Err(AcceptRefusal::ActualChanged);
            }
            let actual = drift.actual.as_deref();
            let adopted = adopt(&resource.spec, &drift.path, actual);
            // As whoever records the same writes it: that is no other spec then.
            adopted
                .and_then(|spec| Ok(written(&spec)?))
                .map(Some)
                .map_err(|error| match error {
                    AdoptError::Document(_) | AdoptError::NoSuchPath => AcceptRefusal::SpecChanged,
                })
        }
    }
}

/// Whether the last look at the resource counts for the spec as it is applied, and nothing is changing either.
fn check_look(scene: &AcceptScene) -> Result<(), AcceptRefusal> {
    let resource = &scene.resource;
    if scene.held {
        return Err(AcceptRefusal::Busy);
    }
    let applied = match resource.applied_us {
        Some(applied) => applied,
        None if resource.recorded => return Err(AcceptRefusal::AppliedSince),
        None => i64::MIN,
    };
    if resource.observed_us <= applied {
        return Err(AcceptRefusal::AppliedSince);
    }
    if matches!(resource.inventory_state.as_str(), "running" | "failed") {
        return Err(AcceptRefusal::Unreadable);
    }
    if !resource.transition.is_empty() {
        return Err(AcceptRefusal::Busy);
    }
    Ok(())
}

/// Whether what is there at the drift's path is what it says: it is found by comparing once more.
fn is_there(scene: &AcceptScene, rules: &crate::TypeRules) -> bool {
    let (drift, resource) = (&scene.drift, &scene.resource);
    let Ok(comparison) = rules.compare(&resource.spec, &resource.attributes) else {
        return false;
    };
    let now = comparison
        .divergences
        .iter()
        .find(|one| one.path == drift.path);
    now.is_some_and(|now| match (&now.actual, &drift.actual) {
        (Some(now), Some(seen)) => rules.same(&drift.path, now, seen),
        (None, None) => true,
        _ => false,
    })
}
