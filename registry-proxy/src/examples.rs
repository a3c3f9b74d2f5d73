//! What `--help` shows of each command's use, word for word as it can be typed.

pub const CONVERT: &str = "Examples:
  jaunt-proxy convert registry.example/team/app:v1
  jaunt-proxy convert --all-tags --dry-run registry.example/team/app
  jaunt-proxy convert --to oci:./layout:v1 registry.example/team/app:v1";
pub const REVERT: &str = "Examples:
  jaunt-proxy revert registry.example/team/app:v1";
pub const OPTIMIZE: &str = "Examples:
  jaunt-proxy optimize --trace t1 --trace t2 registry.example/team/app:v1
  jaunt-proxy optimize --gather --consume registry.example/team/app:v1
  jaunt-proxy optimize --from registry.example/team/app:v1 registry.example/team/app:v2";
pub const DETACH: &str = "Examples:
  jaunt-proxy detach registry.example/team/app:v1";
pub const COPY: &str = "Examples:
  jaunt-proxy copy registry.example/team/app:v1 other.example/team/app:v1";
pub const VERIFY: &str = "Examples:
  jaunt-proxy verify registry.example/team/app:v1
  jaunt-proxy verify --key cosign.pub --originals registry.example/team/app:v1";
pub const SIGN: &str = "Examples:
  jaunt-proxy sign --sign-key cosign.key registry.example/team/app:v1";
pub const INSPECT: &str = "Examples:
  jaunt-proxy inspect registry.example/team/app:v1
  jaunt-proxy inspect ./layer.zst";
pub const COMPLETIONS: &str = "Examples:
  jaunt-proxy completions bash
  jaunt-proxy completions zsh";
