//! What must hold of a picture in every format whatever its names are. Mounted by the tests and by the fuzz targets.

use crate::picture::model::Picture;
use crate::picture::{Format, render};
use quick_xml::events::Event;
use std::collections::BTreeMap;

/// Draws it in every format; no name has become anything else.
pub fn check(picture: &Picture) {
    let drawn: BTreeMap<&str, String> =
        Format::ALL.into_iter().map(|format| (format.as_str(), render(picture, format).unwrap())).collect();
    for (format, text) in &drawn {
        let odd = text.chars().find(|&c| (c.is_control() && c != '\n') || c == '\u{202e}' || c == '\u{ffff}');
        assert!(odd.is_none(), "{odd:?} in {format}");
    }
    let svg = elements(&drawn["svg"]);
    for name in svg.keys() {
        assert!(SVG.contains(&name.as_str()), "<{name}>");
    }
    let titles: Vec<&str> = svg["title"].iter().map(|text| text.split('\n').next().unwrap_or("")).collect();
    let expected: Vec<&str> = picture.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(&titles[1..], expected);
    for name in elements(&drawn["html"]).keys() {
        assert!(SVG.contains(&name.as_str()) || HTML.contains(&name.as_str()), "<{name}>");
    }
    let steps = picture.graph.len();
    let edges: usize = picture.graph.step_ids().map(|id| picture.graph.parents(id).len()).sum();
    // A line for each step and edge: no name makes another one.
    assert_eq!(drawn["text"].lines().count(), 3 + steps);
    let classes = if picture.task.is_some() { picture.tally().len() } else { 1 };
    assert_eq!(drawn["mermaid"].lines().count(), 4 + steps + edges + classes);
    assert_eq!(drawn["dot"].lines().count(), 5 + steps + edges);
    for line in drawn["mermaid"].lines().skip(4).filter(|line| line.contains('[')) {
        let label = line.split_once("[\"").unwrap().1.rsplit_once("\"]").unwrap().0.replace("<br/>", "");
        let plain = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || " _-.,#;/".contains(c);
        assert!(label.chars().all(plain), "{label}");
    }
    for (line, step) in
        drawn["dot"].lines().filter(|line| line.contains(" [label=") && line.starts_with("    s")).zip(&picture.steps)
    {
        let (label, rest) = dot_string(line.split_once("[label=").unwrap().1);
        assert!(rest.starts_with(", class="), "{line}");
        assert_eq!(label.split('\n').next().unwrap(), &step.name);
    }
}

const SVG: [&str; 8] = ["svg", "title", "desc", "style", "rect", "path", "g", "text"];
const HTML: [&str; 29] = [
    "html", "head", "meta", "title", "style", "body", "main", "header", "section", "h1", "h2", "p", "span", "time",
    "div", "ul", "li", "i", "b", "em", "table", "thead", "tbody", "tr", "th", "td", "a", "dl", "dd",
];

/// The texts of the elements of well-formed XML, by name; no element or attribute that would run anything.
fn elements(xml: &str) -> BTreeMap<String, Vec<String>> {
    let mut reader = quick_xml::Reader::from_str(xml);
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut open: Vec<(String, String)> = Vec::new();
    let fail = |what: String| -> ! { panic!("{what} in {xml}") };
    loop {
        match reader.read_event().unwrap_or_else(|error| fail(error.to_string())) {
            Event::Start(start) => {
                attributes(&start).unwrap_or_else(|what| fail(what));
                open.push((start.name().as_ref().to_owned(), String::new()));
            }
            Event::Empty(start) => {
                attributes(&start).unwrap_or_else(|what| fail(what));
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
                let Some(text) = quick_xml::escape::resolve_xml_entity(name) else { fail(format!("&{name};")) };
                if let Some((_, of)) = open.last_mut() {
                    of.push_str(text);
                }
            }
            Event::End(_) => {
                let (name, text) = open.pop().unwrap_or_else(|| fail("an end without a start".into()));
                found.entry(name).or_default().push(text);
            }
            Event::DocType(_) => {}
            Event::Eof if open.is_empty() => return found,
            event => fail(format!("{event:?}")),
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
