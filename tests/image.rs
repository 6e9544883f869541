//! The static binary and the image: small, needing nothing, the same bytes for the same binary, and what runs is what was packed.

mod support;

#[path = "support/container.rs"]
mod container;
#[path = "support/live.rs"]
mod live;
#[path = "support/static_binary.rs"]
mod static_binary;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use container::Plan;
use live::{find_tool, is_root};
use serde_json::Value;
use static_binary::static_binary;

/// The size that the binary stays below, in bytes; not that of a build for debugging.
const MAX_SIZE: u64 = 7 << 20;

fn build(folder: &Path, name: &str, options: &[&str]) -> (String, PathBuf) {
    let path = folder.join(name);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/image/build");
    let output = Command::new(script)
        .arg("--binary")
        .arg(static_binary())
        .arg("-o")
        .arg(&path)
        .args(options)
        .output()
        .expect("it can be started");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let digest = text.split(' ').next().unwrap_or_default().to_owned();
    (digest, path)
}

fn unpack(archive: &Path, folder: &Path) {
    fs::create_dir(folder).expect("a folder");
    let mut tar = Command::new("tar");
    let status = tar.arg("xf").arg(archive).arg("-C").arg(folder).status();
    assert!(status.expect("it can be started").success());
}

/// The blob that a descriptor stands for, which must be what it says.
fn blob(layout: &Path, descriptor: &Value) -> (PathBuf, Vec<u8>) {
    let digest = descriptor["digest"].as_str().expect("a digest");
    let name = digest.strip_prefix("sha256:").expect("of SHA-256");
    let path = layout.join("blobs/sha256").join(name);
    let bytes = fs::read(&path).expect("it is there");
    assert_eq!(descriptor["size"], bytes.len(), "{descriptor}");
    assert_eq!(sha256(&path), name);
    (path, bytes)
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum")
        .arg(path)
        .output()
        .expect("it can be started");
    let text = String::from_utf8(output.stdout).expect("text");
    text.split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn the_binary_is_static_stripped_and_small() {
    if std::env::var_os("STUCKSPY_STATIC").is_some() {
        support::report_skipped(
            "the size of the static binary",
            "STUCKSPY_STATIC names another one",
        );
        return;
    }
    let size = fs::metadata(static_binary()).unwrap().len();
    assert!(size < MAX_SIZE, "{size} bytes");
    let mut readelf = Command::new("readelf");
    let output = readelf
        .args(["-lS", "--wide"])
        .arg(static_binary())
        .output();
    let text = String::from_utf8(output.expect("it can be started").stdout).expect("text");
    assert!(
        !text.contains("INTERP") && !text.contains(".symtab"),
        "{text}"
    );
}

#[test]
fn the_image_is_what_its_digests_say_and_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (digest, one) = build(folder.path(), "one.tar", &[]);
    let (again, other) = build(folder.path(), "other.tar", &[]);
    assert_eq!(digest, again);
    assert_eq!(sha256(&one), sha256(&other));
    let (another, _) = build(folder.path(), "user.tar", &["--user", "65532"]);
    assert_ne!(digest, another);

    let layout = folder.path().join("layout");
    unpack(&one, &layout);
    let read = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).expect("JSON") };
    assert_eq!(
        read(&fs::read(layout.join("oci-layout")).unwrap())["imageLayoutVersion"],
        "1.0.0"
    );
    let index = read(&fs::read(layout.join("index.json")).unwrap());
    let descriptor = &index["manifests"][0];
    assert_eq!(descriptor["digest"], digest.as_str());
    let manifest = read(&blob(&layout, descriptor).1);
    let config = read(&blob(&layout, &manifest["config"]).1);
    assert_eq!(config["config"]["Entrypoint"][0], "/stuckspy");
    let labels: BTreeMap<String, String> =
        serde_json::from_value(config["config"]["Labels"].clone()).expect("labels");
    assert_eq!(
        labels["org.opencontainers.image.version"],
        env!("CARGO_PKG_VERSION")
    );

    let (packed, _) = blob(&layout, &manifest["layers"][0]);
    let layer = folder.path().join("layer.tar");
    let unpacked = Command::new("gzip")
        .arg("-dc")
        .arg(&packed)
        .output()
        .expect("it can be started");
    fs::write(&layer, unpacked.stdout).unwrap();
    let diff = config["rootfs"]["diff_ids"][0].as_str().expect("a digest");
    assert_eq!(format!("sha256:{}", sha256(&layer)), diff);
    let root = folder.path().join("root");
    unpack(&layer, &root);
    let names: Vec<_> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["stuckspy"]);
    assert_eq!(sha256(&root.join("stuckspy")), sha256(static_binary()));
    if !is_root("running the image") || find_tool("runc").is_none() {
        return;
    }
    let output = Plan::new()
        .with_file(&root.join("stuckspy"), "stuckspy")
        .run(&["/stuckspy", "--version"]);
    assert!(output.status.success(), "{output:?}");
}
