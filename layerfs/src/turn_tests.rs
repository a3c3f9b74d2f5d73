//! Whose turn it is, over real sockets and through the real client: readers before boot packs before the background, on a
//! line that is slower than those who fetch. All is told by the order of events and by bytes. The clock of those who
//! fetch stands, so that a reader who waits for long on a busy machine counts all the while.

use std::ops::Range;

use bytes::Bytes;
use jaunt_formats::boot::{Extent, Pack, PackWriter};
use jaunt_formats::{Digest, TarOffset};
use tokio::task::JoinHandle;

use crate::boot::{Boot, Expected, Loaded, NamedPack};
use crate::class::Class;
use crate::layer::Layer;
use crate::layers::Layers;
use crate::slow_registry::{Seen, SlowRegistry};
use crate::store::LargeFiles;
use crate::testing::{Fixture, NOT_AHEAD, SPAN, stopped_clock};

/// Bytes a second.
const RATE: u64 = 24 << 20;
/// What streams when the reader comes, and how much of it has been sent by then.
const LARGE: usize = 16 << 20;
const BEGUN: u64 = 1 << 20;
/// The most that is handed over at once: hyper's buffer grows to that.
const PIECE: u64 = 8192 + 4096 * 100;

/// A node that has nothing yet of some layers of one registry, nor of a boot pack.
struct Bed {
    registry: SlowRegistry,
    layers: Layers,
    /// What a reader wants, which the registry sends once nobody takes anything else.
    wanted: Remote,
    /// What the background is to bring, from the same host and from another.
    behind: Remote,
    elsewhere: Remote,
    packed: Fixture,
    pack: NamedPack,
    /// Bytes that a connection has room for whose client does not read.
    unread: u64,
}

struct Remote {
    fixture: Fixture,
    layer: Layer,
}

impl Remote {
    fn digest(&self) -> Digest {
        self.fixture.layer.converted.digest
    }

    fn fetched_in_the_background(&self) -> JoinHandle<()> {
        let layer = self.layer.clone();
        tokio::spawn(async move {
            let all = 0..layer.launch().spans.len();
            layer.fetch(all, Class::Background).await.unwrap();
        })
    }
}

impl Bed {
    async fn new() -> Self {
        let [packed, wanted, behind, elsewhere] =
            [LARGE, 1 << 20, LARGE + SPAN, 1 << 19].map(|bytes| Fixture::new(bytes / SPAN));
        let (blob, pack) = packed_whole(&packed);
        let unread = (Digest::of(b"read by nobody"), blob.clone());
        let fixtures = [&wanted, &behind, &elsewhere].map(|of| (of.layer.converted.digest, of.blob.clone()));
        let blobs = fixtures.into_iter().chain([(pack.digest, blob), unread.clone()]);
        let registry = SlowRegistry::new(blobs, RATE, wanted.layer.converted.digest);
        let unread = registry.sent_unread(unread.0, unread.1.len()).await;
        let layers = Layers::new(wanted.store.clone(), NOT_AHEAD());
        let open = |fixture: Fixture, host: usize| {
            let layer = fixture.open_in(&layers, &[registry.source(host)]);
            Remote { fixture, layer }
        };
        let (wanted, behind, elsewhere) = (open(wanted, 0), open(behind, 0), open(elsewhere, 1));
        Self { registry, layers, wanted, behind, elsewhere, packed, pack, unread }
    }

    /// Reads while something comes, and has the background want something else meanwhile.
    async fn read_while_coming(&self, coming: Digest) -> JoinHandle<()> {
        self.registry.until(|journal| journal.sent(coming, 0..journal.len()) >= BEGUN).await;
        let (wanted, fetched) = (&self.wanted, &self.layers.metrics().fetched_bytes);
        let before = fetched.get();
        let reading = wanted.layer.read_alone(0..wanted.fixture.tar.len() as u64);
        let mut elsewhere = None;
        let (read, ()) = tokio::join!(reading, async {
            self.registry.until(|journal| journal.first(wanted.digest(), Seen::Asked).is_some()).await;
            elsewhere = Some(self.elsewhere.fetched_in_the_background());
        });
        let taken = fetched.get() - before - wanted.fixture.blob.len() as u64;
        assert!(read.unwrap() == wanted.fixture.tar);
        // He may have read the last of it before that is written down.
        self.registry.until(|journal| journal.last(wanted.digest(), Seen::Ended).is_some()).await;
        self.nothing_else_had_a_turn(coming, taken);
        elsewhere.unwrap()
    }

    fn nothing_else_had_a_turn(&self, coming: Digest, taken: u64) {
        let (journal, waited) = (self.registry.journal(), self.waited());
        let others = [self.pack.digest, self.behind.digest(), self.elsewhere.digest()];
        let asked = others.map(|blob| journal.count(blob, Seen::Asked, waited.clone()));
        assert_eq!(asked, [0; 3], "nothing else was begun");
        assert!(taken <= PIECE, "{taken} bytes were taken on of what was coming");
        let [own, sent] = [self.wanted.digest(), coming].map(|blob| journal.sent(blob, waited.clone()));
        assert!(
            sent <= 2 * self.unread + PIECE,
            "of what was coming, {sent} bytes were sent before the {own} read"
        );
    }

    /// The part of the journal in which the reader waits.
    fn waited(&self) -> Range<usize> {
        let (journal, wanted) = (self.registry.journal(), self.wanted.digest());
        journal.first(wanted, Seen::Asked).unwrap()..journal.last(wanted, Seen::Ended).unwrap()
    }
}

/// A pack of all of a layer.
fn packed_whole(fixture: &Fixture) -> (Bytes, NamedPack) {
    let mut pack = PackWriter::new(index(), 1).unwrap();
    let extent = Extent { layer: 0, tar_offset: TarOffset(0), len: fixture.tar.len().try_into().unwrap() };
    pack.push(extent, &fixture.tar).unwrap();
    let Pack { bytes, table } = pack.finish().unwrap();
    let named = NamedPack { digest: Digest::of(&bytes), len: bytes.len() as u64, table, learnt: true };
    (bytes.into(), named)
}

fn index() -> Digest {
    Digest::of(b"index")
}

#[tokio::test]
async fn a_reader_goes_before_a_boot_pack_and_the_background_behind_it() {
    let _clock = stopped_clock();
    let bed = Bed::new().await;
    let directory = tempfile::tempdir().unwrap();
    let loading = {
        let expected =
            Expected { index: index(), layers: vec![(bed.packed.layer.clone(), LargeFiles::default())] };
        let (pack, source, layers) = (bed.pack, bed.registry.source(0), bed.layers.clone());
        let path = directory.path().join("shelf");
        tokio::spawn(async move {
            Boot::default().load(pack, source, &layers, &path, std::future::ready(Some(expected))).await
        })
    };
    bed.registry.until(|journal| journal.first(bed.pack.digest, Seen::Asked).is_some()).await;
    let behind = bed.behind.fetched_in_the_background();
    let elsewhere = bed.read_while_coming(bed.pack.digest).await;
    assert_eq!(loading.await.unwrap().unwrap(), Loaded::Whole);
    behind.await.unwrap();
    elsewhere.await.unwrap();

    let journal = bed.registry.journal();
    assert_eq!(journal.count(bed.pack.digest, Seen::Asked, 0..journal.len()), 1, "it has gone on");
    let begun = journal.first(bed.behind.digest(), Seen::Asked).unwrap();
    let (sent, window) =
        (journal.sent(bed.pack.digest, 0..begun), bed.wanted.layer.fetcher().lane().window());
    assert!(sent + window >= bed.pack.len, "the background began after {sent} bytes of the pack");
}

#[tokio::test]
async fn a_reader_goes_before_the_background() {
    let _clock = stopped_clock();
    let bed = Bed::new().await;
    let behind = bed.behind.fetched_in_the_background();
    let elsewhere = bed.read_while_coming(bed.behind.digest()).await;
    behind.await.unwrap();
    elsewhere.await.unwrap();

    let journal = bed.registry.journal();
    let sent = journal.sent(bed.behind.digest(), 0..journal.len());
    assert_eq!(sent, bed.behind.fixture.blob.len() as u64, "it has gone on, and nothing came twice");
    assert!(journal.count(bed.behind.digest(), Seen::Asked, 0..journal.len()) > 1);
}
