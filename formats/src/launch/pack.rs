//! A launch index as a blob: one zstd frame that declares its content's length.

use zstd_safe::{CCtx, CParameter, DCtx};

use super::LaunchError;

/// Bytes an index may have when unpacked: some ten million entries. A larger claim is an attack.
pub const MAX_INDEX_LEN: u64 = 1 << 30;
/// Times its packed length that an index may have, besides a MiB: honest ones have three, and the most regular
/// that can be made some tens. It keeps a small blob from filling a node's memory.
const MAX_RATIO: u64 = 256;
const SMALL: u64 = 1 << 20;
/// The index is written once and fetched at every first start: worth the encoder's time.
const LEVEL: i32 = 15;

/// The blob that is pushed.
///
/// # Errors
/// The index is larger than any node would take, or the encoder ran out of memory.
pub fn pack(index: &[u8]) -> Result<Vec<u8>, LaunchError> {
    if index.len() as u64 > MAX_INDEX_LEN {
        return Err(LaunchError::TooLarge(index.len() as u64));
    }
    let mut context = CCtx::create();
    context.set_parameter(CParameter::CompressionLevel(LEVEL)).map_err(packing)?;
    let mut blob = Vec::with_capacity(zstd_safe::compress_bound(index.len()));
    context.compress2(&mut blob, index).map_err(packing)?;
    Ok(blob)
}

/// The index within a pushed blob. Allocates no more than the blob declares, nor than [`MAX_INDEX_LEN`].
///
/// # Errors
/// The blob is no zstd frame, declares too much, or decodes to something else than it declares.
pub fn unpack(blob: &[u8]) -> Result<Vec<u8>, LaunchError> {
    let declared = zstd_safe::get_frame_content_size(blob).ok().flatten().ok_or_else(|| {
        LaunchError::Packing("not a zstd frame that declares its content's length".to_owned())
    })?;
    if declared > MAX_INDEX_LEN {
        return Err(LaunchError::TooLarge(declared));
    }
    if declared > SMALL + MAX_RATIO * blob.len() as u64 {
        return Err(LaunchError::Ratio { declared, packed: blob.len() as u64 });
    }
    let capacity = usize::try_from(declared).map_err(|_| LaunchError::TooLarge(declared))?;
    let mut index = Vec::with_capacity(capacity);
    DCtx::create().decompress(&mut index, blob).map_err(packing)?;
    if index.len() != capacity {
        return Err(LaunchError::Length { declared, actual: index.len() as u64 });
    }
    Ok(index)
}

fn packing(code: zstd_safe::ErrorCode) -> LaunchError {
    LaunchError::Packing(zstd_safe::get_error_name(code).to_owned())
}
