//! A flame graph, drawn by inferno; here are its words and its colors.

use std::io::{self, Write};

use inferno::flamegraph::color::{BackgroundColor, Color, PaletteMap};
use inferno::flamegraph::{self, Options, TextTruncateDirection};

use super::Style;
use super::counts::Counts;
use super::folded::{escaped, innermost, lines};
use super::label::{self, Origin};
use crate::profile::Profile;

/// The color of the frame that stands for everything.
const ALL: Color = Color::new(226, 226, 226);

/// Writes `profile` as an SVG.
pub(super) fn write(profile: &Profile, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let counts = Counts::of(profile, style);
    if counts.stacks.is_empty() {
        return write_empty(profile, out);
    }
    let mut palette = PaletteMap::default();
    palette.insert("", ALL);
    for shown in &counts.shown {
        // Where names of different origins look the same, the first one colors them.
        for name in [escaped(&shown.label), innermost(&shown.label)] {
            if palette.get(&name).is_none() {
                palette.insert(&name, color(shown.origin, &shown.label));
            }
        }
    }
    let mut options = Options::default();
    options.title = label::what(profile);
    options.subtitle = Some(label::how(profile));
    options.bgcolors = Some(BackgroundColor::Flat(Color::new(253, 253, 251)));
    options.palette_map = Some(&mut palette);
    options.text_truncate_direction = TextTruncateDirection::Right;
    let lines = lines(&counts);
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)?;
    let mut origins: Vec<Origin> = counts.shown.iter().map(|shown| shown.origin).collect();
    origins.sort_unstable();
    origins.dedup();
    let body = svg.strip_suffix(b"</svg>").unwrap_or(&svg);
    out.write_all(body)?;
    write_legend(&origins, out)?;
    out.write_all(b"</svg>\n")
}

/// Says which color means what, in the last line, below what is said of the frame that is pointed at.
fn write_legend(origins: &[Origin], out: &mut dyn Write) -> io::Result<()> {
    write!(
        out,
        r#"<text id="legend" x="10" y="100%" dy="-4" fill="rgb(90,90,90)">"#
    )?;
    for origin in Origin::ALL {
        if origin != Origin::Owner && origins.contains(&origin) {
            let Color { r, g, b } = base(origin);
            let word = origin.word();
            write!(out, r#"<tspan fill="rgb({r},{g},{b})">■</tspan> {word}  "#)?;
        }
    }
    write!(out, "</text>")
}

/// Work is warm, green or brown; waits alone are blue.
fn base(origin: Origin) -> Color {
    match origin {
        Origin::Own => Color::new(236, 122, 76),
        Origin::Installed => Color::new(150, 196, 104),
        Origin::Library => Color::new(240, 200, 92),
        Origin::Native => Color::new(204, 160, 128),
        Origin::Kernel => Color::new(196, 140, 150),
        Origin::Marker => Color::new(196, 196, 196),
        Origin::Wait => Color::new(104, 164, 224),
        Origin::Owner => Color::new(214, 216, 224),
    }
}

/// The origin's color, a little lighter or darker by the name, so that neighbors can be told apart.
fn color(origin: Origin, name: &str) -> Color {
    const SHADES: u32 = 25;
    // FNV-1a.
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let shade = i16::try_from((hash >> 8) % SHADES).unwrap_or(0) - 12;
    let shaded = |part: u8| u8::try_from((i16::from(part) + shade).clamp(0, 255)).unwrap_or(part);
    let Color { r, g, b } = base(origin);
    Color::new(shaded(r), shaded(g), shaded(b))
}

/// inferno calls it an error when there is nothing to draw.
fn write_empty(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    let what = xml(&label::what(profile));
    let how = xml(&label::how(profile));
    writeln!(
        out,
        r##"<?xml version="1.0" standalone="no"?>
<svg version="1.1" width="1200" height="140" viewBox="0 0 1200 140" xmlns="http://www.w3.org/2000/svg" font-family="monospace" font-size="12" text-anchor="middle">
<rect width="100%" height="100%" fill="rgb(253,253,251)"/>
<text id="title" x="50%" y="24" font-size="17">{what}</text>
<text id="subtitle" x="50%" y="48">{how}</text>
<text id="empty" x="50%" y="96" font-size="14">no samples: no thread was seen in what was asked for</text>
</svg>"##
    )
}

/// A visible text as XML has it.
fn xml(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use roxmltree::{Document, Node, ParsingOptions};

    use super::super::Format;
    use super::super::testing::{self, HOSTILE, named, small, written};
    use super::*;

    fn svg(profile: &Profile, style: Style) -> String {
        String::from_utf8(written(Format::Flamegraph, profile, style)).unwrap()
    }

    fn parse(svg: &str) -> Document<'_> {
        let options = ParsingOptions {
            allow_dtd: true,
            ..ParsingOptions::default()
        };
        Document::parse_with_options(svg, options).unwrap()
    }

    /// The frames: what they say when one points at them, their width in samples, and their color.
    fn frames<'a>(document: &'a Document<'a>) -> Vec<(&'a str, u64, &'a str)> {
        let child = |group: Node<'a, 'a>, name: &str| {
            let mut children = group.children();
            children
                .find(|node| node.tag_name().name() == name)
                .unwrap()
        };
        let frames = document
            .descendants()
            .find(|node| node.attribute("id") == Some("frames"))
            .unwrap();
        frames
            .children()
            .map(|group| {
                let rect = child(group, "rect");
                let width = rect.attribute(("http://github.com/jonhoo/inferno", "w"));
                (
                    child(group, "title").text().unwrap(),
                    width.unwrap().parse().unwrap(),
                    rect.attribute("fill").unwrap(),
                )
            })
            .collect()
    }

    fn text_of(document: &Document<'_>, id: &str) -> String {
        document
            .descendants()
            .find(|node| node.attribute("id") == Some(id))
            .unwrap()
            .descendants()
            .filter_map(|node| if node.is_text() { node.text() } else { None })
            .collect()
    }

    #[test]
    fn frames_are_as_wide_as_their_time() {
        let svg = svg(&small(), Style::default());
        let document = parse(&svg);
        let frames = frames(&document);
        let titles: Vec<&str> = frames.iter().map(|(title, ..)| *title).collect();
        assert!(titles.contains(&"all (250 samples, 100%)"));
        let width = |name: &str| -> u64 {
            frames
                .iter()
                .filter(|(title, ..)| title.starts_with(name))
                .map(|(_, width, _)| width)
                .sum()
        };
        assert_eq!(width("main (/srv/shop/app.py:10)"), 20);
        assert_eq!(width("main (/srv/shop/app.py:12)"), 75);
        assert_eq!(width("JSONDecoder.decode (json/decoder.py:345)"), 20);
        assert_eq!(width("work (shop/pool.py:20)"), 120);
        assert_eq!(width("[waits: socket-recv]"), 50);
        assert_eq!(width("[waits: gil]"), 30);
        assert_eq!(width("<torn>"), 5);
        assert_eq!(width("<no Python>"), 30);
    }

    #[test]
    fn only_waits_are_blue() {
        let svg = svg(
            &small(),
            Style {
                threads: true,
                processes: true,
                full_filenames: false,
            },
        );
        let document = parse(&svg);
        for (title, _, fill) in frames(&document) {
            let parts: Vec<u8> = fill
                .trim_start_matches("rgb(")
                .trim_end_matches(')')
                .split(',')
                .map(|part| part.parse().unwrap())
                .collect();
            let is_blue = parts[2] > parts[0].saturating_add(50);
            assert_eq!(is_blue, title.starts_with("[waits: "), "{title}: {fill}");
        }
        assert_eq!(
            text_of(&document, "legend"),
            "■ own code  ■ packages  ■ stdlib  ■ native  ■ kernel  ■ marker  ■ waits  "
        );
    }

    #[test]
    fn it_says_what_it_shows_and_what_was_lost() {
        let svg = svg(&small(), Style::default());
        let document = parse(&svg);
        assert_eq!(
            text_of(&document, "title"),
            "gunicorn: worker [shop] (pid 4242) and 1 more"
        );
        assert_eq!(
            text_of(&document, "subtitle"),
            "2026-01-01T00:00:00Z, 1.0 s at 100 Hz, 98 samples of all threads, 2 lost, 1 torn"
        );
        assert_eq!(svg, self::svg(&small(), Style::default()));
    }

    #[test]
    fn an_empty_profile_says_so() {
        let svg = svg(&testing::empty(), Style::default());
        let document = parse(&svg);
        assert!(text_of(&document, "empty").starts_with("no samples"));
        assert_eq!(
            text_of(&document, "title"),
            format!("{} (pid 4242)", label::visible(HOSTILE))
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_names_give_valid_xml(
            function in any::<String>(),
            file in any::<String>(),
            name in any::<String>(),
            title in any::<String>(),
        ) {
            let style = Style { threads: true, processes: true, full_filenames: false };
            let svg = svg(&named(&function, &file, &name, &title), style);
            let document = parse(&svg);
            let frames = frames(&document);
            prop_assert_eq!(frames.len(), 5);
            for (title, width, fill) in &frames {
                prop_assert!(title.ends_with("(100 samples, 100.00%)") || title.ends_with("(100 samples, 100%)"));
                prop_assert!(*width == 100 && !fill.is_empty());
            }
        }
    }
}
