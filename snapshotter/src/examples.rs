//! What `--help` shows of each command's use, word for word as it can be typed.

pub(crate) const SERVE: &str = "Examples:
  jaunt-snapshotter serve
  jaunt-snapshotter serve --config /etc/jaunt/snapshotter.toml --log-format json";
pub(crate) const PULL: &str = "Examples:
  jaunt-snapshotter pull registry.example/team/app:v1
  jaunt-snapshotter pull --json --through cri registry.example/team/app:v1";
pub(crate) const MATERIALISE: &str = "Examples:
  jaunt-snapshotter materialise registry.example/team/app:v1
  jaunt-snapshotter materialise --namespace moby docker.io/library/app:v1";
pub(crate) const STATUS: &str = "Examples:
  jaunt-snapshotter status
  jaunt-snapshotter status --watch 10
  jaunt-snapshotter status --json";
pub(crate) const PRUNE: &str = "Examples:
  jaunt-snapshotter prune --dry-run
  jaunt-snapshotter prune --all";
pub(crate) const CHECK: &str = "Examples:
  jaunt-snapshotter check
  jaunt-snapshotter check --deep --json
  jaunt-snapshotter check --repair";
pub(crate) const INSTALL: &str = "Examples:
  jaunt-snapshotter install --print
  jaunt-snapshotter install --start
  jaunt-snapshotter install --host-root /host --start";
pub(crate) const UNINSTALL: &str = "Examples:
  jaunt-snapshotter uninstall --drain --stop
  jaunt-snapshotter uninstall --stop";
pub(crate) const MOUNT: &str = "Examples:
  jaunt-snapshotter mount registry.example/team/app:v1 /mnt/app
  jaunt-snapshotter mount --complete --platform linux/arm64 registry.example/team/app:v1 /mnt/app";
pub(crate) const TRACE: &str = "Examples:
  jaunt-snapshotter trace ls
  jaunt-snapshotter trace registry.example/team/app --output trace.json";
pub(crate) const UMOUNT: &str = "Examples:
  jaunt-snapshotter umount /mnt/app";
pub(crate) const COMPLETIONS: &str = "Examples:
  jaunt-snapshotter completions bash
  jaunt-snapshotter completions zsh";
