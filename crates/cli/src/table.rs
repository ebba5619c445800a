//! Tables for people: columns without lines, so that they can be selected and cut.

use comfy_table::{ContentArrangement, Table, presets};

/// On a narrower terminal, or one that does not know its width, lines are better broken by the terminal than letter by letter.
const LEAST_WIDTH: u16 = 60;

/// Blanks between two columns.
const GAP: u16 = 2;

/// A table with these column heads; on a terminal, long cells are wrapped to its width.
pub(crate) fn with_head(head: &[&str]) -> Table {
    let mut table = bare();
    table.set_header(head.to_vec());
    table
}

/// A table of names and values; values that are empty are left out.
pub(crate) fn of_fields<'a>(fields: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut table = bare();
    for (name, value) in fields {
        if !value.is_empty() {
            table.add_row([format!("{name}:"), value]);
        }
    }
    text(&table)
}

/// The text, without the blanks that fill lines up.
pub(crate) fn text(table: &Table) -> String {
    let mut table = table.clone();
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    table.trim_fmt()
}

/// The text on one line, without control characters: what a registry or a publisher wrote must not steer a terminal.
pub(crate) fn clean(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.replace(char::is_control, "\u{fffd}")
}

/// The text on one line, shortened to this many characters.
pub(crate) fn shorten(text: &str, length: usize) -> String {
    let mut line = clean(text);
    if let Some((end, _)) = line.char_indices().nth(length) {
        line.truncate(end);
        line.push('…');
    }
    line
}

/// For example `1 package` or `2 packages`.
pub(crate) fn count(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// For example `12.3 kB`; empty for nothing.
pub(crate) fn size(bytes: i64) -> String {
    #[expect(
        clippy::cast_precision_loss,
        reason = "it is rounded to three digits anyway"
    )]
    let exact = bytes as f64;
    match bytes {
        ..=0 => String::new(),
        1..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", exact / 1e3),
        _ => format!("{:.1} MB", exact / 1e6),
    }
}

fn bare() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if table.width().is_some_and(|width| width >= LEAST_WIDTH) {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_heads_and_no_lines() {
        let mut table = with_head(&["NAME", "AGE"]);
        table.add_row(["a", "1s"]);
        let lines: Vec<_> = text(&table).lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 2);
        assert!(
            lines[0].contains("NAME") && lines[1].contains("1s"),
            "{lines:?}"
        );
        assert!(lines.iter().all(|line| line.trim() == line));
    }

    #[test]
    fn empty_fields_are_left_out() {
        let text = of_fields([("a", "1".to_owned()), ("b", String::new())]);
        assert!(text.contains("a:") && !text.contains("b:"), "{text}");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(1, "package"), "1 package");
        assert_eq!(count(0, "package"), "0 packages");
        assert_eq!(size(12_345), "12.3 kB");
        assert_eq!(size(0), "");
        assert_eq!(shorten("a  long\ntext", 6), "a long…");
        assert_eq!(shorten("short", 6), "short");
        assert_eq!(clean("a\u{1b}[2J\tb"), "a\u{fffd}[2J b");
    }
}
