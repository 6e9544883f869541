//! The kernel's files of a process, and text that a process has chosen.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stuckspy::report::sanitize::Shown;
use stuckspy::target::fdinfo::FdInfo;
use stuckspy::target::fds::parse_fd_link;
use stuckspy::target::file_locks::parse_locks;
use stuckspy::target::image::mapped_files;
use stuckspy::target::maps::{find_mapping, parse_maps};
use stuckspy::target::mounts::parse_mounts;
use stuckspy::target::status::{Stat, Status};
use stuckspy::target::tasks::{parse_exec_start, parse_syscall};

fuzz_target!(|bytes: &[u8]| {
    if let Some(stat) = Stat::parse(bytes) {
        let _ = (stat.start_time(), stat.cpu_time(), stat.is_kernel_thread());
        assert!(stat.comm.len() < bytes.len());
    }
    let status = Status::parse(bytes);
    assert_eq!(status.innermost_pid(), status.ns_pids.last().copied());
    let _ = (
        parse_syscall(bytes),
        parse_exec_start(bytes),
        parse_fd_link(bytes),
        FdInfo::parse(bytes),
    );
    let lines = bytes.split(|byte| *byte == b'\n').count();
    assert!(parse_locks(bytes).len() <= lines && parse_mounts(bytes).len() <= lines);

    let mappings = parse_maps(bytes);
    for mapping in &mappings {
        assert!(mapping.size() > 0 && mapping.contains(mapping.start));
        assert!(!mapping.contains(mapping.end));
        if let Some(found) = find_mapping(&mappings, mapping.start) {
            assert!(found.contains(mapping.start));
        }
        let _ = (mapping.path(), mapping.is_deleted());
    }
    if mappings.windows(2).all(|pair| pair[0].end <= pair[1].start) {
        for mapping in &mappings {
            assert_eq!(find_mapping(&mappings, mapping.start), Some(mapping));
        }
    }
    assert!(mapped_files(&mappings).len() <= mappings.len());

    let text = String::from_utf8_lossy(bytes);
    let shown = Shown(&text).to_string();
    let acts = |letter: char| letter.is_control() || ('\u{202a}'..='\u{202e}').contains(&letter);
    assert!(!shown.chars().any(acts));
});
