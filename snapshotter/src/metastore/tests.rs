//! The store as the snapshotter uses it, reopened as after a crash.

use super::*;

fn creation(store: &MetaStore, name: &str, parent: Option<&str>) -> Creation {
    Creation {
        name: name.to_owned(),
        id: store.reserve().id(),
        kind: Kind::Active,
        parent: parent.map(str::to_owned),
        labels: Labels::new(),
        backing: Backing::Eager,
    }
}

async fn commit(store: &MetaStore, key: &str, name: &str) -> Result<Arc<Snapshot>, Error> {
    store.commit(key.to_owned(), name.to_owned(), None, Labels::new(), Usage::default()).await
}

fn file(dir: &tempfile::TempDir) -> std::path::PathBuf {
    dir.path().join("meta.redb")
}

/// Drops the store and waits until its writer has let go of the file.
async fn reopen(store: MetaStore, dir: &tempfile::TempDir) -> MetaStore {
    drop(store);
    for _ in 0..200 {
        if let Ok(store) = MetaStore::open(&file(dir)) {
            return store;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("the store stays open");
}

#[tokio::test]
async fn what_was_acknowledged_survives_and_ids_are_never_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = MetaStore::open(&file(&dir)).unwrap();
    let first = store.create(creation(&store, "a", None)).await.unwrap();
    let base = commit(&store, "a", "base").await.unwrap();
    assert_eq!(base.id, first.id);
    let last = store.create(creation(&store, "b", Some("base"))).await.unwrap();
    store.remove("b".to_owned()).await.unwrap();

    let store = reopen(store, &dir).await;
    assert_eq!(store.read().get("base").unwrap(), &base);
    assert!(store.read().find("a").is_none());
    assert!(store.reserve().id() > last.id);
}

#[tokio::test]
async fn children_hold_their_parent_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = MetaStore::open(&file(&dir)).unwrap();
    store.create(creation(&store, "a", None)).await.unwrap();
    commit(&store, "a", "base").await.unwrap();
    store.create(creation(&store, "b", Some("base"))).await.unwrap();
    commit(&store, "b", "top").await.unwrap();
    assert!(matches!(store.remove("base".to_owned()).await, Err(Error::HasChildren(_))));

    let store = reopen(store, &dir).await;
    assert!(matches!(store.remove("base".to_owned()).await, Err(Error::HasChildren(_))));
    let parent = store.read().ancestors(store.read().get("top").unwrap()).unwrap()[0].name.clone();
    assert_eq!(parent, "base");
    store.remove("top".to_owned()).await.unwrap();
    store.remove("base".to_owned()).await.unwrap();
}

#[tokio::test]
async fn a_refused_request_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let store = MetaStore::open(&file(&dir)).unwrap();
    store.create(creation(&store, "a", None)).await.unwrap();
    commit(&store, "a", "base").await.unwrap();
    store.create(creation(&store, "b", Some("base"))).await.unwrap();
    let before: Vec<_> = store.read().all().cloned().collect();

    assert!(matches!(commit(&store, "b", "base").await, Err(Error::AlreadyExists(_))));
    assert!(matches!(commit(&store, "absent", "x").await, Err(Error::NotFound(_))));
    assert!(matches!(commit(&store, "base", "x").await, Err(Error::NotActive(_))));
    let child = |parent| creation(&store, "c", Some(parent));
    assert!(matches!(store.create(child("absent")).await, Err(Error::ParentNotFound(_))));
    assert!(matches!(store.create(child("b")).await, Err(Error::ParentNotCommitted { .. })));
    let twice = store.create(creation(&store, "b", None)).await;
    assert!(matches!(twice, Err(Error::AlreadyExists(_))));
    let moved = store
        .commit("b".to_owned(), "x".to_owned(), Some("other".to_owned()), Labels::new(), Usage::default())
        .await;
    assert!(matches!(moved, Err(Error::ParentFixed(_))));
    let long = [("k".to_owned(), "v".repeat(LABEL_MAX))].into();
    let labelled = store.create(Creation { labels: long, ..creation(&store, "c", None) }).await;
    assert!(matches!(labelled, Err(Error::LabelTooLong { .. })));

    assert_eq!(store.read().all().cloned().collect::<Vec<_>>(), before);
}

#[tokio::test]
async fn a_parent_may_come_with_the_commit() {
    let dir = tempfile::tempdir().unwrap();
    let store = MetaStore::open(&file(&dir)).unwrap();
    store.create(creation(&store, "a", None)).await.unwrap();
    commit(&store, "a", "base").await.unwrap();
    store.create(creation(&store, "b", None)).await.unwrap();
    let parent = Some("base".to_owned());
    let top = store
        .commit("b".to_owned(), "top".to_owned(), parent, Labels::new(), Usage::default())
        .await
        .unwrap();
    assert_eq!(top.parent.as_deref(), Some("base"));
    assert!(matches!(store.remove("base".to_owned()).await, Err(Error::HasChildren(_))));
}

#[tokio::test]
async fn requests_at_once_all_become_durable() {
    let dir = tempfile::tempdir().unwrap();
    let store = MetaStore::open(&file(&dir)).unwrap();
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                let new = creation(&store, &format!("s{n}"), None);
                store.create(new).await.unwrap().id
            })
        })
        .collect();
    let mut ids = BTreeSet::new();
    for task in tasks {
        assert!(ids.insert(task.await.unwrap()));
    }
    assert_eq!(reopen(store, &dir).await.read().ids(), ids);
}

#[tokio::test]
async fn an_index_is_forgotten_with_its_last_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let store = MetaStore::open(&file(&dir)).unwrap();
    let (index, manifest) = (Digest::of(b"index"), Digest::of(b"manifest"));
    let pins = ["r.example/a", "r.example/b"]
        .map(|repository| Pin { repository: repository.parse().unwrap(), manifest });
    let learnt = Learnt { index, by: Voucher::Key(Digest::of(b"key")) };
    for pin in pins.clone() {
        store.learn(pin, learnt).await.unwrap();
    }
    let chain_id = jaunt_formats::ChainId(Digest::of(b"chain"));
    let lazy = Creation {
        kind: Kind::Committed,
        backing: Backing::Lazy { chain_id, index, prefix: 1 },
        ..creation(&store, "lazy", None)
    };
    store.create(lazy).await.unwrap();

    let store = reopen(store, &dir).await;
    assert_eq!(store.sources(&index).len(), 2);
    assert_eq!(store.pinned(&pins[1]), Some(learnt));
    assert_eq!(store.read().lazy_chains()[0].index, index);
    assert!(!store.forget_index(index).await.unwrap());
    store.remove("lazy".to_owned()).await.unwrap();
    assert!(store.forget_index(index).await.unwrap());
    let store = reopen(store, &dir).await;
    assert_eq!((store.sources(&index).len(), store.pinned(&pins[0])), (0, None));
}
