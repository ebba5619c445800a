//! One HTTP/2 connection, shared by all clients made from it.

use std::{fmt, future::Future, time::Duration};

use http::{Uri, uri::Scheme};
use steadfast_api::{
    admin::v1::{
        schedule_service_client::ScheduleServiceClient, server_service_client::ServerServiceClient,
    },
    drift::v1::{
        drift_service_client::DriftServiceClient, policy_service_client::PolicyServiceClient,
        resource_service_client::ResourceServiceClient,
    },
    registry::v1::{
        bundle_service_client::BundleServiceClient, icon_service_client::IconServiceClient,
        refresh_service_client::RefreshServiceClient,
        registry_service_client::RegistryServiceClient,
    },
    saga::v1::saga_service_client::SagaServiceClient,
    schema::v1::schema_service_client::SchemaServiceClient,
    watch::v1::{node_service_client::NodeServiceClient, watch_service_client::WatchServiceClient},
};
use tonic::{
    Code, Request, Response, Status,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use crate::Error;

/// How often a quiet connection is probed. A server that vanished without a word is noticed after this and the next.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// How long an answer to the probe may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer that is taken: above what a server sends with its default limits, and no more than a client can hold.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// What unary calls travel on.
pub type Unary = InterceptedService<Channel, Deadline>;

/// A connection to one server. Clones share it; after a loss it is made anew by the next call.
#[derive(Clone)]
pub struct Connection {
    endpoint: String,
    channel: Channel,
    deadline: Deadline,
}

/// Tells the server how long the caller is going to wait, so that it does not work for nobody.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(pub Duration);

/// Connects to a server, for example `http://127.0.0.1:7400`; without a scheme, `http` is meant. `timeout` bounds the
/// connecting, and then each unary call.
///
/// # Errors
/// `INVALID_ENDPOINT` if it is no address; `CONNECTION_FAILED` or `DEADLINE_EXCEEDED` if nobody answers there.
pub async fn connect(endpoint: &str, timeout: Duration) -> Result<Connection, Error> {
    let uri = parse_endpoint(endpoint)?;
    let connecting = Endpoint::from(uri.clone())
        .user_agent(concat!("steadfast-client/", env!("CARGO_PKG_VERSION")))
        .map_err(|error| Error::connection_failed(&error))?
        .connect_timeout(timeout)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    let channel = tokio::time::timeout(timeout, connecting.connect())
        .await
        .map_err(|_| Error::deadline_exceeded(timeout))?
        .map_err(|error| Error::connection_failed(&error))
        .map_err(|error| Error {
            message: format!("{endpoint}: {}", error.message),
            ..error
        })?;
    Ok(Connection {
        endpoint: endpoint.to_owned(),
        channel,
        deadline: Deadline(timeout),
    })
}

// === impl Deadline ===

impl Interceptor for Deadline {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.set_timeout(self.0);
        Ok(request)
    }
}

// === impl Connection ===

impl Connection {
    /// The address, as it was given.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The same connection, with another bound on each unary call: for calls that wait.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            deadline: Deadline(timeout),
            ..self.clone()
        }
    }

    /// Packages.
    #[must_use]
    pub fn registry(&self) -> RegistryServiceClient<Unary> {
        RegistryServiceClient::new(self.unary()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Refreshes; for `WatchRefresh` use [`RefreshWatch`](crate::RefreshWatch), whose streams have no deadline.
    #[must_use]
    pub fn refreshes(&self) -> RefreshServiceClient<Unary> {
        RefreshServiceClient::new(self.unary()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Icons.
    #[must_use]
    pub fn icons(&self) -> IconServiceClient<Unary> {
        IconServiceClient::new(self.unary()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Schemas and validation.
    #[must_use]
    pub fn schemas(&self) -> SchemaServiceClient<Unary> {
        SchemaServiceClient::new(self.unary()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// `Publish` and `GetHead`; for `Watch` use [`WatchStream`](crate::WatchStream), whose streams have no deadline.
    #[must_use]
    pub fn watches(&self) -> WatchServiceClient<Unary> {
        WatchServiceClient::new(self.unary()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Who watches, and what each has applied.
    #[must_use]
    pub fn nodes(&self) -> NodeServiceClient<Unary> {
        NodeServiceClient::new(self.unary()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Schedules.
    #[must_use]
    pub fn schedules(&self) -> ScheduleServiceClient<Unary> {
        ScheduleServiceClient::new(self.unary()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// About the server.
    #[must_use]
    pub fn server(&self) -> ServerServiceClient<Unary> {
        ServerServiceClient::new(self.unary()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Sagas and their definitions; for `WatchSaga` use [`SagaWatch`](crate::SagaWatch), whose streams have no deadline.
    #[must_use]
    pub fn sagas(&self) -> SagaServiceClient<Unary> {
        SagaServiceClient::new(self.unary()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Specs and observations.
    #[must_use]
    pub fn resources(&self) -> ResourceServiceClient<Unary> {
        ResourceServiceClient::new(self.unary()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Drifts, and sweeps for them.
    #[must_use]
    pub fn drifts(&self) -> DriftServiceClient<Unary> {
        DriftServiceClient::new(self.unary()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// What is to be done about drifts.
    #[must_use]
    pub fn policies(&self) -> PolicyServiceClient<Unary> {
        PolicyServiceClient::new(self.unary()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Waits for a unary call, at most as long as its deadline.
    ///
    /// # Errors
    /// What the server answered, decoded; `DEADLINE_EXCEEDED` or `CONNECTION_FAILED` if it did not.
    pub async fn call<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        let Deadline(deadline) = self.deadline;
        match tokio::time::timeout(deadline, call).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(Error::deadline_exceeded(deadline)),
        }
    }

    /// `Watch` without a deadline.
    pub(crate) fn watch_streams(&self) -> WatchServiceClient<Channel> {
        WatchServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// `WatchRefresh` without a deadline.
    pub(crate) fn refresh_streams(&self) -> RefreshServiceClient<Channel> {
        RefreshServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// `WatchSaga` without a deadline.
    pub(crate) fn saga_streams(&self) -> SagaServiceClient<Channel> {
        SagaServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// `ExportCatalog` and `ImportCatalog` without a deadline.
    pub(crate) fn bundle_streams(&self) -> BundleServiceClient<Channel> {
        BundleServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    fn unary(&self) -> Unary {
        InterceptedService::new(self.channel.clone(), self.deadline)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("endpoint", &self.endpoint)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

fn parse_endpoint(endpoint: &str) -> Result<Uri, Error> {
    let invalid = |message: &str| {
        let message = format!("{endpoint:?} {message}");
        Error::local(Code::InvalidArgument, "INVALID_ENDPOINT", message)
    };
    let text = if endpoint.contains("://") {
        endpoint.to_owned()
    } else {
        format!("http://{endpoint}")
    };
    let uri: Uri = text
        .parse()
        .map_err(|_| invalid("is no address; write for example http://127.0.0.1:7400"))?;
    if uri.scheme() == Some(&Scheme::HTTPS) {
        return Err(invalid(
            "needs TLS, which this version does not speak; write http://",
        ));
    }
    if uri.scheme() != Some(&Scheme::HTTP) || uri.host().is_none_or(str::is_empty) {
        return Err(invalid(
            "is no address; write for example http://127.0.0.1:7400",
        ));
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_checked_before_use() {
        for endpoint in [
            "http://127.0.0.1:7400",
            "127.0.0.1:7400",
            "http://[::1]:1",
            "node:1",
        ] {
            assert!(parse_endpoint(endpoint).is_ok(), "{endpoint}");
        }
        for endpoint in ["", "https://h:1", "ftp://h", "http://", "a b"] {
            let error = parse_endpoint(endpoint).expect_err(endpoint);
            assert_eq!(error.reason, "INVALID_ENDPOINT", "{endpoint}");
        }
    }

    #[tokio::test]
    async fn nobody_at_the_address_is_said_so() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let error = connect(&address.to_string(), Duration::from_secs(5))
            .await
            .expect_err("nobody listens");
        assert_eq!(error.reason, "CONNECTION_FAILED");
        assert!(error.message.contains(&address.to_string()), "{error}");
    }
}
