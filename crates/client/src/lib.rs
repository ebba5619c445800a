//! What a node embeds to use a Steadfast server: a thin connection, errors that can be acted upon, and a watch that survives
//! whatever happens to the server.
//!
//! [`connect`] gives typed clients for every service of the contract, which is re-exported as [`api`]. A failed call becomes
//! an [`Error`] with the stable reason, the fields at fault and the wait that the server asked for, decoded from
//! `google.rpc.Status` details. [`WatchStream`] delivers the change log in whole revisions and reconnects from its last
//! cursor, so that its user sees every change once, in order. [`SagaWatch`] follows one saga to its end in the same way,
//! and [`RefreshWatch`] one refresh. [`export_catalog`] and [`import_catalog`] carry the whole catalogue as one file.
//!
//! ```no_run
//! # async fn example() -> Result<(), steadfast_client::Error> {
//! use std::time::Duration;
//! use steadfast_client::{api::registry::v1::GetPackageRequest, connect};
//!
//! let connection = connect("http://127.0.0.1:7400", Duration::from_secs(10)).await?;
//! let request = GetPackageRequest { name: "left-pad".into(), ..Default::default() };
//! let answer = connection.call(connection.registry().get_package(request)).await?;
//! println!("{:?}", answer.package);
//! # Ok(())
//! # }
//! ```

mod bundle;
mod connection;
mod cursor;
mod error;
mod refresh;
mod saga;
mod watch;

pub use bundle::{CatalogExport, export_catalog, import_catalog};
pub use connection::{Connection, Deadline, Unary, connect};
pub use cursor::{cursor_from_api, cursor_to_api};
pub use error::{Error, FieldViolation};
pub use refresh::{RefreshWatch, RefreshWatchEvent};
pub use saga::{SagaWatch, SagaWatchEvent};
pub use steadfast_api as api;
pub use steadfast_types::Cursor;
pub use tonic::Code;
pub use watch::{ResetReason, WatchEvent, WatchOptions, WatchStart, WatchStream};
