//! gRPC interfaces generated from `proto/`, as `build.rs` compiled them.
//!
//! The modules mirror the protobuf packages, since generated code names its neighbours by path.
#![allow(missing_docs, clippy::all, rust_2018_idioms)]

/// containerd's.
pub mod containerd {
    /// Messages that several services share.
    pub mod types {
        tonic::include_proto!("containerd.types");
        /// Sources, destinations and progress of transfers.
        pub mod transfer {
            tonic::include_proto!("containerd.types.transfer");
        }
    }
    /// Services.
    pub mod services {
        /// The snapshots service, which we serve.
        pub mod snapshots {
            pub mod v1 {
                tonic::include_proto!("containerd.services.snapshots.v1");
            }
        }
        /// The transfer service, by which images are pulled from containerd 2 on.
        pub mod transfer {
            pub mod v1 {
                tonic::include_proto!("containerd.services.transfer.v1");
            }
        }
        /// Streams that other services refer to by name.
        pub mod streaming {
            pub mod v1 {
                tonic::include_proto!("containerd.services.streaming.v1");
            }
        }
        /// What plugins a containerd has.
        pub mod introspection {
            pub mod v1 {
                tonic::include_proto!("containerd.services.introspection.v1");
            }
        }
        /// What images a containerd has.
        pub mod images {
            pub mod v1 {
                tonic::include_proto!("containerd.services.images.v1");
            }
        }
        /// The blobs they consist of.
        pub mod content {
            pub mod v1 {
                tonic::include_proto!("containerd.services.content.v1");
            }
        }
        /// What keeps blobs from being collected while they arrive.
        pub mod leases {
            pub mod v1 {
                tonic::include_proto!("containerd.services.leases.v1");
            }
        }
        /// Whose images, blobs and leases they are.
        pub mod namespaces {
            pub mod v1 {
                tonic::include_proto!("containerd.services.namespaces.v1");
            }
        }
        /// The version of a containerd.
        pub mod version {
            pub mod v1 {
                tonic::include_proto!("containerd.services.version.v1");
            }
        }
    }
}

/// gRPC's error model.
pub mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

/// The kubelet's interface to containerd (CRI).
pub mod runtime {
    pub mod v1 {
        tonic::include_proto!("runtime.v1");
    }
}

/// Our own.
pub mod jaunt {
    pub mod admin {
        pub mod v1 {
            tonic::include_proto!("jaunt.admin.v1");
        }
    }
    pub mod status {
        pub mod v1 {
            tonic::include_proto!("jaunt.status.v1");
        }
    }
    pub mod originals {
        pub mod v1 {
            tonic::include_proto!("jaunt.originals.v1");
        }
    }
}
