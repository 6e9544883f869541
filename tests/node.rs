//! From the node: containers and pods are named, both numbers of a process are shown, and the other end of a connection is found in
//! another pod's network.

mod support;

#[path = "support/container.rs"]
mod container;
#[path = "support/live.rs"]
mod live;
#[path = "support/pod.rs"]
mod pod;
#[path = "support/static_binary.rs"]
mod static_binary;

use std::process::Command;

use container::{Container, Plan};
use live::{ask_about, assert_at_large, find_tool, wait_until};
use pod::{can_run, image, interpreter, python};
use serde_json::Value;
use support::report_skipped;
use support::schema::find_schema_errors;

const POD: &str = "0f9f8b3e-6b8e-4c7e-9d2b-6a3f2f1b1c11";
const OTHER_POD: &str = "1a9f8b3e-6b8e-4c7e-9d2b-6a3f2f1b1c11";

/// Listens at its pod's address, takes one connection and never answers.
const SERVER: &str = "\
import socket, sys
listener = socket.socket()
listener.bind(('0.0.0.0', 7000))
listener.listen(1)
print('ready')
sys.stdout.flush()
kept = listener.accept()
input()
";

/// Calls the address that it is told, asks, and waits.
const CLIENT: &str = "\
import socket, sys
print('ready')
sys.stdout.flush()
connection = socket.create_connection((input(), 7000))
connection.settimeout(None)
connection.sendall(b'question')
connection.recv(1)
";

/// The ways in which the two drivers of cgroups write a container of a pod.
fn cgroup(pod: &str, id: &str, is_systemd: bool) -> String {
    if is_systemd {
        let pod = pod.replace('-', "_");
        return format!(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{pod}.slice/cri-containerd-{id}.scope"
        );
    }
    format!("/kubepods/burstable/pod{pod}/{id}")
}

/// Joins the networks of two containers by a cable; whether that can be done here.
fn join(one: &Container, other: &Container) -> bool {
    let (one, other) = (one.pid().to_string(), other.pid().to_string());
    let run = |words: &[&str]| {
        let mut command = Command::new(words[0]);
        let output = command.args(&words[1..]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let inside = |pid: &str, words: &[&str]| {
        run(&[&["nsenter", "--net", "--target", pid, "ip"], words].concat())
    };
    // They are made inside, so that nothing is left here whatever happens; they go with the containers.
    inside(
        &one,
        &[
            "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &other,
        ],
    ) && [(&one, "10.77.0.1/24"), (&other, "10.77.0.2/24")]
        .iter()
        .all(|(pid, address)| {
            inside(pid, &["addr", "add", address, "dev", "eth0"])
                && inside(pid, &["link", "set", "eth0", "up"])
        })
}

#[test]
fn pods_are_named_and_peers_found_in_other_networks() {
    let tools = ["ip", "nsenter"].map(find_tool);
    if !can_run("the view from a node") || tools.iter().any(Option::is_none) {
        return;
    }
    let Some(interpreter) = interpreter(11) else {
        return;
    };
    let (id, other_id) = ("4".repeat(64), "5".repeat(64));
    let plan = |cgroup: &str| -> Plan { image(interpreter).with_cgroup(cgroup) };
    let server = plan(&cgroup(POD, &id, true)).start(&[python(interpreter), "-c", SERVER]);
    let client =
        plan(&cgroup(OTHER_POD, &other_id, false)).start(&[python(interpreter), "-c", CLIENT]);
    let (server, mut client) = (server.0, client.0);
    if !join(&client, &server) {
        report_skipped("peers in other networks", "no veth here");
        return;
    }
    client.say("10.77.0.2");

    let mut document = Value::Null;
    wait_until("the client waits for its answer", || {
        document = ask_about(
            "diagnose",
            client.pid(),
            &["--json", "--threshold", "300ms"],
        )
        .expect_one_of(&[0, 1])
        .json();
        !document["findings"][0].is_null()
    });
    let errors = find_schema_errors("diagnosis", &document);
    assert_eq!(errors, Vec::<String>::new());
    let finding = &document["findings"][0];
    assert_eq!(finding["verdict"], "hang-network", "{finding:#}");
    let process = &document["processes"][0];
    assert_eq!(process["ns_pid"], 1);
    assert_eq!(process["container"]["id"], other_id.as_str());
    assert_eq!(process["container"]["engine"], Value::Null);
    assert_eq!(process["container"]["pod_uid"], OTHER_POD);
    let wait = &process["threads"][0]["wait"];
    assert_eq!(wait["resource"]["peer"], "10.77.0.2:7000", "{wait:#}");
    // Another network may have the same addresses: it is not proven.
    assert_eq!(wait["holder"]["pid"], server.pid(), "{wait:#}");
    assert_eq!(wait["holder"]["confidence"], "inferred", "{wait:#}");
    let related = &document["processes"][1];
    assert_eq!(related["pid"], server.pid(), "{related:#}");
    assert_eq!(related["container"]["id"], id.as_str());
    assert_eq!(related["container"]["engine"], "containerd");
    assert_eq!(related["container"]["pod_uid"], POD);

    let dump = ask_about("dump", server.pid(), &["--json"]).expect(0);
    let dump = dump.json();
    assert_eq!(find_schema_errors("dump", &dump), Vec::<String>::new());
    for field in ["ns_pid", "container"] {
        assert_eq!(dump["processes"][0][field], related[field]);
    }

    let text = ask_about("dump", server.pid(), &[]).expect(0);
    let line = text.stdout.lines().nth(1).unwrap_or_default();
    let wanted = format!(
        "process 1 in its own pid namespace, in container 444444444444 (containerd) of pod {POD}"
    );
    assert!(line.contains(&wanted), "{text:#?}");
    for container in [&server, &client] {
        assert_at_large(container.pid());
    }
}
