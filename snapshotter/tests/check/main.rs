//! `check`: each part of the state damaged, found, repaired where that is safe, and served again.
#![allow(clippy::unwrap_used)]

mod state;

use std::fs;

use serde_json::json;
use state::{PINS, SNAPSHOTS, State, codes};

/// What is left after a repair, by their codes, and what was repaired.
fn repaired(state: &State, flag: &str) -> (Vec<String>, Vec<String>) {
    let (report, _) = state.check(&[flag, "--deep"]);
    (codes(&report["findings"]), codes(&report["repaired"]))
}

#[tokio::test]
async fn a_sound_state_is_sound_with_and_without_its_daemon() {
    let state = State::new().await;
    let before = fs::read(state.root("meta.redb")).unwrap();
    assert_eq!(state.codes(&["--deep"]), [""; 0]);
    assert_eq!(
        fs::read(state.root("meta.redb")).unwrap(),
        before,
        "a check that repairs nothing writes nothing"
    );
    assert_eq!(repaired(&state, "--repair"), (vec![], vec![]));
    let daemon = state.serve();
    let (report, code) = state.check(&["--deep"]);
    assert_eq!((&report["live"], &report["snapshots"], code), (&json!(true), &json!(4), Some(0)), "{report}");
    let refused = state.check_output(&["--repair"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        said.contains("stop the daemon") && said.contains(&format!("pid {}", daemon.child.id())),
        "{said}"
    );
}

#[tokio::test]
async fn what_can_be_tidied_up_is_no_fault_and_goes() {
    let state = State::new().await;
    let unused = "1".repeat(64);
    for directory in ["snapshots/77/fs", "trash/9", &format!("layers/{unused}/v3-00")] {
        fs::create_dir_all(state.root(directory)).unwrap();
    }
    fs::create_dir_all(state.root("erofs")).unwrap();
    for file in ["index/new-1-x", &format!("index/{unused}"), "layers/.probe", &format!("erofs/{unused}-1")] {
        fs::write(state.root(file), "x").unwrap();
    }
    let mut found = state.codes(&[]);
    found.sort();
    let expected = [
        "discarded",
        "left-over",
        "left-over",
        "stray-directory",
        "unused-image",
        "unused-index",
        "unused-layer",
    ];
    assert_eq!(found, expected);
    let (left, mut done) = repaired(&state, "--repair");
    done.sort();
    assert_eq!((left, done), (vec![], expected.map(str::to_owned).to_vec()));
    assert_eq!(state.serve().names().unwrap().len(), 4);
}

#[tokio::test]
async fn what_is_of_unknown_making_is_left_alone() {
    let state = State::new().await;
    fs::write(state.root("snapshots/README"), "mine").unwrap();
    assert_eq!(repaired(&state, "--give-up"), (vec!["unknown".to_owned()], vec![]));
    assert!(state.root("snapshots/README").exists());
}

#[tokio::test]
async fn a_work_directory_is_made_again() {
    let state = State::new().await;
    fs::remove_dir(state.root("snapshots/4/work")).unwrap();
    assert_eq!(state.codes(&[]), ["work-missing"]);
    assert_eq!(repaired(&state, "--repair"), (vec![], vec!["work-missing".to_owned()]));
    assert!(state.root("snapshots/4/work").is_dir());
}

#[tokio::test]
async fn files_that_are_gone_are_given_up_only_when_that_is_asked_for() {
    let state = State::new().await;
    fs::remove_dir_all(state.root("snapshots/3")).unwrap();
    assert_eq!(state.codes(&[]), ["files-missing"]);
    assert_eq!(repaired(&state, "--repair"), (vec!["files-missing".to_owned()], vec![]));
    // What stood on it goes with it, files and all, and both records are kept aside.
    let (left, done) = repaired(&state, "--give-up");
    assert_eq!(
        (left, done),
        (vec![], ["files-missing", "parent-missing", "stray-directory"].map(str::to_owned).to_vec())
    );
    let dropped = fs::read_to_string(state.root("dropped-records")).unwrap();
    assert!(dropped.lines().count() == 2 && dropped.contains("container"), "{dropped}");
    let mut names = state.serve().names().unwrap();
    names.sort();
    let mut lazy = state.names[..2].to_vec();
    lazy.sort();
    assert_eq!(names, lazy);
}

#[tokio::test]
async fn an_index_that_is_damaged_or_gone_takes_its_chain_with_it() {
    for damage in ["damaged", "gone"] {
        let state = State::new().await;
        let mut bytes = fs::read(state.index_path()).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        match damage {
            "damaged" => fs::write(state.index_path(), bytes).unwrap(),
            _ => fs::remove_file(state.index_path()).unwrap(),
        }
        let code = if damage == "damaged" { "index-damaged" } else { "index-missing" };
        assert_eq!(state.codes(&[]), [code]);
        // The other mounts would be served all the same.
        {
            let _daemon = state.serve();
            assert_eq!(state.codes(&[]), [code], "beside a daemon as well");
        }
        let (left, done) = repaired(&state, "--give-up");
        assert_eq!(left, [""; 0], "{damage}");
        assert!(done.contains(&code.to_owned()) && done.contains(&"parent-missing".to_owned()), "{done:?}");
        assert_eq!(state.serve().names().unwrap(), [""; 0]);
    }
}

#[tokio::test]
async fn records_that_make_no_sense_are_found() {
    let state = State::new().await;
    state.put(PINS, "no pin", Some(b"\"x\""));
    state.put(SNAPSHOTS, "torn", Some(b"{\"name\":"));
    let mut ring = state.record("eager");
    ring["parent"] = json!("eager");
    state.put(SNAPSHOTS, "eager", Some(ring.to_string().as_bytes()));
    let mut other = state.record(&state.names[1]);
    other["backing"]["lazy"]["prefix"] = json!(1);
    state.put(SNAPSHOTS, &state.names[1], Some(other.to_string().as_bytes()));
    let mut found = state.codes(&[]);
    found.sort();
    assert_eq!(found, ["chain-mismatch", "parent-ring", "record-unreadable", "record-unreadable"]);
    let (left, done) = repaired(&state, "--repair");
    assert_eq!((left.len(), done), (3, vec!["record-unreadable".to_owned()]), "a pin is found again");
    let (left, _) = repaired(&state, "--give-up");
    assert_eq!(left, [""; 0]);
    assert_eq!(state.serve().names().unwrap(), [state.names[0].as_str()]);
}

/// Whose files these are is in the record that cannot be read.
#[tokio::test]
async fn what_a_container_has_written_outlives_its_record() {
    let state = State::new().await;
    fs::write(state.root("snapshots/4/fs/data"), "written").unwrap();
    fs::create_dir_all(state.root("trash/9")).unwrap();
    let index = state.root(&format!("index/{}", "1".repeat(64)));
    fs::write(&index, "x").unwrap();
    state.put(SNAPSHOTS, "container", Some(b"{\"name\":"));
    let mut found = state.codes(&[]);
    found.sort();
    assert_eq!(found, ["discarded", "record-unreadable", "stray-directory", "unused-index"]);
    let (left, done) = repaired(&state, "--repair");
    assert_eq!((left.len(), done), (4, vec![]));
    assert_eq!(fs::read(state.root("snapshots/4/fs/data")).unwrap(), b"written");
    assert!(state.root("trash/9").exists() && index.exists() && state.layer_path().exists());
    let (left, _) = repaired(&state, "--give-up");
    assert_eq!(left, ["unknown"]);
    assert_eq!(fs::read(state.root("snapshots/4.aside-1/fs/data")).unwrap(), b"written");
    assert!(fs::read_to_string(state.root("dropped-records")).unwrap().contains("container"));
    assert_eq!(state.serve().names().unwrap().len(), 3);
    assert!(state.root("snapshots/4.aside-1/fs/data").exists(), "the daemon leaves it alone");
}

#[tokio::test]
async fn a_directory_without_a_database_loses_nothing_to_a_repair() {
    let state = State::new().await;
    fs::remove_file(state.root("meta.redb")).unwrap();
    fs::remove_dir_all(state.root("snapshots")).unwrap();
    for directory in ["index", "layers", "trash", "erofs"] {
        fs::create_dir_all(state.root(directory)).unwrap();
        fs::write(state.root(directory).join("somebody's"), "x").unwrap();
    }
    assert_eq!(repaired(&state, "--give-up").1, [""; 0]);
    for directory in ["index", "layers", "trash", "erofs"] {
        assert!(state.root(directory).join("somebody's").exists(), "{directory}");
    }
    assert!(state.index_path().exists() && state.layer_path().exists());
}

#[tokio::test]
async fn a_name_of_no_index_is_not_taken_for_a_left_over() {
    let state = State::new().await;
    fs::write(state.root("index/README"), "mine").unwrap();
    assert_eq!(repaired(&state, "--give-up"), (vec!["unknown".to_owned()], vec![]));
    assert!(state.root("index/README").exists());
}

#[tokio::test]
async fn one_id_for_two_and_a_parent_that_changes_are_found() {
    let state = State::new().await;
    let mut twin = state.record("container");
    twin["name"] = json!("twin");
    twin["parent"] = json!("container");
    state.put(SNAPSHOTS, "twin", Some(twin.to_string().as_bytes()));
    let mut found = state.codes(&[]);
    found.sort();
    assert_eq!(found, ["id-twice", "parent-not-committed"]);
}

#[tokio::test]
async fn a_database_beyond_repair_is_put_aside_with_what_it_knew() {
    for damage in ["gone", "garbage", "cut"] {
        let state = State::new().await;
        let database = state.root("meta.redb");
        let bytes = fs::read(&database).unwrap();
        match damage {
            "gone" => fs::remove_file(&database).unwrap(),
            "garbage" => fs::write(&database, [0x5a; 100_000]).unwrap(),
            _ => fs::write(&database, &bytes[..bytes.len() / 3]).unwrap(),
        }
        let code = if damage == "gone" { "database-missing" } else { "database-unreadable" };
        assert_eq!(state.codes(&[]), [code], "{damage}");
        assert_eq!(repaired(&state, "--repair").0, [code]);
        assert!(state.root("snapshots/4/fs").is_dir(), "{damage}: nothing is touched");
        let (_, done) = repaired(&state, "--give-up");
        assert_eq!(done[0], code);
        assert!(state.root("snapshots.aside-1/4/fs").is_dir(), "{damage}: a container's files are kept");
        assert_eq!(state.serve().names().unwrap(), [""; 0]);
    }
}

#[tokio::test]
async fn a_layer_that_is_marked_complete_and_is_not_is_mended() {
    let state = State::new().await;
    fs::write(state.layer_path().join("complete"), "").unwrap();
    assert_eq!(state.codes(&[]), ["layer-incomplete"]);
    assert_eq!(repaired(&state, "--repair"), (vec![], vec!["layer-incomplete".to_owned()]));
    assert!(!state.layer_path().join("complete").exists());
    fs::write(state.layer_path().join("units"), [b'x'; 100]).unwrap();
    assert_eq!(state.codes(&[]), ["layer-record"]);
    let (left, done) = repaired(&state, "--repair");
    assert_eq!((left, done), (vec![], vec!["layer-record".to_owned(), "left-over".to_owned()]));
}

#[tokio::test]
async fn what_is_in_quarantine_or_has_no_source_is_told() {
    let state = State::new().await;
    fs::create_dir_all(state.root("layers/verdicts")).unwrap();
    fs::write(state.root(&format!("layers/verdicts/index-{}", state.index.hex())), "it lied").unwrap();
    state.put("sources.v1", &state.index.hex(), None);
    assert_eq!(state.codes(&[]), ["sources-missing", "quarantined"]);
    assert_eq!(repaired(&state, "--give-up").1, [""; 0], "that is for whoever pulls");
}

#[tokio::test]
async fn the_store_is_pruned_by_its_daemon_and_without_one() {
    for with_daemon in [true, false] {
        let state = State::new().await;
        let _daemon = with_daemon.then(|| state.serve());
        let unused = state.root(&format!("layers/{}/v3-00", "1".repeat(64)));
        fs::create_dir_all(&unused).unwrap();
        fs::write(unused.join("data"), [7; 10_000]).unwrap();
        let told = state.prune(&["--dry-run"]);
        assert_eq!(told["layers"][0]["path"], unused.to_str().unwrap(), "{told}");
        assert!(told["freed_bytes"].as_u64() >= Some(10_000) && unused.exists(), "{told}");
        let done = state.prune(&[]);
        assert_eq!(done["freed_bytes"], told["freed_bytes"]);
        assert!(!unused.exists() && state.layer_path().exists(), "what a snapshot uses stays");
        assert_eq!(state.prune(&[])["freed_bytes"], 0);
        state.prune(&["--all"]);
        assert!(!state.layer_path().exists(), "nobody has it open");
    }
}

#[tokio::test]
async fn a_status_tells_of_images_and_health_again_and_again() {
    let state = State::new().await;
    let daemon = state.serve();
    let (mut watching, lines) = daemon.watch();
    let statuses: Vec<serde_json::Value> =
        lines.take(2).map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    let _ = watching.kill();
    let _ = watching.wait();
    for status in &statuses {
        assert_eq!(status["health"]["worker_restarts"], 0, "{status}");
        assert_eq!(status["health"]["supervisor_pid"], daemon.child.id());
        assert_eq!(status["snapshots"].as_array().unwrap().len(), 4);
    }
}

#[tokio::test]
async fn a_status_is_asked_for_on_while_the_daemon_is_replaced() {
    let state = State::new().await;
    let first = state.serve();
    let (mut watching, mut lines) = first.watch();
    lines.next().unwrap().unwrap();
    drop(first);
    let mut told = std::io::BufRead::lines(std::io::BufReader::new(watching.stderr.take().unwrap()));
    let told = told.next().unwrap().unwrap();
    assert!(told.contains("the daemon is not reachable") && told.ends_with("asked again"), "{told}");
    let second = state.serve();
    let supervisors = lines.map(|line| {
        let status: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        status["health"]["supervisor_pid"].as_u64().unwrap()
    });
    let pid = u64::from(second.child.id());
    assert!(supervisors.into_iter().any(|supervisor| supervisor == pid));
    let _ = watching.kill();
    let _ = watching.wait();
}

#[test]
fn a_daemon_that_is_dead_or_hangs_is_an_error_in_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    let status = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_jaunt-snapshotter"));
        let output = command.args(["status", "--socket"]).arg(&socket).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = status();
    assert!(code == Some(1) && said.contains("not reachable at"), "{said}");
    let _hangs = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let (code, said) = status();
    assert!(code == Some(1) && said.contains("does not answer within"), "{said}");
}

#[test]
fn a_state_that_is_not_there_is_no_sound_state() {
    let nowhere = std::process::Command::new(env!("CARGO_BIN_EXE_jaunt-snapshotter"))
        .args(["check", "--config", "/dev/null", "--root", "/nowhere/jaunt"])
        .output()
        .unwrap();
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("no state directory /nowhere/jaunt"));
}
