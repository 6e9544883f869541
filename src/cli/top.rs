//! `stuckspy top`: where the time goes, as it goes, and what is blocked. Puts the sampler, the diagnosis and the screen
//! together.

use std::io::{IsTerminal, PipeReader, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use super::args::TopArguments;
use super::exit::{ExitStatus, Failure};
use super::printer::Printer;
use super::selection::Selection;
use super::signals;
use crate::diagnose::rules::Rules;
use crate::diagnose::{DiagnoseOptions, diagnose};
use crate::export::{Format, Output, Style};
use crate::model::{Batch, Pid, SamplingEnd, SamplingStats};
use crate::profile::Choice;
use crate::redact::redact_commands;
use crate::sampler::Sampling;
use crate::snapshot::{CaptureOptions, TreeOptions, capture_tree};
use crate::sys::job_control::DeferredSuspension;
use crate::target::launch::{Launched, ProgramOutput};
use crate::tui::{self, App, AppOptions, Ending, Event, Host, Theme, blocked_rows};

/// Events that wait for the screen; a terminal that takes no output must not fill our memory.
const MAX_EVENTS: usize = 8;
/// How long to rest before the screen is offered a batch again that it did not take.
const REST: Duration = Duration::from_millis(20);
/// How often what is blocked is looked for, at most.
const LOOK: Duration = Duration::from_secs(2);
/// How much longer than a look took it is waited for the next: this keeps its cost below 5 %.
const LOOK_REST: u32 = 20;
/// How long the sampler may take to end.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long a batch may be in coming before it is said that none comes.
const MAX_SILENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether the end was asked for.
const ROUND: Duration = Duration::from_millis(100);
/// How much of what a program has printed is kept for the end.
const MAX_PRINTED: usize = 64 << 10;

/// Runs the command.
pub fn run(arguments: &TopArguments, printer: &Printer) -> Result<ExitStatus, Failure> {
    // Who counts pictures wants them one below the other.
    let has_screen = std::io::stdout().is_terminal() && arguments.count.is_none();
    if has_screen {
        check_terminal()?;
    }
    let mut printed = None;
    let selection = match arguments.target.launch.first() {
        Some(program) if has_screen => {
            let (launched, pipe) =
                Launched::start_apart(&arguments.target.launch).map_err(|source| {
                    Failure::Launch {
                        program: program.to_string_lossy().into_owned(),
                        source,
                    }
                })?;
            printed = Some(Printed::collect(pipe)?);
            Selection::Launched(launched)
        }
        // What we print goes on for as long as the program runs: both in one stream could not be read.
        _ => Selection::resolve(&arguments.target, ProgramOutput::Stderr, printer)?,
    };
    let result = watch(selection.pid(), arguments, has_screen, printer);
    // It ends with us; what it has printed is told when the terminal is its own again.
    drop(selection);
    if let Some(printed) = printed {
        printer.pass_on(&printed.take());
    }
    if let Ok(Ending::Signal(signal)) = result {
        // Whoever sent it sees that we have ended by it.
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
    result.map(|_| ExitStatus::Done)
}

/// A terminal that can't move its cursor is told from one that can by its name only.
fn check_terminal() -> Result<(), Failure> {
    match std::env::var("TERM") {
        Ok(name) if name == "dumb" || name == "unknown" => Err(Failure::Terminal(name)),
        // Programs that are started inside of containers often have none set; their terminals are real.
        _ => Ok(()),
    }
}

fn watch(
    pid: Pid,
    arguments: &TopArguments,
    has_screen: bool,
    printer: &Printer,
) -> Result<Ending, Failure> {
    let options = &arguments.sampling;
    let _deferred = options.blocking.then(DeferredSuspension::begin);
    let sampling = Sampling::start(pid, options.options())?;
    let mut app = App::new(AppOptions {
        pid,
        started_at: SystemTime::now(),
        delay: arguments.delay,
        has_early_picture: has_screen,
        threshold: arguments.threshold,
        choice: Choice {
            idle: options.idle,
            gil: options.gil,
        },
        by_function: options.function,
        without_lines: options.nolineno,
        full_filenames: options.full_filenames,
        theme: Theme::from_environment(),
    });
    let (sender, events) = mpsc::sync_channel(MAX_EVENTS);
    let workers = Workers::start(sampling, pid, arguments, &sender)?;
    let ending = if has_screen {
        let mut host = ScreenHost {
            is_held: Arc::clone(&workers.is_held),
        };
        let printer = *printer;
        let abort = move |signal| signals::abort(signal, &printer);
        tui::run(&mut app, &events, &sender, &mut host, Box::new(abort)).map_err(Failure::Output)
    } else {
        // The workers alone send: without them there is nothing to wait for.
        drop(sender);
        print_frames(&mut app, &events, arguments.count, printer)
    };
    drop(events);
    workers.stop();
    ending
}

/// Prints a frame for each picture, until the target ends, nobody reads any more, or there are enough.
fn print_frames(
    app: &mut App,
    events: &Receiver<Event>,
    count: Option<u64>,
    printer: &Printer,
) -> Result<Ending, Failure> {
    let mut printed = 0;
    for event in events {
        match event {
            Event::Batch(batch) => {
                for remark in &batch.remarks {
                    printer.warn(remark);
                }
                let had_picture = app.pictures();
                app.receive(&batch);
                if app.pictures() > had_picture {
                    let is_read =
                        printer.print_more(|out| tui::write_frame(app, SystemTime::now(), out))?;
                    printed += 1;
                    if !is_read || count.is_some_and(|count| printed >= count) {
                        return Ok(Ending::Quit);
                    }
                }
                if let Some(end) = batch.end {
                    match end {
                        SamplingEnd::TargetEnded => {
                            printer.warn(&format!("process {} ended", app.pid));
                        }
                        SamplingEnd::Stopped => {}
                        SamplingEnd::Failed(why) => printer.warn(&why),
                    }
                    return Ok(Ending::Quit);
                }
            }
            Event::Blocked(rows) => {
                app.receive_blocked(rows);
            }
            Event::Broken => return Ok(Ending::Broken),
            Event::Key(_) | Event::Resize | Event::Signal(_) | Event::InputEnded => {}
        }
    }
    Ok(Ending::Quit)
}

/// What the screen can't do itself.
struct ScreenHost {
    is_held: Arc<AtomicBool>,
}

impl Host for ScreenHost {
    fn save(&mut self, app: &App, file: &str) -> String {
        match save(app, Path::new(file)) {
            Ok(()) => match app.profile_limit() {
                Some(limit) => format!("saved to {file}; {limit}"),
                None => format!("saved to {file}"),
            },
            Err(why) => format!("not saved: {why}"),
        }
    }

    fn hold(&mut self, is_held: bool) {
        self.is_held.store(is_held, Ordering::Relaxed);
    }
}

/// Saves the profile in the format that the file's name stands for; or says why not.
fn save(app: &App, file: &Path) -> Result<(), String> {
    let format = Format::of_file_name(file).ok_or_else(|| {
        format!(
            "the name has to end in that of a format: {}",
            Format::list_endings()
        )
    })?;
    // To a FIFO it would be waited for whoever reads it, and all keys with it.
    if std::fs::metadata(file).is_ok_and(|known| !known.is_file()) {
        return Err(format!("{} is no regular file", file.display()));
    }
    let profile = app.profile();
    if profile.totals.is_empty() {
        return Err("there is nothing in it yet".to_owned());
    }
    let style = Style {
        processes: profile.processes.len() > 1,
        full_filenames: app.full_filenames,
        ..Style::default()
    };
    Output::open(file, Arc::default())
        .and_then(|mut output| output.write(|out| format.write(&profile, style, out).map(drop)))
        .map_err(|error| format!("{error}: {}", error.io()))
}

/// The threads that look at the target.
struct Workers {
    is_over: Arc<AtomicBool>,
    is_held: Arc<AtomicBool>,
    /// Its end wakes the one that looks for what is blocked.
    alive: mpsc::Sender<()>,
    sampler: JoinHandle<()>,
    looker: JoinHandle<()>,
}

impl Workers {
    fn start(
        sampling: Sampling,
        pid: Pid,
        arguments: &TopArguments,
        events: &SyncSender<Event>,
    ) -> Result<Workers, Failure> {
        let [is_over, is_held] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let (alive, ended) = mpsc::channel();
        let sampler = {
            let (events, is_over) = (events.clone(), Arc::clone(&is_over));
            spawn("batches", move || forward(sampling, &events, &is_over))?
        };
        let looker = {
            let (events, is_held) = (events.clone(), Arc::clone(&is_held));
            let (subprocesses, threshold) = (arguments.sampling.subprocesses, arguments.threshold);
            spawn("diagnosis", move || {
                look(pid, subprocesses, threshold, &events, &is_held, &ended);
            })?
        };
        Ok(Workers {
            is_over,
            is_held,
            alive,
            sampler,
            looker,
        })
    }

    /// Ends them. A look that has blocked is not waited for.
    ///
    /// # Panics
    ///
    /// When one of them has.
    fn stop(self) {
        self.is_over.store(true, Ordering::Relaxed);
        drop(self.alive);
        for worker in [
            Some(self.sampler),
            Some(self.looker).filter(JoinHandle::is_finished),
        ] {
            if let Some(Err(panic)) = worker.map(JoinHandle::join) {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Failure> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(work).map_err(|source| Failure::System {
        what: "start a thread",
        source,
    })
}

/// Tells the screen when the thread that has it fails.
struct Alarm<'a>(&'a SyncSender<Event>);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.send(Event::Broken);
        }
    }
}

/// Hands on what is sampled. While the screen takes nothing, nothing is taken from the sampler either, which then adds up.
fn forward(mut sampling: Sampling, events: &SyncSender<Event>, is_over: &AtomicBool) {
    let _alarm = Alarm(events);
    let mut waiting: Option<Box<Batch>> = None;
    let mut stats = SamplingStats::default();
    let mut silent_since = Some(Instant::now());
    while !is_over.load(Ordering::Relaxed) {
        if let Some(batch) = waiting.take() {
            match events.try_send(Event::Batch(batch)) {
                Ok(()) => {}
                Err(TrySendError::Full(Event::Batch(batch))) => {
                    waiting = Some(batch);
                    std::thread::sleep(REST);
                    continue;
                }
                Err(_) => break,
            }
        }
        let mut batch = sampling.next(ROUND);
        if let Some(batch) = &batch {
            stats = batch.stats;
            silent_since = Some(Instant::now());
        } else if silent_since.is_some_and(|since| since.elapsed() > MAX_SILENCE) {
            silent_since = None;
            batch = Some(Batch {
                stats,
                remarks: vec!["no samples for 5 s: reading the target is blocked".to_owned()],
                ..Batch::default()
            });
        }
        let Some(batch) = batch.map(Box::new) else {
            continue;
        };
        if batch.end.is_some() {
            // Nothing more comes: it can be waited for. Nobody listens when the screen is left already.
            let _ = events.send(Event::Batch(batch));
            return;
        }
        waiting = Some(batch);
    }
    let _ = sampling.finish(GOODBYE);
}

/// Looks for what is blocked, again and again.
fn look(
    pid: Pid,
    subprocesses: bool,
    threshold: Duration,
    events: &SyncSender<Event>,
    is_held: &AtomicBool,
    ended: &Receiver<()>,
) {
    let _alarm = Alarm(events);
    let options = TreeOptions {
        capture: CaptureOptions {
            looks_for_listeners: true,
            ..CaptureOptions::default()
        },
        subprocesses,
        holders_after: None,
    };
    loop {
        let began = Instant::now();
        if !is_held.load(Ordering::Relaxed)
            // When it has ended, the sampler says so.
            && let Ok(mut tree) = capture_tree(pid, options)
        {
            redact_commands(&mut tree.processes);
            let rules = Rules::built_in();
            diagnose(
                &mut tree.processes,
                DiagnoseOptions {
                    threshold,
                    rules,
                    observed: None,
                    idle_by_values: None,
                },
            );
            // The next look replaces one that does not get through.
            let _ = events.try_send(Event::Blocked(blocked_rows(&tree.processes)));
        }
        let rest = LOOK.max(began.elapsed().saturating_mul(LOOK_REST));
        match ended.recv_timeout(rest) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// The end of what a program has printed.
struct Printed {
    kept: Arc<Mutex<Vec<u8>>>,
}

impl Printed {
    /// Reads all of it, on a thread that ends with the program's output.
    fn collect(mut pipe: PipeReader) -> Result<Printed, Failure> {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let printed = Printed {
            kept: Arc::clone(&kept),
        };
        spawn("output", move || {
            let mut bytes = [0; 4096];
            loop {
                match pipe.read(&mut bytes) {
                    Ok(0) => return,
                    Ok(count) => {
                        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                        kept.extend_from_slice(&bytes[..count]);
                        if kept.len() > 2 * MAX_PRINTED {
                            let surplus = kept.len() - MAX_PRINTED;
                            kept.drain(..surplus);
                        }
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(_) => return,
                }
            }
        })?;
        Ok(printed)
    }

    fn take(&self) -> Vec<u8> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let surplus = kept.len().saturating_sub(MAX_PRINTED);
        kept.drain(..surplus);
        std::mem::take(&mut kept)
    }
}
