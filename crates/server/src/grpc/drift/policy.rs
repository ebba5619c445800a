//! PolicyService.

use steadfast_api::drift::v1::{self as api, policy_service_server::PolicyService};
use steadfast_drift::Policy;
use steadfast_store::{PolicyWrite, PolicyWritten};
use tonic::{Code, Request, Response, Status};

use super::{DriftEdge, message, not_found, refused, request};
use crate::grpc::{
    field,
    status::{self, Problem},
};

/// Policies at most: each sweep reads all of them.
const MAX_POLICIES: i64 = 1_000;

fn write(policy: &Policy, actor: String) -> PolicyWrite {
    PolicyWrite {
        name: policy.name.clone(),
        expire_us: policy.expires.map(|expires| expires.0),
        provider: policy.provider.clone(),
        actor,
        document: serde_json::to_string(policy).unwrap_or_default(),
    }
}

/// A policy as it is to be, with its etag.
fn read(policy: Option<api::Policy>, actor: &str) -> Result<(Policy, String), Problem> {
    field::check_text("actor", actor)?;
    let policy = policy.ok_or_else(|| status::invalid("policy", "say what it is to be"))?;
    let etag = policy.etag.clone();
    Ok((request::policy(policy)?, etag))
}

fn required(field: &str, etag: &str) -> Result<(), Problem> {
    if etag.is_empty() {
        let message = "name the etag of the policy as it was read; GetPolicy tells it";
        return Err(status::invalid(field, message));
    }
    field::check_text(field, etag)
}

/// What became of a write, and what the caller is told.
fn written(written: PolicyWritten, name: &str) -> Result<api::Policy, Problem> {
    match written {
        PolicyWritten::Done(row) => Ok(message::policy(&row)),
        PolicyWritten::Exists => Err(Problem::new(
            Code::AlreadyExists,
            "POLICY_EXISTS",
            format!("there is a policy `{name}` already: update it, or choose another name"),
        )
        .with("name", name)),
        PolicyWritten::TooMany => Err(Problem::new(
            Code::FailedPrecondition,
            "TOO_MANY_POLICIES",
            format!("there are {MAX_POLICIES} policies: delete one that has expired"),
        )
        .with("limit", MAX_POLICIES)),
        PolicyWritten::Unknown => Err(policy_not_found(name)),
        PolicyWritten::Changed => Err(Problem::new(
            Code::Aborted,
            "POLICY_CHANGED",
            format!("policy `{name}` has changed since it was read: read it again"),
        )
        .with("name", name)),
    }
}

fn policy_not_found(name: &str) -> Problem {
    not_found("POLICY_NOT_FOUND", "policy", name)
}

#[tonic::async_trait]
impl PolicyService for DriftEdge {
    async fn create_policy(
        &self,
        request: Request<api::CreatePolicyRequest>,
    ) -> Result<Response<api::CreatePolicyResponse>, Status> {
        let request = request.into_inner();
        let (policy, _) = read(request.policy, &request.actor)?;
        let new = write(&policy, request.actor);
        let created = self.store.create_drift_policy(&new, MAX_POLICIES).await;
        let policy = written(created.map_err(refused)?, &policy.name)?;
        self.wakeups.kick();
        Ok(Response::new(api::CreatePolicyResponse {
            policy: Some(policy),
        }))
    }

    async fn get_policy(
        &self,
        request: Request<api::GetPolicyRequest>,
    ) -> Result<Response<api::GetPolicyResponse>, Status> {
        let name = request.into_inner().name;
        field::check_text("name", &name)?;
        let row = self.store.drift_policy(&name).await.map_err(refused)?;
        let row = row.ok_or_else(|| policy_not_found(&name))?;
        Ok(Response::new(api::GetPolicyResponse {
            policy: Some(message::policy(&row)),
        }))
    }

    async fn list_policies(
        &self,
        request: Request<api::ListPoliciesRequest>,
    ) -> Result<Response<api::ListPoliciesResponse>, Status> {
        let request = request.into_inner();
        let limit = field::page_size(request.page_size, 1_000)?;
        field::check_optional_text("provider", &request.provider)?;
        let bound = [request.provider.as_str()];
        let after = field::page_token(&request.page_token, &bound)?;
        let after = after.map_or_else(String::new, |token| token.after);
        let found = self
            .store
            .drift_policies(&request.provider, &after, i64::from(limit) + 1)
            .await
            .map_err(refused)?;
        let (policies, next_page_token) =
            field::page_of(&found, limit, &bound, message::policy, |row| {
                row.name.clone()
            });
        Ok(Response::new(api::ListPoliciesResponse {
            policies,
            next_page_token,
        }))
    }

    async fn update_policy(
        &self,
        request: Request<api::UpdatePolicyRequest>,
    ) -> Result<Response<api::UpdatePolicyResponse>, Status> {
        let request = request.into_inner();
        let (policy, etag) = read(request.policy, &request.actor)?;
        required("policy.etag", &etag)?;
        let new = write(&policy, request.actor);
        let updated = self.store.update_drift_policy(&new, &etag).await;
        let policy = written(updated.map_err(refused)?, &policy.name)?;
        self.wakeups.kick();
        Ok(Response::new(api::UpdatePolicyResponse {
            policy: Some(policy),
        }))
    }

    async fn delete_policy(
        &self,
        request: Request<api::DeletePolicyRequest>,
    ) -> Result<Response<api::DeletePolicyResponse>, Status> {
        let request = request.into_inner();
        field::check_text("name", &request.name)?;
        field::check_text("actor", &request.actor)?;
        required("etag", &request.etag)?;
        let deleted = self
            .store
            .delete_drift_policy(&request.name, &request.etag)
            .await
            .map_err(refused)?;
        written(deleted, &request.name)?;
        self.wakeups.kick();
        Ok(Response::new(api::DeletePolicyResponse {}))
    }
}
