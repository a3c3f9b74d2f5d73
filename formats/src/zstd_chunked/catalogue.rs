//! What is kept of a layer's entries while its tar passes: for the TOC, the tar-split and the launch index.

use sha2::{Digest as _, Sha256};

use super::draft::TocDraft;
use super::entries::MAX_TAR_SPLIT_LEN;
use super::level::small_level;
use super::paths::PathHashes;
use super::plan::{FRAME_LEN, Obstacle, TocPlan};
use super::reader::MAX_TOC_LEN;
use super::tar_split::TarSplit;
use super::toc::TocEntry;
use super::weight::weight_of;
use crate::compression::{TableError, ZstdError};
use crate::spool::NewSpool;
use crate::tar::{Event, Member};
use crate::{Digest, EntryLog, EntryLogWriter};

/// Keeps what the TOC, the tar-split and the launch index need.
pub(super) struct Catalogue {
    entries: EntryLogWriter,
    /// Of as many paths as there are entries.
    paths: PathHashes,
    /// What the TOC is made of; let go as soon as there can be none.
    toc: Result<TocParts, Obstacle>,
    /// Digest of the file being read, if it has several frames, and what is left of it.
    file: Option<(Sha256, u64)>,
    /// Bytes that the entries weigh.
    pub weight: u64,
}

struct TocParts {
    draft: TocDraft,
    tar_split: TarSplit,
}

impl Catalogue {
    pub fn new(level: i32, spool: NewSpool) -> Result<Self, ZstdError> {
        let tar_split = TarSplit::new(small_level(level), spool)?;
        let toc = Ok(TocParts { draft: TocDraft::new(spool)?, tar_split });
        let (entries, paths) = (EntryLogWriter::new(spool), PathHashes::default());
        Ok(Self { entries, paths, toc, file: None, weight: 0 })
    }

    /// How many entries there were so far.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    pub fn take(&mut self, event: &Event<'_>) -> Result<(), TableError> {
        if let Event::Member(member) = event {
            self.weight += weight_of(member);
            self.entries.push(&member.entry)?;
            let len = member.content.end - member.content.start;
            self.file = (len > u64::from(FRAME_LEN)).then(|| (Sha256::new(), len));
        }
        let Ok(parts) = &mut self.toc else { return Ok(()) };
        let obstacle = match event {
            Event::Member(member) => parts.member(member)?,
            Event::Content(bytes) => parts.content(bytes, &mut self.file),
            Event::Header(bytes) => parts.raw(bytes)?,
            Event::Padding(bytes) | Event::Trailing(bytes) if !all_zero(bytes) => Some(Obstacle::Padding),
            Event::Padding(bytes) => parts.raw(bytes)?,
            Event::Trailing(bytes) => parts.trailing(bytes)?,
            Event::GlobalHeader => Some(Obstacle::GlobalHeader),
        };
        match (obstacle, event) {
            (Some(obstacle), _) => {
                self.toc = Err(obstacle);
                self.paths = PathHashes::default();
            }
            (None, Event::Member(member)) => self.paths.push(&member.entry.path),
            (None, _) => {}
        }
        Ok(())
    }

    pub fn finish(self) -> Result<(EntryLog, Result<TocPlan, Obstacle>), TableError> {
        let entries = self.entries.finish()?;
        let toc = match self.toc {
            Ok(_) if self.paths.any_twice(&entries)? => Err(Obstacle::Duplicate),
            Ok(parts) => Ok(TocPlan { draft: parts.draft, tar_split: parts.tar_split.finish()? }),
            Err(obstacle) => Err(obstacle),
        };
        Ok((entries, toc))
    }
}

impl TocParts {
    fn member(&mut self, member: &Member) -> Result<Option<Obstacle>, TableError> {
        let entry = match TocEntry::of(member) {
            Ok(entry) => entry,
            Err(obstacle) => return Ok(Some(obstacle)),
        };
        let len = member.content.end - member.content.start;
        self.draft.push(&entry, len)?;
        self.tar_split.entry(&entry.name, len)?;
        Ok(self.too_large())
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<Option<Obstacle>, TableError> {
        self.tar_split.raw(bytes)?;
        Ok(None)
    }

    fn trailing(&mut self, bytes: &[u8]) -> Result<Option<Obstacle>, TableError> {
        self.tar_split.trailing(bytes)?;
        Ok(self.too_large())
    }

    fn content(&mut self, bytes: &[u8], file: &mut Option<(Sha256, u64)>) -> Option<Obstacle> {
        self.tar_split.content(bytes);
        let (digest, left) = file.as_mut()?;
        digest.update(bytes);
        *left -= bytes.len() as u64;
        if *left == 0
            && let Some((digest, _)) = file.take()
        {
            self.draft.digest(Digest::from_bytes(digest.finalize().into()));
        }
        None
    }

    /// It only grows: what is too large already need not be kept any longer.
    fn too_large(&self) -> Option<Obstacle> {
        let too_large = self.draft.raw_len() > MAX_TOC_LEN || self.tar_split.raw_len() > MAX_TAR_SPLIT_LEN;
        too_large.then_some(Obstacle::TooLarge)
    }
}

fn all_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}
