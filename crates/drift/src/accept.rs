//! Accepting: what is there becomes what was asked for, if it is what somebody saw.

use steadfast_store::AcceptScene;

use crate::{AdoptError, Rules, adopt};

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
            if resource.misses < 2 {
                return Err(AcceptRefusal::ActualChanged);
            }
            Ok(None)
        }
        "unmanaged" => {
            if resource.recorded {
                return Err(AcceptRefusal::SpecChanged);
            }
            let there = Some(resource.attributes.as_str()).filter(|_| resource.misses < 2);
            match (there, &drift.actual) {
                (Some(there), Some(seen)) if rules.same("", there, seen) => Ok(Some(seen.clone())),
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
            if resource.misses >= 2 || !is_there(scene, rules) {
                return Err(AcceptRefusal::ActualChanged);
            }
            let actual = drift.actual.as_deref();
            adopt(&resource.spec, &drift.path, actual)
                .map(Some)
                .map_err(|error| match error {
                    AdoptError::Document(_) | AdoptError::NoSuchPath => AcceptRefusal::SpecChanged,
                })
        }
    }
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
