//! Private images: logins that come with a pull, from Kubernetes' secrets, or not at all.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::private::Private;
use common::{await_ready, backings, noise, runnable, status};
use jaunt_formats::Digest;
use jaunt_tests::image::{Image, dir, file, layer};
use jaunt_tests::process::{run, signal_pid, wait_until};
use jaunt_tests::registry::{AUTH, PASSWORD};
use jaunt_tests::{Node, Registry, needs_root};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(120);

fn image() -> Image {
    let data =
        [dir("data", 0o755), file("data/one", noise(1, 2 << 20)), file("data/other", noise(2, 2 << 20))];
    Image::new().layer(layer(runnable())).layer(layer(data))
}

/// A node whose daemon has no login but what `credentials` leads it to, and fetches nothing by itself.
fn node<'p>(private: &'p Private, credentials: &str) -> Node<'p> {
    node_with(private, Path::new("/no/such/file"), credentials)
}

/// The same with a file of its own.
fn node_with<'p>(private: &'p Private, docker_config: &Path, credentials: &str) -> Node<'p> {
    let bed = &private.bed;
    let config = format!(
        "docker_config = {docker_config:?}\ncontainerd = {:?}\n[completion]\nenabled = false\n[credentials]\n{credentials}\n",
        bed.scratch.path().join("containerd/containerd.sock"),
    );
    Node::configured(&bed.scratch, &bed.binaries, &[bed.registry.host()], &config).unwrap()
}

fn cri_socket(private: &Private) -> PathBuf {
    private.bed.scratch.path().join("cri.sock")
}

/// The node's settings with a socket for the kubelet.
fn with_cri_socket(private: &Private) -> String {
    format!("cri_socket = {:?}", cri_socket(private))
}

/// What the kubelet does for a pod with an image pull secret: PullImage with a login.
fn pull(private: &Private, node: &Node<'_>, cri_address: &Path) {
    let mut command = node.pull_command(&private.pushed.reference);
    command.args(["--through", "cri", "--cri-address"]).arg(cri_address);
    run(private.logged_in(&mut command)).unwrap();
}

/// Every file below a directory that holds one of the secrets.
fn tell_secrets(dir: &Path) -> Vec<String> {
    let mut grep = Command::new("grep");
    grep.args(["-rlaE", "--devices=skip", &format!("{PASSWORD}|{AUTH}")]).arg(dir);
    String::from_utf8(grep.output().unwrap().stdout).unwrap().lines().map(str::to_owned).collect()
}

/// L1: A login that came with a pull through the CRI socket is good for that image's repository alone, and for every read
/// of it after the pull, also by the next worker.
/// L2: No login is written to a disk, a log or `status`.
#[test]
fn a_login_that_came_with_the_pull_is_good_for_what_is_read_later_and_after_the_worker_was_killed() {
    needs_root!();
    let private = Private::new(image());
    let bed = &private.bed;
    let node = node(&private, &with_cri_socket(&private));
    let jaunt = node.jaunt.as_ref().unwrap();
    wait_until("the kubelet's socket", LIMIT, || cri_socket(&private).exists()).unwrap();
    pull(&private, &node, &cri_socket(&private));
    assert_eq!(backings(bed, &node), ["lazy", "lazy"]);

    let script = "echo ready; sha256sum /data/one; exec sleep 600";
    let mut container =
        node.containerd.run_with(&private.pushed.reference, &["/bin/sh", "-ec", script]).unwrap();
    await_ready(&mut container);
    let line = container.next_line(LIMIT).unwrap().unwrap();
    assert!(line.starts_with(&Digest::of(&noise(1, 2 << 20)).hex()), "{line}");

    // The next worker has never seen the pull, and reads what nobody has read.
    let worker = jaunt.worker().unwrap();
    signal_pid(worker, Signal::KILL);
    wait_until("another worker", LIMIT, || jaunt.worker().is_some_and(|pid| pid != worker)).unwrap();
    let read = ["/bin/sha256sum", "/data/other"];
    let mut second = node.containerd.run_with(&private.pushed.reference, &read).unwrap();
    let said = second.finish(LIMIT).unwrap();
    assert!(said.starts_with(&Digest::of(&noise(2, 2 << 20)).hex()), "{said}");

    let told = status(bed, &node).to_string();
    let command_line = fs::read(format!("/proc/{}/cmdline", jaunt.pid())).unwrap();
    let everything = format!("{told}{}{}", jaunt.log(), String::from_utf8_lossy(&command_line));
    assert!(!everything.contains(PASSWORD) && !everything.contains(AUTH), "{everything}");
    for dir in [jaunt.root(), jaunt.run_dir(), bed.scratch.logs()] {
        assert_eq!(tell_secrets(&dir), [""; 0]);
    }
    // That something was looked for is seen where the secret is.
    assert_eq!(tell_secrets(&private.login_dir()).len(), 1);
    drop(container);
}

#[test]
fn without_a_login_a_private_image_is_unpacked_and_with_a_pull_secret_it_is_lazy() {
    needs_root!();
    let private = Private::new(image());
    let bed = &private.bed;
    let secrets = bed.scratch.dir("secrets/team").unwrap();
    let pull_secrets = format!("pull_secrets = [{:?}]", secrets.parent().unwrap());
    let first = node(&private, &pull_secrets);
    // containerd gets the login, and tells nobody.
    pull(&private, &first, &first.containerd.socket());
    assert_eq!(backings(bed, &first), ["eager", "eager"]);
    let told = status(bed, &first);
    assert_eq!(told["fallbacks"][0]["code"], "registry-refused", "{told:#}");
    first.wipe().unwrap();

    let node = node(&private, &pull_secrets);
    private.write_login(&secrets.join(".dockerconfigjson"));
    pull(&private, &node, &node.containerd.socket());
    assert_eq!(backings(bed, &node), ["lazy", "lazy"]);
    let read = ["/bin/sha256sum", "/data/one"];
    let said =
        node.containerd.run_with(&private.pushed.reference, &read).unwrap().finish_saying(LIMIT).unwrap();
    assert!(said.starts_with(&Digest::of(&noise(1, 2 << 20)).hex()), "{said}");
}

/// L3: A refused login is looked up anew, and every other one there is for the repository is tried, before a read fails for it.
#[test]
fn a_login_is_replaced_while_a_container_reads() {
    needs_root!();
    let private = Private::new(image());
    let bed = &private.bed;
    let logins = bed.scratch.path().join("daemons.json");
    private.write_login(&logins);
    let node = node_with(&private, &logins, "");
    pull(&private, &node, &node.containerd.socket());
    assert_eq!(backings(bed, &node), ["lazy", "lazy"]);
    let script = "echo ready; sha256sum /data/one; while [ ! -e /go ]; do sleep 0.05; done; exec sha256sum /data/other";
    let mut container =
        node.containerd.run_with(&private.pushed.reference, &["/bin/sh", "-ec", script]).unwrap();
    await_ready(&mut container);
    let line = container.next_line(LIMIT).unwrap().unwrap();
    assert!(line.starts_with(&Digest::of(&noise(1, 2 << 20)).hex()), "{line}");

    // As whoever rotates logins does: the new one is in its place, and the old one is no good from then on.
    let host = bed.registry.host();
    let new = format!(r#"{{"auths": {{"{host}": {{"username": "another", "password": "{PASSWORD}"}}}}}}"#);
    fs::write(logins.with_extension("new"), new).unwrap();
    fs::rename(logins.with_extension("new"), &logins).unwrap();
    Registry::admit(&bed.scratch, "another").unwrap();
    assert_eq!(bed.registry.request("GET", "", &[], b"").unwrap().status, 401, "the old login");
    let before = bed.registry.blob_requests().unwrap();
    let mut go = node.containerd.ctr(&["tasks", "exec", "--exec-id", "go", container.id()]);
    run(go.args(["/bin/sh", "-c", "echo > /go"])).unwrap();
    let line = container.next_line(LIMIT).unwrap().unwrap();
    assert!(line.starts_with(&Digest::of(&noise(2, 2 << 20)).hex()), "{line}");
    assert!(bed.registry.blob_requests().unwrap() > before, "it was not here already");
    container.finish(LIMIT).unwrap();
}
