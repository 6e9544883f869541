//! Texts without what differs from run to run: numbers, titles of processes, names that depend on the version.

/// A line with `N` for each number, and with functions by their plain names, as they are before 3.11.
pub fn without_variety(line: &str) -> String {
    let line = &without_titles(line);
    let line = match line
        .strip_prefix("    ")
        .and_then(|frame| frame.split_once(" ("))
    {
        Some((function, place)) if !function.contains(' ') => {
            let plain = function.rsplit('.').next().unwrap_or(function);
            format!("    {plain} ({place}")
        }
        _ => line.to_owned(),
    };
    let line = &without_addresses(&line);
    let mut text = String::new();
    for letter in line.chars() {
        if !letter.is_ascii_digit() {
            text.push(letter);
        } else if !text.ends_with('N') {
            text.push('N');
        }
    }
    // The kernel's name of a thread is its program's, which may have the version in it.
    let text = text.replace("pythonN.N (tid", "python (tid");
    let text = text.replace("pythonN (tid", "python (tid");
    // Whether TCP's clock has moved between what came last and the question is by chance.
    with_plain_times(&text).replace(
        "nothing sent or received for TIME",
        "nothing received since it last sent",
    )
}

/// A line with `ADDRESS` for each one.
fn without_addresses(line: &str) -> String {
    let mut parts = line.split("0x");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str("ADDRESS");
        text.push_str(part.trim_start_matches(|letter: char| letter.is_ascii_hexdigit()));
    }
    text
}

/// A line with `TIME` for each time: it may be milliseconds or seconds.
fn with_plain_times(line: &str) -> String {
    let is_time = |word: &str| ["Nms", "Ns", "N.Ns", "NmNs"].contains(&word);
    let words = line.split(' ').map(|word| {
        let plain = word.trim_end_matches([',', ';', ')', ':']);
        match is_time(plain) {
            true => format!("TIME{}", &word[plain.len()..]),
            false => word.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A line with `TITLE` for what stands in brackets behind the number of a process.
fn without_titles(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line;
    loop {
        let found = ["process ", "child "]
            .iter()
            .filter_map(|word| Some((rest.find(word)?, *word)));
        let Some((at, word)) = found.min() else {
            break;
        };
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        text.push_str(before);
        text.push_str(word);
        let digits = after.len()
            - after
                .trim_start_matches(|letter: char| letter.is_ascii_digit())
                .len();
        text.push_str(&after[..digits]);
        rest = &after[digits..];
        if let Some((_, behind)) = rest
            .strip_prefix(" (")
            // A title that was cut off ends the line.
            .map(|title| title.split_once(')').unwrap_or((title, "")))
        {
            text.push_str(" (TITLE)");
            rest = behind;
        }
    }
    text + rest
}
