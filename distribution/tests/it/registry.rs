//! Against the real `docker-registry`: what is pushed can be read back in every way there is.

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use jaunt_formats::{Digest, media_type};

use crate::support::{Registry, client, client_with_login, content, repository_at};

/// bcrypt of "hunter2".
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.\n";

#[tokio::test]
async fn a_blob_from_memory_comes_back_whole_as_stream_and_in_ranges() {
    let Some(registry) = Registry::start().await else { return };
    let (client, repository) = (client(), repository_at(&registry.address));
    let bytes = Bytes::from(content(300_000));
    let digest = Digest::of(&bytes);
    assert_eq!(client.blob_exists(&repository, &digest).await.unwrap(), None);
    assert!(client.blob(&repository, &digest, 1 << 20).await.unwrap_err().is_not_found());
    client.push_blob(&repository, &digest, bytes.clone()).await.unwrap();
    assert_eq!(client.blob_exists(&repository, &digest).await.unwrap(), Some(300_000));
    assert_eq!(client.blob(&repository, &digest, 300_000).await.unwrap(), bytes);
    let stream = client.blob_stream(&repository, &digest).await.unwrap();
    assert_eq!(stream.content_length(), Some(300_000));
    assert_eq!(stream.try_collect::<Vec<_>>().await.unwrap().concat(), bytes);
    for range in [0..1, 0..300_000, 299_999..300_000, 1234..56_789] {
        let want = bytes.slice(range.start as usize..range.end as usize);
        assert_eq!(client.blob_range(&repository, &digest, range.clone()).await.unwrap(), want, "{range:?}");
    }
    let error = client.blob_range(&repository, &digest, 299_999..300_001).await.unwrap_err();
    assert!(error.to_string().ends_with("bytes 299999..300001 lie outside the blob"), "{error}");
    let error = client.blob_range(&repository, &digest, 400_000..400_001).await.unwrap_err();
    assert!(matches!(error, jaunt_distribution::Error::RangeNotSatisfiable { .. }), "{error}");
}

#[tokio::test]
async fn an_upload_streams_what_is_written() {
    let Some(registry) = Registry::start().await else { return };
    let (client, repository) = (client(), repository_at(&registry.address));
    let bytes = Bytes::from(content(9_000_000));
    let digest = Digest::of(&bytes);
    let mut upload = client.start_upload(&repository).await.unwrap();
    for start in (0..bytes.len()).step_by(700_001) {
        upload.write(bytes.slice(start..bytes.len().min(start + 700_001))).await.unwrap();
    }
    upload.finish(&digest, 9_000_000).await.unwrap();
    assert_eq!(client.blob(&repository, &digest, 9_000_000).await.unwrap(), bytes);
    let upload = client.start_upload(&repository).await.unwrap();
    upload.finish(&Digest::of(b""), 0).await.unwrap();
    assert_eq!(client.blob_exists(&repository, &Digest::of(b"")).await.unwrap(), Some(0));
}

#[tokio::test]
async fn an_upload_that_fails_or_is_dropped_leaves_nothing() {
    let Some(registry) = Registry::start().await else { return };
    let (client, repository) = (client(), repository_at(&registry.address));
    let (wrong, bytes) = (Digest::of(b"other"), Bytes::from_static(b"these"));
    let mut upload = client.start_upload(&repository).await.unwrap();
    upload.write(bytes.clone()).await.unwrap();
    let error = upload.finish(&wrong, 5).await.unwrap_err();
    assert!(error.to_string().contains("DIGEST_INVALID"), "{error}");
    let mut upload = client.start_upload(&repository).await.unwrap();
    upload.write(bytes.clone()).await.unwrap();
    assert!(
        upload.finish(&Digest::of(&bytes), 6).await.unwrap_err().to_string().contains("5 bytes were written")
    );
    let mut upload = client.start_upload(&repository).await.unwrap();
    upload.write(bytes.clone()).await.unwrap();
    upload.abort().await;
    let mut upload = client.start_upload(&repository).await.unwrap();
    upload.write(bytes.clone()).await.unwrap();
    drop(upload);
    assert_eq!(client.blob_exists(&repository, &Digest::of(&bytes)).await.unwrap(), None);
    // This registry keeps a stub of every cancelled session, but none of its data.
    let uploads = registry.directory.path().join("data/docker/registry/v2/repositories/a/b/_uploads");
    let left = || {
        let sessions = std::fs::read_dir(&uploads).unwrap().map(|session| session.unwrap().path());
        sessions.filter(|session| session.join("data").exists()).count()
    };
    for _ in 0..250 {
        if left() == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{} upload sessions were left behind", left());
}

#[tokio::test]
async fn manifests_are_pushed_tagged_read_and_deleted() {
    let Some(registry) = Registry::start().await else { return };
    let (client, repository) = (client(), repository_at(&registry.address));
    let config = Bytes::from_static(b"{}");
    client.push_blob(&repository, &Digest::of(&config), config.clone()).await.unwrap();
    let manifest = |layers: &str| {
        Bytes::from(format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{}","size":2}},"layers":[{layers}]}}"#,
            media_type::OCI_MANIFEST,
            media_type::OCI_EMPTY,
            Digest::of(&config)
        ))
    };
    let bytes = manifest("");
    let digest = Digest::of(&bytes);
    let accept = &media_type::IMAGE_MANIFESTS;
    assert_eq!(client.manifest_if_exists(&repository, "t", accept).await.unwrap(), None);
    let pushed =
        client.push_manifest(&repository, "t", media_type::OCI_MANIFEST, bytes.clone()).await.unwrap();
    assert_eq!((pushed.digest, pushed.subject), (digest, None));
    for name in ["t", &digest.to_string()] {
        let read = client.manifest(&repository, name, accept).await.unwrap();
        assert_eq!(
            (read.digest, &read.bytes, read.media_type.as_str()),
            (digest, &bytes, media_type::OCI_MANIFEST)
        );
        assert_eq!(client.manifest_digest(&repository, name, accept).await.unwrap(), digest);
    }
    assert_eq!(client.tags(&repository).await.unwrap(), ["t"]);
    // It cannot delete a tag alone.
    assert!(!client.delete_tag(&repository, "t").await.unwrap());
    // This registry has no referrers API: the list comes from the fallback tag.
    assert_eq!(client.referrers(&repository, &digest, None).await.unwrap(), []);
    client.delete_manifest(&repository, &digest).await.unwrap();
    let error = client.manifest(&repository, "t", accept).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("registry {}: repository a/b has no manifest t (404)", registry.address)
    );
    let absent =
        format!(r#"{{"mediaType":"{}","digest":"{}","size":1}}"#, media_type::OCI_LAYER, Digest::of(b"x"));
    let error = client.push_manifest(&repository, "t", media_type::OCI_MANIFEST, manifest(&absent)).await;
    assert!(error.unwrap_err().to_string().contains("MANIFEST_BLOB_UNKNOWN"));
}

#[tokio::test]
async fn a_blob_is_mounted_from_a_neighbour() {
    let Some(registry) = Registry::start().await else { return };
    let (client, from) = (client(), repository_at(&registry.address));
    let to = format!("{}/c", registry.address).parse().unwrap();
    let bytes = Bytes::from_static(b"shared");
    let digest = Digest::of(&bytes);
    assert!(!client.mount_blob(&to, &from, &digest).await.unwrap());
    client.push_blob(&from, &digest, bytes).await.unwrap();
    assert!(client.mount_blob(&to, &from, &digest).await.unwrap());
    assert_eq!(client.blob_exists(&to, &digest).await.unwrap(), Some(6));
    let elsewhere = "127.0.0.2:1/a".parse().unwrap();
    assert!(!client.mount_blob(&elsewhere, &from, &digest).await.unwrap());
}

#[tokio::test]
async fn basic_authentication_uses_the_docker_configuration() {
    let Some(registry) = Registry::start_guarded(HTPASSWD).await else { return };
    let repository = repository_at(&registry.address);
    let (bytes, digest) = (Bytes::from_static(b"secret"), Digest::of(b"secret"));
    let login = |password: &str| {
        format!(r#"{{"auths":{{"{}":{{"username":"user","password":"{password}"}}}}}}"#, registry.address)
    };
    let (user, _directory) = client_with_login(&login("hunter2"));
    user.push_blob(&repository, &digest, bytes.clone()).await.unwrap();
    let mut upload = user.start_upload(&repository).await.unwrap();
    upload.write(bytes.clone()).await.unwrap();
    upload.finish(&digest, 6).await.unwrap();
    assert_eq!(user.blob(&repository, &digest, 6).await.unwrap(), bytes);
    let (intruder, _directory) = client_with_login(&login("hunter3"));
    for (stranger, login) in
        [(client(), "no login for it is configured"), (intruder, "with the login that is configured")]
    {
        let error = stranger.blob(&repository, &digest, 6).await.unwrap_err();
        assert!(error.to_string().contains("access denied (401: UNAUTHORIZED"), "{error}");
        assert!(error.to_string().contains(login), "{error}");
        assert!(!format!("{error:?} {error}").contains("hunter"));
    }
}
