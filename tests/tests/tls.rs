//! A registry behind TLS: containerd's `hosts.toml` directories, as containerd and the daemon both read them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{Bed, backings, noise, runnable, status};
use jaunt_formats::Digest;
use jaunt_tests::authority::Issued;
use jaunt_tests::image::{Image, dir, file, layer};
use jaunt_tests::nginx::Gate;
use jaunt_tests::process::wait_until;
use jaunt_tests::{Authority, Nginx, Node, needs_programs, needs_root};

const LIMIT: Duration = Duration::from_secs(120);
const PORT: u16 = 5443;
/// What nobody gets in without, where the gate asks for it.
const WORD: &str = "word-of-the-team-5b1f";
/// What the token service takes, and what it gives for it.
const IDENTITY: &str = "identity-of-the-user-9ac3";
const BEARER: &str = "bearer-of-the-pull-27de";

/// A converted image that is to be had through a gate alone.
struct Gated {
    bed: Bed,
    authority: Authority,
    client: Issued,
    gate: Nginx,
    host: String,
}

impl Gated {
    /// Whoever comes needs a client's certificate and the word.
    fn strict(checks: &str, more: &str) -> Self {
        let checks = format!("if ($http_x_team != \"{WORD}\") {{ return 403; }}\n{checks}");
        Self::new(|authority| {
            let ca = authority.certificate();
            (format!("ssl_client_certificate {};\nssl_verify_client on;\n{more}", ca.display()), checks)
        })
    }

    fn new(settings: impl FnOnce(&Authority) -> (String, String)) -> Self {
        let bed = Bed::new();
        let data = [dir("data", 0o755), file("data/one", noise(1, 2 << 20))];
        bed.converted(Image::new().layer(layer(runnable())).layer(layer(data)));
        let authority = Authority::new(&bed.scratch, "authority").unwrap();
        let upstream = bed.registry.address();
        let address = SocketAddr::new(upstream.ip(), PORT);
        let identity = authority.server(&bed.scratch, address.ip()).unwrap();
        let client = authority.client(&bed.scratch).unwrap();
        let (settings, checks) = settings(&authority);
        let gate =
            Nginx::gate(&bed.scratch, address, upstream, &Gate { identity, settings, checks }).unwrap();
        Self { bed, authority, client, gate, host: address.to_string() }
    }

    fn reference(&self) -> String {
        format!("{}/fixture:v1", self.host)
    }

    /// Everything that the strict gate wants.
    fn everything(&self) -> [String; 3] {
        [self.trusting(&self.authority), self.identified(), self.with_word()]
    }

    fn trusting(&self, authority: &Authority) -> String {
        format!("ca = {:?}", authority.certificate())
    }

    fn identified(&self) -> String {
        format!("client = [[{:?}, {:?}]]", self.client.certificate, self.client.key)
    }

    fn with_word(&self) -> String {
        format!("[host.\"https://{}\".header]\nx-team = \"{WORD}\"", self.host)
    }

    /// A directory of such directories, with this in the registry's.
    fn hosts_dir(&self, dir: &str, text: &str) -> PathBuf {
        let own = self.bed.scratch.dir(&format!("{dir}/{}", self.host)).unwrap();
        fs::write(own.join("hosts.toml"), text).unwrap();
        own.parent().unwrap().to_owned()
    }

    /// Where containerd looks, with this said of the registry.
    fn containerds(&self, lines: &[String]) -> PathBuf {
        let (host, lines) = (&self.host, lines.join("\n"));
        let text = format!(
            "server = \"https://{host}\"\n[host.\"https://{host}\"]\ncapabilities = [\"pull\", \"resolve\"]\n{lines}\n"
        );
        self.hosts_dir("containerd/hosts", &text)
    }

    /// A node whose daemon reads that directory, and fetches nothing by itself.
    fn node(&self, hosts_dir: &Path, credentials: &str) -> Node<'_> {
        let (containerd, logins) =
            (self.bed.scratch.path().join("containerd/containerd.sock"), "/no/such/file");
        let config = format!(
            "docker_config = \"{logins}\"\ncontainerd = {containerd:?}\n[completion]\nenabled = false\n\
             [registries]\ncerts_dirs = [{hosts_dir:?}]\n[credentials]\n{credentials}\n"
        );
        Node::configured(&self.bed.scratch, &self.bed.binaries, &[], &config).unwrap()
    }

    /// The image is lazy, and what a container reads of it is right.
    fn is_lazy_on(&self, node: &Node<'_>) {
        assert_eq!(backings(&self.bed, node), ["lazy"; 2], "{:#}", status(&self.bed, node));
        let mut container =
            node.containerd.run_with(&self.reference(), &["/bin/sha256sum", "/data/one"]).unwrap();
        let said = container.finish_saying(LIMIT).unwrap();
        assert!(said.starts_with(&Digest::of(&noise(1, 2 << 20)).hex()), "{said}");
    }

    /// Requests that were let in, by the beginning of who asked.
    fn let_in(&self, agent: &str) -> usize {
        let log = self.gate.access_log().unwrap();
        let is_theirs = |line: &&str| line.contains(&format!("\"{agent}"));
        log.lines()
            .filter(is_theirs)
            .filter(|line| line.contains("\" 200 ") || line.contains("\" 206 "))
            .count()
    }
}

/// containerd and the daemon read one directory: a private authority, a client's certificate, and a header that is a secret.
#[test]
fn an_image_behind_a_private_authority_client_certificates_and_a_header_is_lazy() {
    needs_root!();
    needs_programs!("openssl", "nginx");
    let gated = Gated::strict("", "");
    let node = gated.node(&gated.containerds(&gated.everything()), "");
    node.pull(&gated.reference()).unwrap();
    gated.is_lazy_on(&node);
    for agent in ["containerd/", "jaunt-snapshotter/"] {
        assert!(gated.let_in(agent) > 0, "{agent}: {}", gated.gate.access_log().unwrap());
    }
}

#[test]
fn an_image_behind_a_certificate_that_nobody_vouches_for_is_lazy_where_it_need_not_be_verified() {
    needs_root!();
    needs_programs!("openssl", "nginx");
    let gated = Gated::new(|_| Default::default());
    let node = gated.node(&gated.containerds(&["skip_verify = true".to_owned()]), "");
    node.pull(&gated.reference()).unwrap();
    gated.is_lazy_on(&node);
}

/// containerd gets in, the daemon does not: the image is there all the same, and `status` says what is wrong.
#[test]
fn where_only_the_daemon_is_kept_out_the_image_is_unpacked_with_the_reason() {
    needs_root!();
    needs_programs!("openssl", "nginx");
    let gated = Gated::strict("", "");
    let other = Authority::new(&gated.bed.scratch, "other").unwrap();
    let [ca, client, _] = gated.everything();
    let word = format!("[header]\nx-team = \"{WORD}\"");
    for (lines, code, detail) in [
        ([&*gated.trusting(&other), &client, &word], "registry-unreachable", "invalid peer certificate"),
        ([&*ca, "", &word], "registry-error", "400"),
        ([&*ca, &client, ""], "registry-refused", "403"),
    ] {
        // What is said of the server itself: there is nobody else who could be asked.
        let text = format!("server = \"https://{}\"\n{}\n", gated.host, lines.join("\n"));
        let (hosts, _) = (gated.hosts_dir("daemons", &text), gated.containerds(&gated.everything()));
        let node = gated.node(&hosts, "");
        node.pull(&gated.reference()).unwrap();
        assert_eq!(backings(&gated.bed, &node), ["eager"; 2], "{lines:?}");
        let told = status(&gated.bed, &node);
        let fallback = &told["fallbacks"][0];
        assert_eq!(fallback["code"], code, "{told:#}");
        assert!(fallback["detail"].as_str().unwrap().contains(detail), "{told:#}");
        node.wipe().unwrap();
    }
    assert_eq!(gated.let_in("jaunt-snapshotter/"), 0);
}

/// L2: No login is written to a disk, a log or `status`. Nor are identity tokens, what they are exchanged for, headers or keys, even
/// where everything is logged.
#[test]
fn tokens_headers_and_keys_are_not_written_down_where_everything_is_logged() {
    needs_root!();
    needs_programs!("openssl", "nginx");
    let service = format!(
        "location = /token {{ default_type application/json; if ($request_method = POST) {{ \
         return 200 '{{\"access_token\":\"{BEARER}\",\"token\":\"{BEARER}\",\"expires_in\":3600}}'; }} return 401; }}"
    );
    let checks = format!(
        "if ($http_authorization != \"Bearer {BEARER}\") {{ \
         add_header WWW-Authenticate 'Bearer realm=\"https://$http_host/token\",service=\"gate\"' always; return 401; }}"
    );
    let mut gated = Gated::strict(&checks, &service);
    gated.bed.binaries = gated.bed.binaries.logging("trace");
    let login = gated.bed.scratch.dir("login").unwrap();
    let auths = format!(r#"{{"auths": {{"{}": {{"identitytoken": "{IDENTITY}"}}}}}}"#, gated.host);
    fs::write(login.join("config.json"), auths).unwrap();
    let socket = gated.bed.scratch.path().join("cri.sock");
    let node = gated.node(&gated.containerds(&gated.everything()), &format!("cri_socket = {socket:?}"));
    wait_until("the kubelet's socket", LIMIT, || socket.exists()).unwrap();
    let mut pull = node.pull_command(&gated.reference());
    pull.args(["--through", "cri", "--cri-address"]).arg(&socket).env("DOCKER_CONFIG", &login);
    let pulled = pull.output().unwrap();
    assert!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));
    gated.is_lazy_on(&node);

    let jaunt = node.jaunt.as_ref().unwrap();
    assert!(jaunt.log().contains(" TRACE "), "everything is logged");
    let key = fs::read_to_string(&gated.client.key).unwrap();
    let secrets = [WORD, IDENTITY, BEARER, key.lines().nth(1).unwrap()];
    let command_line = fs::read(format!("/proc/{}/cmdline", jaunt.pid())).unwrap();
    let told =
        [status(&gated.bed, &node).to_string().into_bytes(), pulled.stdout, pulled.stderr, command_line];
    for said in told {
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(!secrets.iter().any(|secret| said.contains(secret)), "{said}");
    }
    let log = gated.bed.scratch.logs().join("jaunt.log");
    for place in [&jaunt.root(), &jaunt.run_dir(), &log] {
        assert_eq!(holding(&secrets, place), [""; 0]);
    }
    // That they were looked for is seen where they are.
    assert_eq!(holding(&secrets, &login).len(), 1);
    assert_eq!(holding(&secrets, &gated.client.key).len(), 1);
}

/// Every file at or below a path that holds one of the secrets.
fn holding(secrets: &[&str], path: &Path) -> Vec<String> {
    let mut grep = Command::new("grep");
    grep.args(["-rlaF", "--devices=skip"]).args(secrets.iter().flat_map(|secret| ["-e", secret])).arg(path);
    String::from_utf8(grep.output().unwrap().stdout).unwrap().lines().map(str::to_owned).collect()
}
