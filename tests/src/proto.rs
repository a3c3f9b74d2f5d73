//! containerd's gRPC interfaces that tests and measurements speak, as `build.rs` compiled them from the snapshotter's `proto/`.
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
        /// The leases service.
        pub mod leases {
            pub mod v1 {
                tonic::include_proto!("containerd.services.leases.v1");
            }
        }
        /// The snapshots service.
        pub mod snapshots {
            pub mod v1 {
                tonic::include_proto!("containerd.services.snapshots.v1");
            }
        }
    }
}
