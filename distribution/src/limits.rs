//! How much a registry may make us hold, follow or wait for.
//!
//! Each limit is far above what honest registries need and low enough that a hostile one cannot
//! exhaust memory or hang a caller.

use std::time::Duration;

/// Bytes of one manifest: the size every registry must accept by the distribution spec.
pub const MANIFEST_BYTES: u64 = 4 << 20;
/// Bytes of one page of referrers, which is an index and so bound like a manifest.
pub const REFERRERS_PAGE_BYTES: u64 = MANIFEST_BYTES;
/// Pages of referrers followed before the listing counts as endless.
pub const REFERRERS_PAGES: usize = 64;
/// Bytes of one page of tags.
pub const TAGS_PAGE_BYTES: u64 = MANIFEST_BYTES;
/// Pages of tags followed before the listing counts as endless.
pub const TAGS_PAGES: usize = 256;
/// Bytes of a token service's answer; the largest tokens seen are about 20 KiB.
pub(crate) const TOKEN_ANSWER_BYTES: u64 = 256 << 10;
/// Bytes of an error's body that are read: for its message, and so that the connection can be kept.
pub(crate) const ERROR_BODY_BYTES: u64 = 64 << 10;
/// Characters of a registry's own words that an error repeats.
pub(crate) const ERROR_TEXT_CHARS: usize = 300;
/// Bytes of one file of settings, certificates or credentials; the bundle of all public authorities has
/// a quarter of a megabyte.
pub(crate) const SETTINGS_FILE_BYTES: u64 = 4 << 20;
/// Files in the directory of one host.
pub(crate) const SETTINGS_FILES: usize = 1024;
/// Registries and other hosts whose settings and standing are remembered.
pub(crate) const HOSTS: usize = 1024;
/// Ways of connecting to hosts, each with its own pool of connections.
pub(crate) const DIALS: usize = 64;
/// Bytes of one `WWW-Authenticate` header that are parsed.
pub(crate) const CHALLENGE_BYTES: usize = 8 << 10;
/// Redirects followed for one request. Registries use one, a CDN before a bucket two.
pub(crate) const REDIRECTS: usize = 5;
/// Blobs whose whereabouts are remembered: those being read.
pub(crate) const WHEREABOUTS: usize = 4096;
/// Reads whose host is known to those who give up waiting.
pub(crate) const ASKED: usize = 1024;
/// Repositories whose tokens are remembered.
pub(crate) const GRANTS: usize = 4096;
/// Longest wait a registry can ask for with `Retry-After`; when it asks for more, the call fails.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(60);
/// Longest life a token is believed to have.
pub(crate) const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Bytes that a buffer reserves at most before any have arrived.
pub(crate) const RESERVED_BYTES: u64 = 8 << 20;
/// Bytes a second below which a download counts as stuck: a fifth of what 10 Mbit/s give each of 64
/// ranges in flight.
pub const SLOWEST_DOWNLOAD: u64 = 4 << 10;
/// Bytes a second below which an upload counts as stuck.
pub(crate) const SLOWEST_UPLOAD: u64 = 64 << 10;
/// Bytes a second at which a registry is assumed to digest and store an upload it has received.
pub(crate) const SLOWEST_COMMIT: u64 = 16 << 20;
