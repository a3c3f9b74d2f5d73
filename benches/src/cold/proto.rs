//! gRPC interfaces generated from the snapshotter's `proto/`, as `build.rs` compiled them.
//!
//! The modules mirror the protobuf packages, since generated code names its neighbours by path.
#![allow(missing_docs, clippy::all, rust_2018_idioms)]

/// containerd's.
pub mod containerd {
    /// Messages that several services share.
    pub mod types {
        tonic::include_proto!("containerd.types");
    }
    /// Services.
    pub mod services {
        /// The snapshots service.
        pub mod snapshots {
            pub mod v1 {
                tonic::include_proto!("containerd.services.snapshots.v1");
            }
        }
    }
}
