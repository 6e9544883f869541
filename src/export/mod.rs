//! A profile in the formats that people load elsewhere, and the file that it goes to.

mod chrometrace;
mod counts;
mod create;
mod destination;
mod fit;
mod flamegraph;
mod folded;
mod functions;
mod gecko;
mod label;
mod pprof;
mod speedscope;
mod stretches;
#[cfg(test)]
mod testing;
pub mod unfinished;

pub use create::{Output, OutputError};
pub use fit::FileLimits;

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use clap::ValueEnum;

use crate::profile::{Profile, Weight};

/// A format of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A flame graph: an SVG that a browser shows, with a search of its own
    Flamegraph,
    /// One line per stack, outermost frame first, with its count: what flame graph tools read
    #[value(alias = "raw")]
    Folded,
    /// What <https://www.speedscope.app> shows
    Speedscope,
    /// `profile.proto`, gzipped: what `go tool pprof`, Pyroscope and Parca read
    Pprof,
    /// Trace events: what `chrome://tracing` and Perfetto read
    Chrometrace,
    /// What <https://profiler.firefox.com> shows
    Gecko,
}

/// How a profile is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Threads are told apart in `flamegraph` and `folded`, by an outer frame; the other formats always do.
    pub threads: bool,
    /// Processes are told apart in `flamegraph` and `folded`, by the outermost frame; the other formats always do.
    pub processes: bool,
    /// Whole paths of files.
    pub full_filenames: bool,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 6] = [
        Format::Flamegraph,
        Format::Folded,
        Format::Speedscope,
        Format::Pprof,
        Format::Chrometrace,
        Format::Gecko,
    ];

    /// The name that it is asked for by; `raw` is another one of `folded`.
    pub fn name(self) -> &'static str {
        match self {
            Format::Flamegraph => "flamegraph",
            Format::Folded => "folded",
            Format::Speedscope => "speedscope",
            Format::Pprof => "pprof",
            Format::Chrometrace => "chrometrace",
            Format::Gecko => "gecko",
        }
    }

    /// What the name of a file in it ends with, without the first dot.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Flamegraph => "svg",
            Format::Folded => "folded",
            Format::Speedscope => "speedscope.json",
            Format::Pprof => "pb.gz",
            Format::Chrometrace => "trace.json",
            Format::Gecko => "gecko.json",
        }
    }

    /// Ends of file names, and what they stand for. `.json` alone may be any of three.
    pub const ENDINGS: [(&str, Format); 13] = [
        (".svg", Format::Flamegraph),
        (".folded", Format::Folded),
        (".collapsed", Format::Folded),
        (".txt", Format::Folded),
        (".raw", Format::Folded),
        (".speedscope.json", Format::Speedscope),
        (".speedscope", Format::Speedscope),
        (".pb.gz", Format::Pprof),
        // Readers of pprof recognise gzip by its first bytes.
        (".pb", Format::Pprof),
        (".pprof", Format::Pprof),
        (".prof", Format::Pprof),
        (".trace.json", Format::Chrometrace),
        (".gecko.json", Format::Gecko),
    ];

    /// The format that the end of a file's name stands for; `None` where it says nothing, or too little.
    pub fn of_file_name(path: &Path) -> Option<Format> {
        let name = path.file_name().map(OsStr::to_string_lossy)?;
        let name = name.to_ascii_lowercase();
        Format::ENDINGS
            .into_iter()
            .find(|(ending, _)| name.len() > ending.len() && name.ends_with(ending))
            .map(|(_, format)| format)
    }

    /// The ends that stand for a format, in words: `flamegraph (.svg), folded (.folded, .txt), …`.
    pub fn list_endings() -> String {
        let of = |format: Format| {
            let endings = Format::ENDINGS.into_iter();
            let endings = endings.filter(|(_, known)| *known == format);
            let endings: Vec<&str> = endings.map(|(ending, _)| ending).collect();
            format!("{format} ({})", endings.join(", "))
        };
        Format::ALL.map(of).join(", ")
    }

    /// Whether it shows the order of time, so that the profile needs a timeline. Without one it can be written all the
    /// same, with the order made up.
    pub fn needs_timeline(self) -> bool {
        matches!(
            self,
            Format::Speedscope | Format::Chrometrace | Format::Gecko
        )
    }

    /// Writes `profile`; equal profiles give equal bytes. Many small pieces are written: `out` should have a buffer.
    /// Its errors are those of `out`.
    ///
    /// What would take too much memory or too large a file is written with less detail. Gives how much time has only a part
    /// of its stack for that reason.
    pub fn write(self, profile: &Profile, style: Style, out: &mut dyn Write) -> io::Result<Weight> {
        self.write_within(FileLimits::default(), profile, style, out)
    }

    /// The same with other limits than usual.
    pub fn write_within(
        self,
        limits: FileLimits,
        profile: &Profile,
        style: Style,
        out: &mut dyn Write,
    ) -> io::Result<Weight> {
        let fitted = fit::fit(profile, self, style, limits);
        self.write_all(&fitted.profile, style, out)?;
        Ok(fitted.cut)
    }

    fn write_all(self, profile: &Profile, style: Style, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Format::Flamegraph => flamegraph::write(profile, style, out),
            Format::Folded => folded::write(profile, style, out),
            Format::Speedscope => speedscope::write(profile, style, out),
            Format::Pprof => pprof::write(profile, style, out),
            Format::Chrometrace => chrometrace::write(profile, style, out),
            Format::Gecko => gecko::write(profile, style, out),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_have_the_names_that_are_typed() {
        for format in Format::ALL {
            assert_eq!(Format::from_str(format.name(), false), Ok(format));
            let value = format.to_possible_value().unwrap();
            assert_eq!(value.get_name(), format.to_string());
        }
        assert_eq!(Format::ALL, *Format::value_variants());
        assert_eq!(Format::from_str("raw", false), Ok(Format::Folded));
        assert!(Format::from_str("svg", false).is_err());
    }

    #[test]
    fn file_names_stand_for_formats() {
        let of = |name: &str| Format::of_file_name(Path::new(name));
        for format in Format::ALL {
            assert_eq!(of(&format!("/tmp/x.{}", format.extension())), Some(format));
        }
        assert_eq!(of("a.SVG"), Some(Format::Flamegraph));
        assert_eq!(of("a.txt"), Some(Format::Folded));
        assert_eq!(of("a.collapsed"), Some(Format::Folded));
        for pprof in ["a.pprof", "a.pb", "a.prof", "cpu.PB.GZ"] {
            assert_eq!(of(pprof), Some(Format::Pprof));
        }
        for name in [
            "a.json", ".svg", "svg", "-", "a.gz", "a.html", "a.svgz", "/",
        ] {
            assert_eq!(of(name), None, "{name}");
        }
    }

    #[test]
    fn all_ends_are_listed() {
        let list = Format::list_endings();
        for (ending, format) in Format::ENDINGS {
            assert!(list.contains(ending) && list.contains(format.name()));
        }
        assert!(list.starts_with("flamegraph (.svg), folded (.folded, .collapsed,"));
    }

    /// What `scripts/check-formats` feeds to the programs that the formats are made for.
    #[test]
    fn profiles_are_written_for_other_programs_to_read() {
        let Some(folder) = std::env::var_os("STUCKSPY_FORMATS_DIR") else {
            return;
        };
        let profiles = [
            ("small", testing::small()),
            ("shop", testing::shop()),
            ("empty", testing::empty()),
        ];
        for (name, profile) in profiles {
            for format in Format::ALL {
                let style = Style {
                    threads: true,
                    processes: name == "small",
                    full_filenames: false,
                };
                let file = format!("{name}.{}", format.extension());
                let path = Path::new(&folder).join(file);
                let mut output = Output::open(&path, std::sync::Arc::default()).unwrap();
                output
                    .write(|out| format.write(&profile, style, out).map(drop))
                    .unwrap();
            }
        }
    }
}
