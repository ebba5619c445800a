//! The contract of Steadfast: messages, and stubs behind the features `client` and `server`.
//!
//! Everything here is generated from the files beside this one, which are the API reference: read those for meaning,
//! units, limits and errors. The module tree mirrors the protocol buffer packages without their `steadfast` root.
#![expect(
    missing_docs,
    clippy::large_enum_variant,
    reason = "the code is generated, and documented where the protocol buffer file is"
)]
#![cfg_attr(
    any(feature = "client", feature = "server"),
    expect(
        clippy::allow_attributes,
        reason = "the generated stubs allow what they need"
    )
)]

/// Shared by all areas.
pub mod common {
    /// `steadfast.common.v1`.
    pub mod v1 {
        tonic::include_proto!("steadfast.common.v1");
    }
}

/// Packages and refreshes.
pub mod registry {
    /// `steadfast.registry.v1`.
    pub mod v1 {
        tonic::include_proto!("steadfast.registry.v1");
    }
}

/// Schemas and validation.
pub mod schema {
    /// `steadfast.schema.v1`.
    pub mod v1 {
        tonic::include_proto!("steadfast.schema.v1");
    }
}

/// The change stream.
pub mod watch {
    /// `steadfast.watch.v1`.
    pub mod v1 {
        tonic::include_proto!("steadfast.watch.v1");
    }
}

/// Sagas and their definitions.
pub mod saga {
    /// `steadfast.saga.v1`.
    pub mod v1 {
        tonic::include_proto!("steadfast.saga.v1");
    }
}

/// Resources, their drifts and policies.
pub mod drift {
    /// `steadfast.drift.v1`.
    pub mod v1 {
        tonic::include_proto!("steadfast.drift.v1");
    }
}

/// Administration.
pub mod admin {
    /// `steadfast.admin.v1`.
    pub mod v1 {
        tonic::include_proto!("steadfast.admin.v1");
    }
}

/// The encoded `google.protobuf.FileDescriptorSet` of the contract with its imports, comments and custom options.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/descriptor_set.bin"));
