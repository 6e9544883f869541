//! Finding the CPython in a process by a ladder of named methods, each proven before it is believed.

use std::fmt;

use thiserror::Error;

use super::layout::debug_offsets::{self, OffsetsError};
use super::layout::{Layout, UnicodeLayout, find_table};
use super::runtime::{Root, Runtime};
use super::scan::{find_cookie, find_interpreter};
use super::version::{Version, find_version_text, version_in_name};
use crate::model::{Address, RuntimeInfo};
use crate::sys::memory::{PageView, RemoteMemory};
use crate::sys::procfile::ProcDir;
use crate::target::image::{ElfImage, MappedFile, mapped_files};
use crate::target::maps::{Mapping, find_mapping};

/// Most files that are looked into.
const MAX_IMAGES: usize = 4096;
/// How often what a running process may have changed meanwhile is looked at again.
const MAX_TRIES: usize = 20;
/// How a runtime was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `_PyRuntime` or `_PyThreadState_Current` among the dynamic symbols, read from the target's memory.
    DynamicSymbol,
    /// The section `.PyRuntime` of the file (3.13+).
    Section,
    /// The same symbols, or `interp_head`, in the file's `.symtab`.
    StaticSymbol,
    /// The first bytes of `_Py_DebugOffsets` in writable data (3.13+).
    Cookie,
    /// A pointer in writable data that leads to an interpreter, to its thread, and back.
    Scan,
}

impl Method {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Method::DynamicSymbol => "dynamic-symbol",
            Method::Section => "section",
            Method::StaticSymbol => "static-symbol",
            Method::Cookie => "cookie",
            Method::Scan => "scan",
        }
    }
}

/// What was tried and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The method.
    pub method: Method,
    /// The file, lossily.
    pub image: String,
    /// What came of it.
    pub outcome: String,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} in {}: {}",
            self.method.name(),
            self.image,
            self.outcome
        )
    }
}

/// Why no CPython was found.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DetectError {
    /// Nothing looks like one.
    #[error("no Python found in it (looked into {images} mapped files)")]
    NotPython {
        /// How many files were looked into.
        images: usize,
    },
    /// There is one, but it can't be read.
    #[error("found a Python that can't be read: {}", .0.last().map(ToString::to_string).unwrap_or_default())]
    Unreadable(Vec<Attempt>),
}

/// What is known of the process before its Python is looked for.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Its directory, for the files that it has mapped.
    pub proc: &'a ProcDir,
    /// Its memory.
    pub memory: &'a dyn RemoteMemory,
    /// Its mappings, in ascending order.
    pub mappings: &'a [Mapping],
    /// Its threads as it numbers them itself.
    pub tids: &'a [i32],
}

/// Finds the CPython of a process.
pub fn detect(surroundings: Surroundings<'_>) -> Result<Runtime, DetectError> {
    let view = PageView::new(surroundings.memory);
    let mut images = mapped_files(surroundings.mappings);
    images.retain(|file| file.executable && is_elf(&view, file));
    images.truncate(MAX_IMAGES);
    // A shared libpython first, then what is named python, then the program, which comes first in `maps` when it isn't
    // position-independent and in general before the libraries.
    images.sort_by_key(|file| likelihood(&file.first));
    let mut ladder = Ladder {
        surroundings,
        view: &view,
        attempts: Vec::new(),
    };
    for file in &images {
        if let Some(runtime) = ladder.try_symbols(file) {
            return Ok(runtime);
        }
    }
    for file in &images {
        if let Some(runtime) = ladder.try_file_and_scan(file) {
            return Ok(runtime);
        }
    }
    if ladder.attempts.is_empty() {
        return Err(DetectError::NotPython {
            images: images.len(),
        });
    }
    Err(DetectError::Unreadable(ladder.attempts))
}

fn is_elf(memory: &dyn RemoteMemory, file: &MappedFile) -> bool {
    let mut magic = [0; 4];
    memory.read(file.first.start, &mut magic).is_ok() && magic == *b"\x7fELF"
}

fn likelihood(mapping: &Mapping) -> u8 {
    let name = mapping
        .name
        .rsplit(|byte| *byte == b'/')
        .next()
        .unwrap_or_default();
    if name.starts_with(b"libpython") {
        0
    } else if name.starts_with(b"python") {
        1
    } else {
        2
    }
}

/// What a runtime is made from, before it is proven.
struct Found {
    method: Method,
    layout: Layout,
    version: Version,
    root: Root,
    current_thread: Option<Address>,
    gil_lock: Option<Address>,
}

struct Ladder<'a> {
    surroundings: Surroundings<'a>,
    view: &'a PageView<'a>,
    attempts: Vec<Attempt>,
}

impl Ladder<'_> {
    fn note(&mut self, method: Method, image: &ElfImage, outcome: impl fmt::Display) {
        let attempt = Attempt {
            method,
            image: image_name(image),
            outcome: outcome.to_string(),
        };
        tracing::debug!("{attempt}");
        self.attempts.push(attempt);
    }

    /// The cheap methods: dynamic symbols from memory.
    fn try_symbols(&mut self, file: &MappedFile) -> Option<Runtime> {
        let image = ElfImage::read(self.view, &file.first).ok()?;
        if let Some(address) = image.find_dynamic_symbol(self.view, "_PyRuntime") {
            return self.try_runtime(Method::DynamicSymbol, &image, address);
        }
        let current = image.find_dynamic_symbol(self.view, "_PyThreadState_Current")?;
        self.try_before_runtime(&image, current)
    }

    /// The methods that need the file, or much reading; only for files that could hold a Python at all.
    fn try_file_and_scan(&mut self, file: &MappedFile) -> Option<Runtime> {
        let image = ElfImage::read(self.view, &file.first).ok()?;
        if let Some(elf) = image.open_file(self.surroundings.proc, self.view) {
            if let Some(svma) = elf.find_section(".PyRuntime") {
                let found = self.try_runtime(Method::Section, &image, image.to_avma(svma));
                if found.is_some() {
                    return found;
                }
            }
            if let Some(svma) = elf.find_symbol(&["_PyRuntime"]) {
                let found = self.try_runtime(Method::StaticSymbol, &image, image.to_avma(svma));
                if found.is_some() {
                    return found;
                }
            }
        }
        if let Some(address) = find_cookie(self.surroundings.memory, &image) {
            return self.try_runtime(Method::Cookie, &image, address);
        }
        let version = find_version_text(self.surroundings.memory, image.writable_data())?;
        self.try_scan(&image, version, None)
    }

    /// `_PyRuntime` is at `address`: 3.7 or later.
    fn try_runtime(
        &mut self,
        method: Method,
        image: &ElfImage,
        address: Address,
    ) -> Option<Runtime> {
        let found = match debug_offsets::read(self.view, address) {
            Ok(stated) => Found {
                method,
                version: Version::from_hex(stated.version_hex),
                layout: stated.layout,
                root: Root::Runtime(address),
                current_thread: None,
                gil_lock: None,
            },
            Err(OffsetsError::NoCookie) => {
                let Some(version) = self.version_of(image) else {
                    self.note(method, image, "its version can't be told");
                    return None;
                };
                let Some(layout) = find_table(version.minor(), false) else {
                    self.note(
                        method,
                        image,
                        format!("CPython {version} is a version that this program does not know"),
                    );
                    return None;
                };
                Found {
                    method,
                    layout: layout.clone(),
                    version,
                    root: Root::Runtime(address),
                    current_thread: None,
                    gil_lock: None,
                }
            }
            Err(error) => {
                self.note(method, image, error);
                return None;
            }
        };
        self.prove(image, found)
    }

    /// 2.7 and up to 3.6: the interpreters hang on a static variable, which only a full symbol table names.
    fn try_before_runtime(&mut self, image: &ElfImage, current: Address) -> Option<Runtime> {
        let Some(version) = self.version_of(image) else {
            self.note(Method::DynamicSymbol, image, "its version can't be told");
            return None;
        };
        let elf = image.open_file(self.surroundings.proc, self.view);
        let find = |name| {
            elf.as_ref()
                .and_then(|elf| elf.find_symbol(&[name]))
                .map(|svma| image.to_avma(svma))
        };
        if let Some(head) = find("interp_head")
            && let Some(layout) = find_table(version.minor(), false)
        {
            let found = Found {
                method: Method::StaticSymbol,
                layout: self.fit_unicode(image, layout),
                version,
                root: Root::Head(head),
                current_thread: Some(current),
                gil_lock: find("interpreter_lock"),
            };
            if let Some(runtime) = self.prove(image, found) {
                return Some(runtime);
            }
        }
        self.try_scan(image, version, Some(current))
    }

    /// 2.7 is built with code units of two or four bytes; the names of its own functions tell which.
    fn fit_unicode(&self, image: &ElfImage, table: &Layout) -> Layout {
        let mut layout = table.clone();
        if let UnicodeLayout::Legacy { unit, .. } = &mut layout.unicode {
            let is_wide = image
                .find_dynamic_symbol(self.view, "PyUnicodeUCS4_AsUTF8String")
                .is_some();
            *unit = if is_wide { 4 } else { 2 };
        }
        layout
    }

    fn version_of(&self, image: &ElfImage) -> Option<Version> {
        // `Py_Version`, a constant unsigned long since 3.11 (`Include/pylifecycle.h`).
        if let Some(address) = image.find_dynamic_symbol(self.view, "Py_Version")
            && let Ok(hex) = self.view.read_u64(address)
            && let Ok(hex) = u32::try_from(hex)
        {
            return Some(Version::from_hex(hex));
        }
        find_version_text(self.surroundings.memory, image.writable_data())
            .or_else(|| version_in_name(&image.mapping().name))
    }

    fn try_scan(
        &mut self,
        image: &ElfImage,
        version: Version,
        current: Option<Address>,
    ) -> Option<Runtime> {
        let Some(table) = find_table(version.minor(), false) else {
            self.note(
                Method::Scan,
                image,
                format!("CPython {version} is a version that this program does not know"),
            );
            return None;
        };
        let layout = self.fit_unicode(image, table);
        let found = |root| Found {
            method: Method::Scan,
            layout: layout.clone(),
            version,
            root,
            current_thread: current,
            gil_lock: None,
        };
        // The lists of threads may change while they are followed: look again a few times.
        let root = (0..MAX_TRIES).find_map(|_| {
            let view = PageView::new(self.surroundings.memory);
            let accept = |root| {
                self.check_once(&runtime_of(image, found(root)), &view)
                    .is_ok()
            };
            find_interpreter(
                self.surroundings.memory,
                self.surroundings.mappings,
                image,
                &layout,
                &view,
                &accept,
            )
        });
        if root.is_none() {
            self.note(
                Method::Scan,
                image,
                format!("no interpreter of CPython {version}"),
            );
        }
        self.prove(image, found(root?))
    }

    /// Believes what was found only if its interpreters have threads, and those are threads of this process.
    fn prove(&mut self, image: &ElfImage, found: Found) -> Option<Runtime> {
        let method = found.method;
        let runtime = runtime_of(image, found);
        let version = &runtime.info.version;
        match self.check(&runtime) {
            Ok(()) => {
                tracing::debug!(
                    "CPython {version} by {} in {}",
                    method.name(),
                    runtime.info.image
                );
                Some(runtime)
            }
            Err(reason) => {
                let outcome = format!("CPython {version}, but {reason}");
                self.note(method, image, outcome);
                None
            }
        }
    }

    fn check(&self, runtime: &Runtime) -> Result<(), String> {
        // A process that starts and ends threads changes these lists while they are read: look again a few times.
        let mut reason = String::new();
        for _ in 0..MAX_TRIES {
            let view = PageView::new(self.surroundings.memory);
            match self.check_once(runtime, &view) {
                Ok(()) => return Ok(()),
                Err(error) => reason = error,
            }
        }
        Err(reason)
    }

    fn check_once(&self, runtime: &Runtime, view: &PageView<'_>) -> Result<(), String> {
        let interpreters = runtime
            .interpreters(view)
            .map_err(|error| error.to_string())?;
        // Not through the view, which may have had the head of the list for some time.
        let threads = |interpreter| {
            let view = PageView::new(self.surroundings.memory);
            runtime.threads(&view, interpreter).states
        };
        let states: Vec<_> = interpreters.iter().flat_map(threads).collect();
        if states.is_empty() {
            return Err("it has no threads (it starts up or ends, or its structures are not where they should be)".into());
        }
        let is_known = |state: &super::runtime::ThreadState| match state.native_thread_id {
            // After a fork the number can still be the parent's, so that the pthread_t has to do.
            Some(id)
                if self
                    .surroundings
                    .tids
                    .iter()
                    .any(|tid| u64::try_from(*tid) == Ok(id)) =>
            {
                true
            }
            _ => find_mapping(self.surroundings.mappings, Address(state.thread_id))
                .is_some_and(|m| m.writable),
        };
        if states.iter().any(is_known) {
            Ok(())
        } else {
            Err("its threads are not threads of this process".into())
        }
    }
}

fn runtime_of(image: &ElfImage, found: Found) -> Runtime {
    Runtime {
        info: RuntimeInfo {
            kind: "cpython",
            version: found.version.to_string(),
            free_threaded: found.layout.free_threaded,
            found_by: found.method.name(),
            image: image_name(image),
        },
        layout: found.layout,
        root: found.root,
        current_thread: found.current_thread,
        gil_lock: found.gil_lock,
        data: image.writable_data().collect(),
    }
}

fn image_name(image: &ElfImage) -> String {
    image
        .mapping()
        .path()
        .map(|path| path.to_string_lossy().into_owned())
        .unwrap_or_default()
}
