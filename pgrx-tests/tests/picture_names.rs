//! Names that want to be more than names, in every format.

mod engine_support;
mod picture_support;

use engine_support::{graph, step_state};
use pg_stepwise_cluster_tests::engine::state::StepState;
use pg_stepwise_cluster_tests::picture::legible::shown;
use pg_stepwise_cluster_tests::picture::model::{Change, text};
use pg_stepwise_cluster_tests::picture::{Format, render};
use picture_support::{change, picture};
use proptest::prelude::*;
use quick_xml::events::Event;
use std::collections::BTreeMap;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_name_is_shown_whatever_is_in_it(
        graph in graph(6),
        names in prop::collection::vec(any_name(), 6),
        states in prop::collection::vec(step_state(), 6),
        task in any::<bool>(),
    ) {
        let mut history: Vec<Change> =
            graph.step_ids().map(|id| change(1, id, StepState::Pending, StepState::InProgress, 1)).collect();
        for (change, name) in history.iter_mut().zip(names.iter().cycle()) {
            (change.note, change.worker, change.actor) = (text(name), Some(text(name)), Some(text(name)));
        }
        let mut picture = picture(&graph, &names, &states, history);
        if !task {
            picture.task = None;
            picture.steps.iter_mut().for_each(|step| step.row = None);
        }
        let drawn: BTreeMap<&str, String> =
            Format::ALL.into_iter().map(|format| (format.as_str(), render(&picture, format).unwrap())).collect();
        for (format, text) in &drawn {
            let odd = text.chars().find(|&c| (c.is_control() && c != '\n') || c == '\u{202e}' || c == '\u{ffff}');
            prop_assert!(odd.is_none(), "{odd:?} in {format}");
        }
        let svg = elements(&drawn["svg"])?;
        for name in svg.keys() {
            prop_assert!(SVG.contains(&name.as_str()), "<{name}>");
        }
        let titles: Vec<&str> = svg["title"].iter().map(|text| text.split('\n').next().unwrap_or("")).collect();
        let expected: Vec<&str> = picture.steps.iter().map(|step| step.name.as_str()).collect();
        prop_assert_eq!(&titles[1..], expected);
        for name in elements(&drawn["html"])?.keys() {
            prop_assert!(SVG.contains(&name.as_str()) || HTML.contains(&name.as_str()), "<{name}>");
        }
        let steps = graph.len();
        let edges: usize = graph.step_ids().map(|id| graph.parents(id).len()).sum();
        // A line for each step and edge: no name makes another one.
        prop_assert_eq!(drawn["text"].lines().count(), 3 + steps);
        let classes = if task { picture.tally().len() } else { 1 };
        prop_assert_eq!(drawn["mermaid"].lines().count(), 4 + steps + edges + classes);
        prop_assert_eq!(drawn["dot"].lines().count(), 5 + steps + edges);
        for line in drawn["mermaid"].lines().skip(4).filter(|line| line.contains('[')) {
            let label = line.split_once("[\"").unwrap().1.rsplit_once("\"]").unwrap().0.replace("<br/>", "");
            let plain = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || " _-.,#;/".contains(c);
            prop_assert!(label.chars().all(plain), "{label}");
        }
        for (line, step) in drawn["dot"].lines().filter(|line| line.contains(" [label=") && line.starts_with("    s")).zip(&picture.steps) {
            let (label, rest) = dot_string(line.split_once("[label=").unwrap().1);
            prop_assert!(rest.starts_with(", class="), "{line}");
            prop_assert_eq!(label.split('\n').next().unwrap(), &step.name);
        }
    }
}

const SVG: [&str; 8] = ["svg", "title", "desc", "style", "rect", "path", "g", "text"];
const HTML: [&str; 29] = [
    "html", "head", "meta", "title", "style", "body", "main", "header", "section", "h1", "h2", "p", "span", "time",
    "div", "ul", "li", "i", "b", "em", "table", "thead", "tbody", "tr", "th", "td", "a", "dl", "dd",
];

/// Names as they come, and such as are made to break something.
fn any_name() -> impl Strategy<Value = String> {
    const EVIL: [&str; 14] = [
        "<script>alert(1)</script>",
        "\"]; evil",
        "]]>",
        "-->",
        "</title></style><b onclick=x>",
        "&amp;&#1;&bogus;",
        "\\",
        "\\\"",
        "a\nb\r\n\tc",
        "\u{1}\u{7f}\u{85}\u{2028}\u{202e}\u{fffe}\u{ffff}",
        "%%{init: {}}%%",
        "`#quot;`",
        "end",
        "' OR \"\" //",
    ];
    prop_oneof![
        prop::sample::select(EVIL.to_vec()).prop_map(String::from),
        prop::collection::vec(any::<char>(), 1..40).prop_map(String::from_iter),
        prop::collection::vec(prop::sample::select(EVIL.to_vec()), 2..4).prop_map(|parts| parts.concat()),
    ]
}

/// The texts of the elements of well-formed XML, by name; no element or attribute that would run anything.
fn elements(xml: &str) -> Result<BTreeMap<String, Vec<String>>, TestCaseError> {
    let mut reader = quick_xml::Reader::from_str(xml);
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut open: Vec<(String, String)> = Vec::new();
    let fail = |what: String| TestCaseError::fail(format!("{what} in {xml}"));
    loop {
        match reader.read_event().map_err(|error| fail(error.to_string()))? {
            Event::Start(start) => {
                attributes(&start).map_err(fail)?;
                open.push((start.name().as_ref().to_owned(), String::new()));
            }
            Event::Empty(start) => {
                attributes(&start).map_err(fail)?;
                found.entry(start.name().as_ref().to_owned()).or_default();
            }
            Event::Text(text) => {
                let text: &str = &text;
                if let Some((_, of)) = open.last_mut() {
                    of.push_str(text);
                }
            }
            Event::GeneralRef(reference) => {
                let name: &str = &reference;
                let Some(text) = quick_xml::escape::resolve_xml_entity(name) else {
                    return Err(fail(format!("&{name};")));
                };
                if let Some((_, of)) = open.last_mut() {
                    of.push_str(text);
                }
            }
            Event::End(_) => {
                let (name, text) = open.pop().ok_or_else(|| fail("an end without a start".into()))?;
                found.entry(name).or_default().push(text);
            }
            Event::DocType(_) => {}
            Event::Eof if open.is_empty() => return Ok(found),
            event => return Err(fail(format!("{event:?}"))),
        }
    }
}

fn attributes(start: &quick_xml::events::BytesStart) -> Result<(), String> {
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|error| error.to_string())?;
        let name = attribute.key.as_ref().to_owned();
        if name.starts_with("on") || ["href", "src", "action"].contains(&name.as_str()) {
            return Err(format!("attribute {name}"));
        }
        if attribute.value.contains('<') {
            return Err(format!("< in attribute {name}"));
        }
    }
    Ok(())
}

/// Reads a quoted string as Graphviz does: the text, lines apart, and what follows.
fn dot_string(quoted: &str) -> (String, &str) {
    let mut text = String::new();
    let mut chars = quoted.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (text.replace("&amp;", "&"), &quoted[at + 1..]),
            '\\' => match chars.next() {
                Some((_, 'n')) => text.push('\n'),
                Some((_, escaped)) => text.push(escaped),
                None => break,
            },
            _ => text.push(c),
        }
    }
    panic!("no end of {quoted}");
}

#[test]
fn what_cannot_be_shown_is_replaced_by_something_that_can() {
    assert_eq!(shown("plain é 出荷 🚚"), "plain é 出荷 🚚");
    assert_eq!(shown("\0\t\u{1b}[31m"), "␀␉␛[31m");
}
