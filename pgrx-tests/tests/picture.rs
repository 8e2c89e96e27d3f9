//! Pictures of tasks and templates: the layout, the escaping, the size, the chart.

mod engine_support;

use engine_support::{graph, step_state};
use pg_stepwise_cluster_tests::engine::graph::Graph;
use pg_stepwise_cluster_tests::engine::rule::StepRule;
use pg_stepwise_cluster_tests::engine::state::{StepState, TaskState};
use pg_stepwise_cluster_tests::engine::time::{Span, Timestamp};
use pg_stepwise_cluster_tests::picture::gantt::{Bar, Kind, chart};
use pg_stepwise_cluster_tests::picture::layout::{Direction, Layout, Point, Size, lay_out};
use pg_stepwise_cluster_tests::picture::legible::shown;
use pg_stepwise_cluster_tests::picture::model::{Change, Picture, Row, Step, Task, text};
use pg_stepwise_cluster_tests::picture::{Format, PictureError, render};
use proptest::prelude::*;
use quick_xml::events::Event;
use std::collections::{BTreeMap, BTreeSet};

const BOX: Size = Size { width: 180.0, height: 46.0 };

fn seconds(count: i64) -> Timestamp {
    Timestamp(count * 1_000_000)
}

fn row(state: StepState, worker: &str) -> Row {
    Row {
        state,
        attempts: 1,
        worker: Some(text(worker)),
        visible_at: (!state.is_terminal()).then(|| seconds(20)),
        last_attempted_at: Some(seconds(3)),
        last_failure_at: Some(seconds(5)),
        finished_at: Some(seconds(7)),
        queue_paused: false,
    }
}

/// A picture of a task whose steps have these names and states, again and again.
fn picture<'a>(graph: &'a Graph, names: &[String], states: &[StepState], history: Vec<Change>) -> Picture<'a> {
    let step = |index: usize| {
        let name = text(&names[index % names.len()]);
        let row = row(states[index % states.len()], &name);
        Step { queue: name.clone(), name, rule: StepRule::default(), row: Some(row) }
    };
    let task = Task {
        task_id: 7,
        state: TaskState::InProgress,
        created_at: seconds(0),
        finished_at: None,
        now: seconds(10),
        history,
        history_is_cut: false,
    };
    Picture { label: text(&names[0]), graph, steps: (0..graph.len()).map(step).collect(), task: Some(task) }
}

fn change(at: i64, step_id: i32, from: StepState, to: StepState, attempt: i32) -> Change {
    Change {
        at: seconds(at),
        step_id: Some(step_id),
        from: Some(from),
        to,
        attempt: Some(attempt),
        worker: None,
        actor: None,
        note: String::new(),
        backoff_seconds: None,
        retryable: None,
        lease_expired: false,
    }
}

/// Along the direction of the layout, and across it.
fn along(layout: &Layout, point: Point) -> f64 {
    if layout.direction == Direction::Down { point.y } else { point.x }
}

fn overlaps(a: Point, b: Point, room: f64) -> bool {
    (a.x - b.x).abs() < BOX.width + room && (a.y - b.y).abs() < BOX.height + room
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn boxes_lie_apart_and_inside_and_every_edge_goes_forward(graph in graph(200)) {
        let layout = lay_out(&graph, BOX).unwrap();
        let inside = |point: Point, size: Size| {
            point.x >= 0.0 && point.y >= 0.0
                && point.x + size.width <= layout.size.width && point.y + size.height <= layout.size.height
        };
        prop_assert_eq!(layout.boxes.len(), graph.len());
        for (nth, &corner) in layout.boxes.iter().enumerate() {
            prop_assert!(inside(corner, BOX), "{nth}: {corner:?} in {:?}", layout.size);
            for &other in &layout.boxes[nth + 1..] {
                prop_assert!(!overlaps(corner, other, 8.0), "{corner:?} {other:?}");
            }
        }
        let mut reached = BTreeSet::new();
        for wires in &layout.wires {
            let corner = layout.boxes[wires.parent as usize - 1];
            let mut ends = vec![match layout.direction {
                Direction::Down => Point { x: corner.x + BOX.width / 2.0, y: corner.y + BOX.height },
                Direction::Right => Point { x: corner.x + BOX.width, y: corner.y + BOX.height / 2.0 },
            }];
            for piece in &wires.pieces {
                prop_assert!(along(&layout, piece.to) > along(&layout, piece.from), "{piece:?}");
                prop_assert!(inside(piece.from, Size { width: 0.0, height: 0.0 }), "{piece:?}");
                ends.push(piece.to);
                if let Some(child) = piece.reaches {
                    prop_assert!(reached.insert((wires.parent, child)), "{} to {child} twice", wires.parent);
                    let corner = layout.boxes[child as usize - 1];
                    let entry = match layout.direction {
                        Direction::Down => Point { x: corner.x + BOX.width / 2.0, y: corner.y },
                        Direction::Right => Point { x: corner.x, y: corner.y + BOX.height / 2.0 },
                    };
                    prop_assert_eq!(piece.to, entry);
                } else if piece.from.x == piece.to.x || piece.from.y == piece.to.y {
                    // What passes a layer passes between its boxes.
                    let middle = Point { x: (piece.from.x + piece.to.x) / 2.0, y: (piece.from.y + piece.to.y) / 2.0 };
                    let hit = layout.boxes.iter().find(|at| {
                        (at.x..at.x + BOX.width).contains(&middle.x) && (at.y..at.y + BOX.height).contains(&middle.y)
                    });
                    prop_assert!(hit.is_none(), "{piece:?} passes through {hit:?}");
                }
            }
            // Each piece begins where the step or another piece ends.
            prop_assert!(wires.pieces.iter().all(|piece| ends.contains(&piece.from)));
        }
        let edges: BTreeSet<(i32, i32)> =
            graph.step_ids().flat_map(|id| graph.parents(id).iter().map(move |&parent| (parent, id))).collect();
        prop_assert_eq!(reached, edges);
    }

    #[test]
    fn a_forest_is_drawn_without_crossings(picks in prop::collection::vec(any::<prop::sample::Index>(), 1..80)) {
        // Each step has at most one parent among those before it: place 0 stands for none.
        let parents = picks.iter().enumerate().map(|(before, pick)| match pick.index(before + 1) {
            0 => Vec::new(),
            parent => vec![parent as i32],
        });
        let graph = Graph::from_parents(parents.collect());
        let layout = lay_out(&graph, BOX).unwrap();
        let across = |step_id: i32| {
            let corner = layout.boxes[step_id as usize - 1];
            if layout.direction == Direction::Down { corner.x } else { corner.y }
        };
        let edges: Vec<(i32, i32)> = graph.step_ids().filter_map(|id| Some((*graph.parents(id).first()?, id))).collect();
        for (nth, a) in edges.iter().enumerate() {
            for b in edges[nth + 1..].iter().filter(|b| graph.level(a.0) == graph.level(b.0)) {
                let (above, below) = (across(a.0) - across(b.0), across(a.1) - across(b.1));
                prop_assert!(above * below >= 0.0, "{a:?} crosses {b:?}");
            }
        }
    }

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

    #[test]
    fn bars_follow_one_another(moves in prop::collection::vec((0..7_usize, 0..5_i64, prop::option::of(0..9_i32)), 0..20)) {
        let graph = Graph::from_parents(vec![vec![]]);
        let (mut state, mut now, mut attempt, mut history) = (StepState::Pending, 0, 0, Vec::new());
        for (to, later, backoff_seconds) in moves {
            let to = StepState::ALL[to];
            if state.is_terminal() || !state.may_become(to) {
                continue;
            }
            now += later;
            attempt += i32::from(to == StepState::InProgress);
            history.push(Change { backoff_seconds, ..change(now, 1, state, to, attempt) });
            state = to;
        }
        let mut picture = picture(&graph, &["a".into()], &[state], history);
        picture.task.as_mut().unwrap().now = seconds(now + 5);
        let Some(chart) = chart(&picture) else { return Ok(()) };
        let mut before = chart.start;
        for bar in chart.lanes.iter().flat_map(|lane| &lane.bars) {
            prop_assert!(before <= bar.from && bar.from <= bar.to && bar.to <= chart.end, "{:?}", chart);
            before = bar.to;
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

/// A zigzag of steps and children, numbered out of order: it can be drawn without a crossing.
#[test]
fn crossings_are_taken_away() {
    const PAIRS: i32 = 12;
    // 5 and 12 have no common divisor, so each place comes once.
    let step_at = |place: i32| place * 5 % PAIRS + 1;
    let mut parents = vec![Vec::new(); 2 * PAIRS as usize];
    for place in 0..PAIRS {
        let child = (PAIRS + place * 7 % PAIRS) as usize;
        parents[child] = (place..(place + 2).min(PAIRS)).map(step_at).collect();
    }
    let graph = Graph::from_parents(parents);
    let layout = lay_out(&graph, BOX).unwrap();
    let across = |step_id: i32| {
        let corner = layout.boxes[step_id as usize - 1];
        if layout.direction == Direction::Down { corner.x } else { corner.y }
    };
    let edges: Vec<(i32, i32)> =
        graph.step_ids().flat_map(|id| graph.parents(id).iter().map(move |&parent| (parent, id))).collect();
    let cross = |a: &(i32, i32), b: &(i32, i32)| (across(a.0) - across(b.0)) * (across(a.1) - across(b.1)) < 0.0;
    let crossings: usize =
        edges.iter().enumerate().map(|(nth, a)| edges[nth..].iter().filter(|b| cross(a, b)).count()).sum();
    assert_eq!(crossings, 0);
}

#[test]
fn large_graphs_are_refused_where_they_cannot_be_read() {
    let chain = |steps: i32| {
        Graph::from_parents((0..steps).map(|before| if before == 0 { vec![] } else { vec![before] }).collect())
    };
    assert!(lay_out(&chain(2_000), BOX).is_ok());
    let refused = |graph: &Graph| lay_out(graph, BOX).unwrap_err();
    assert_eq!(refused(&chain(2_001)), PictureError::TooLarge { what: "steps", count: 2_001, most: 2_000 });
    let full = |wide: i32| {
        Graph::from_parents((0..2 * wide).map(|nth| if nth < wide { vec![] } else { (1..=wide).collect() }).collect())
    };
    assert!(lay_out(&full(141), BOX).is_ok());
    assert_eq!(refused(&full(142)), PictureError::TooLarge { what: "dependencies", count: 20_164, most: 20_000 });
    // Each step of a long chain is also waited for at its end.
    let mut parents: Vec<Vec<i32>> = (0..400).map(|before| if before == 0 { vec![] } else { vec![before] }).collect();
    parents.push((1..=400).collect());
    assert!(matches!(refused(&Graph::from_parents(parents)), PictureError::TooLarge { what: "bends", .. }));
}

/// In a thread with little room: what recursed over the graph would end the process.
#[test]
fn a_hundred_thousand_steps_are_written_in_proportion() {
    const STEPS: i32 = 100_000;
    type Parents = fn(i32) -> Vec<i32>;
    // Step `nth` counts from 0; ids from 1.
    let shapes: [(&str, Parents); 4] = [
        ("chain", |nth| if nth == 0 { vec![] } else { vec![nth] }),
        ("fan out and in", |nth| match nth {
            0 => vec![],
            _ if nth == STEPS - 1 => (2..STEPS).collect(),
            _ => vec![1],
        }),
        // Two children each, of which one has children: the deepest tree.
        ("comb", |nth| if nth == 0 { vec![] } else { vec![((nth - 1) / 2 * 2).max(1)] }),
        ("ladder", |nth| if nth < 2 { vec![] } else { vec![nth - 1, nth] }),
    ];
    for (name, parents) in shapes {
        let run = move || {
            let graph = Graph::from_parents((0..STEPS).map(parents).collect());
            let picture = picture(&graph, &["step".into()], &StepState::ALL, Vec::new());
            for format in [Format::Text, Format::Mermaid, Format::Dot] {
                let text = render(&picture, format).unwrap();
                assert!(text.len() < 400 * STEPS as usize, "{name}: {} bytes of {format:?}", text.len());
                assert!(text.lines().count() >= STEPS as usize);
            }
            for format in [Format::Svg, Format::Html] {
                assert!(matches!(render(&picture, format), Err(PictureError::TooLarge { .. })));
            }
        };
        std::thread::Builder::new().stack_size(256 * 1024).spawn(run).unwrap().join().unwrap();
    }
}

#[test]
fn the_chart_tells_waiting_running_and_resting() {
    use StepState::*;
    let graph = Graph::from_parents(vec![vec![], vec![1]]);
    let history = vec![
        change(2, 1, Pending, InProgress, 1),
        // Rests for 2^1 seconds.
        change(3, 1, InProgress, Error, 1),
        change(7, 1, Error, InProgress, 2),
        Change { lease_expired: true, ..change(8, 1, InProgress, Error, 2) },
        change(9, 1, Error, InProgress, 3),
        change(10, 1, InProgress, Complete, 3),
        change(11, 2, Pending, InProgress, 1),
        change(12, 2, InProgress, Pending, 1),
        change(13, 2, Pending, InProgress, 1),
        Change { backoff_seconds: Some(4), ..change(14, 2, InProgress, Error, 1) },
        // An operator makes it longer.
        Change { backoff_seconds: Some(5), ..change(15, 2, Error, Error, 1) },
    ];
    let mut picture = picture(&graph, &["a".into(), "b".into()], &[Complete, Error], history);
    picture.task.as_mut().unwrap().now = seconds(20);
    let lanes = chart(&picture).unwrap().lanes;
    let bars = |nth: usize| -> Vec<(Kind, i64, i64)> {
        let plain = |bar: &Bar| (bar.kind, bar.from.0 / 1_000_000, bar.to.0 / 1_000_000);
        lanes[nth].bars.iter().map(plain).collect()
    };
    let (wait, rest, run) = (Kind::Wait, Kind::Backoff, Kind::Run);
    assert_eq!(
        bars(0),
        [
            (wait, 0, 2),
            (run(Error), 2, 3),
            (rest, 3, 5),
            (wait, 5, 7),
            (run(Error), 7, 8),
            (wait, 8, 9),
            (run(Complete), 9, 10)
        ]
    );
    assert_eq!(
        bars(1),
        [
            (wait, 10, 11),
            (run(Pending), 11, 12),
            (wait, 12, 13),
            (run(Error), 13, 14),
            (rest, 14, 15),
            (rest, 15, 18),
            (wait, 18, 20)
        ]
    );
}

#[test]
fn a_failure_for_good_is_followed_by_nothing_until_a_reset() {
    use StepState::*;
    let graph = Graph::from_parents(vec![vec![]]);
    let history = vec![
        change(0, 1, Pending, InProgress, 1),
        Change { retryable: Some(false), ..change(1, 1, InProgress, Error, 1) },
        change(5, 1, Error, Pending, 0),
    ];
    let picture = picture(&graph, &["a".into()], &[Pending], history);
    let bars = &chart(&picture).unwrap().lanes[0].bars;
    let plain: Vec<(Kind, Span)> = bars.iter().map(|bar| (bar.kind, bar.to.since(bar.from))).collect();
    assert_eq!(plain, [(Kind::Run(Error), Span::from_secs(1)), (Kind::Wait, Span::from_secs(5))]);
}

#[test]
fn what_cannot_be_shown_is_replaced_by_something_that_can() {
    assert_eq!(shown("plain é 出荷 🚚"), "plain é 出荷 🚚");
    assert_eq!(shown("\0\t\u{1b}[31m"), "␀␉␛[31m");
}
