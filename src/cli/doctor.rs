//! `stuckspy doctor`: what can be read from here, and the one change that would give more.

use std::io::{self, Write};

use super::args::DoctorArguments;
use super::exit::{ExitStatus, Failure};
use super::hints::advice_text;
use super::printer::Printer;
use super::worker_link;
use crate::model::Pid;
use crate::snapshot::DEFAULT_TIME;
use crate::target::Target;
use crate::target::access::{AccessReport, Advice, Ourselves, Them};
use crate::target::candidates::{Choice, choose};

/// What reading memory needs.
const MEMORY: &str = "PTRACE_MODE_ATTACH";

/// What stands in files that belong to the target's user.
const FILES: [&str; 2] = ["current system calls", "file descriptors"];

/// Runs the command.
pub fn run(arguments: &DoctorArguments, printer: &Printer) -> Result<ExitStatus, Failure> {
    worker_link::reading_ends_within(DEFAULT_TIME);
    // Beside a container it is clear who is meant.
    let neighbour = || match choose(true) {
        Choice::Neighbour(pid) => Target::open(pid).ok(),
        _ => None,
    };
    let target = match arguments.pid {
        Some(pid) => Some(Target::open(Pid(pid))?),
        None => neighbour(),
    };
    let report = AccessReport::probe(target.as_ref());
    printer.print(|out| write_report(&report, out))?;
    Ok(match report.access.ptrace {
        Some(false) => ExitStatus::Denied,
        _ if report.advice == Advice::Files => ExitStatus::Denied,
        None if report.them.as_ref().is_some_and(|them| !them.has_memory) => ExitStatus::Unreadable,
        _ => ExitStatus::Done,
    })
}

fn write_report(report: &AccessReport, out: &mut dyn Write) -> io::Result<()> {
    write_ourselves(&report.ourselves, out)?;
    let Some(them) = &report.them else {
        writeln!(
            out,
            "\nname a process by --pid to check what can be read of it"
        )?;
        return Ok(());
    };
    writeln!(out)?;
    write_them(them, out)?;
    let access = report.access;
    let rows = [
        ("memory (stacks, names, the GIL)", access.ptrace, MEMORY),
        (FILES[0], access.syscall, "PTRACE_MODE_ATTACH"),
        (FILES[1], access.fds, "PTRACE_MODE_READ"),
        (
            "duplicates of its sockets",
            access.pidfd_getfd,
            "PTRACE_MODE_ATTACH, Linux 5.6",
        ),
        (
            "mapped files, also deleted ones",
            access.map_files,
            "CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE",
        ),
        ("kernel stacks", access.kernel_stack, "CAP_SYS_ADMIN"),
    ];
    writeln!(out, "\nwhat can be read of it (each was tried):")?;
    let refused = "no: a seccomp filter refuses process_vm_readv; /proc/PID/mem is read instead, which is slower";
    for (what, outcome, needs) in rows {
        let answer = match outcome {
            Some(true) => "yes".to_owned(),
            Some(false) if FILES.contains(&what) && access.ptrace == Some(true) => {
                "no; the file belongs to the target's user: needs CAP_DAC_OVERRIDE too".to_owned()
            }
            Some(false) => format!("no; needs {needs}"),
            None => "unknown".to_owned(),
        };
        writeln!(out, "  {what:<34}{answer}")?;
        if outcome == access.ptrace && needs == MEMORY && access.vectored == Some(false) {
            writeln!(out, "  {:<34}{refused}", "many addresses per system call")?;
        }
    }
    match advice_text(report) {
        Some(advice) => writeln!(out, "\nsuggestion: {advice}"),
        None => Ok(()),
    }
}

fn write_ourselves(ourselves: &Ourselves, out: &mut dyn Write) -> io::Result<()> {
    let yes_no = |value: bool| if value { "yes" } else { "no" };
    let bounds = match (ourselves.cap_sys_ptrace, ourselves.cap_sys_ptrace_in_bounds) {
        (false, true) => " (in the bounding set: root could have it here)",
        _ => "",
    };
    writeln!(out, "stuckspy:")?;
    writeln!(out, "  {:<34}{}", "effective user", ourselves.uid)?;
    writeln!(
        out,
        "  {:<34}{}{bounds}",
        "CAP_SYS_PTRACE",
        yes_no(ourselves.cap_sys_ptrace)
    )?;
    writeln!(
        out,
        "  {:<34}{}",
        "CAP_SYS_ADMIN",
        yes_no(ourselves.cap_sys_admin)
    )?;
    writeln!(
        out,
        "  {:<34}{}",
        "no_new_privs",
        yes_no(ourselves.no_new_privs)
    )?;
    writeln!(
        out,
        "  {:<34}{}",
        "seccomp filter",
        yes_no(ourselves.seccomp)
    )?;
    writeln!(
        out,
        "  {:<34}{}",
        "in a container",
        yes_no(ourselves.in_container)
    )?;
    if let Some(value) = &ourselves.hidepid {
        writeln!(
            out,
            "  {:<34}hidepid={value}: only from those without CAP_SYS_PTRACE",
            "/proc hides processes"
        )?;
    }
    let yama = match ourselves.yama {
        None => "not in this kernel".to_owned(),
        Some(0) => "0: no restriction".to_owned(),
        Some(1) => "1: own descendants, or CAP_SYS_PTRACE".to_owned(),
        Some(2) => "2: CAP_SYS_PTRACE only".to_owned(),
        Some(scope) => format!("{scope}: nobody may attach"),
    };
    writeln!(out, "  {:<34}{yama}", "kernel.yama.ptrace_scope")
}

fn write_them(them: &Them, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "process {}:", them.pid)?;
    if them.is_kernel_thread {
        return writeln!(
            out,
            "  {:<34}it has no memory of its own",
            "a kernel thread"
        );
    }
    if !them.has_memory {
        return writeln!(
            out,
            "  {:<34}it has ended, and its parent has not reaped it",
            "a zombie"
        );
    }
    let unknown = || "unknown".to_owned();
    let uid = them.uid.map_or_else(unknown, |uid| uid.to_string());
    writeln!(out, "  {:<34}{uid}", "effective user")?;
    let dumpable = if them.undumpable {
        "no: its files in /proc belong to root"
    } else {
        "yes"
    };
    writeln!(out, "  {:<34}{dumpable}", "dumpable")?;
    let tracer = them
        .tracer
        .map_or("nobody".to_owned(), |tracer| format!("process {tracer}"));
    writeln!(out, "  {:<34}{tracer}", "traced by")?;
    let namespace = match them.other_user_namespace {
        Some(true) => "not ours".to_owned(),
        Some(false) => "ours".to_owned(),
        None => unknown(),
    };
    writeln!(out, "  {:<34}{namespace}", "user namespace")
}
