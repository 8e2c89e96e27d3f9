//! Graphs of steps. Step ids count from 1 in topological order, as the extension numbers them.
use serde_json::{Value, json};

pub struct Shape {
    pub name: String,
    /// Of step `i + 1` at `i`.
    pub parents: Vec<Vec<i32>>,
    /// The SQL handler of every step, if it has one.
    pub handler: Option<&'static str>,
}

impl Shape {
    /// 1 → 2, 3 → 4 → 5, 6, 7 → 8 → 9 → 10
    pub fn ladder10() -> Shape {
        let parents: [&[i32]; 10] = [&[], &[1], &[1], &[2, 3], &[4], &[4], &[4], &[5, 6, 7], &[8], &[9]];
        Shape { name: "ladder10".into(), parents: parents.iter().map(|of| of.to_vec()).collect(), handler: None }
    }

    /// The ladder with handlers that the database runs.
    pub fn ladder10_in_database() -> Shape {
        Shape { name: "ladder10_in_database".into(), handler: Some("app.noop"), ..Shape::ladder10() }
    }

    /// One step, `steps - 2` steps that wait for it, one that waits for those.
    pub fn fan(steps: usize) -> Shape {
        let last = steps.max(3) as i32;
        let mut parents = vec![vec![]];
        parents.extend((2..last).map(|_| vec![1]));
        parents.push((2..last).collect());
        Shape { name: format!("fan{last}"), parents, handler: None }
    }

    pub fn chain(steps: usize) -> Shape {
        let parents = (0..steps as i32).map(|before| if before == 0 { vec![] } else { vec![before] }).collect();
        Shape { name: format!("chain{steps}"), parents, handler: None }
    }

    /// Each step with up to three parents among the two hundred before it. The same for every run.
    pub fn scattered(steps: usize) -> Shape {
        let mut seed: u32 = 54321;
        let mut draw = |below: usize| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as usize % below
        };
        let parents = (0..steps).map(|index| {
            let from = index.saturating_sub(200);
            let count = if index == 0 { 0 } else { draw(4) };
            let mut of: Vec<i32> = (0..count).map(|_| (from + draw(index - from)) as i32 + 1).collect();
            of.sort_unstable();
            of.dedup();
            of
        });
        Shape { name: format!("scattered{steps}"), parents: parents.collect(), handler: None }
    }

    /// Layers of about ten steps, each step with up to three parents in the layer before. The same for every run.
    pub fn layered(steps: usize) -> Shape {
        let mut seed: u32 = 12345;
        let mut draw = |below: usize| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as usize % below
        };
        let parents = (0..steps).map(|index| {
            let layer = index / 10 * 10;
            let mut of: Vec<i32> =
                if layer == 0 { vec![] } else { (0..3).map(|_| (layer - 10 + draw(10)) as i32 + 1).collect() };
            of.sort_unstable();
            of.dedup();
            of
        });
        Shape { name: format!("layered{steps}"), parents: parents.collect(), handler: None }
    }

    pub fn len(&self) -> usize {
        self.parents.len()
    }

    pub fn children(&self) -> Vec<Vec<i32>> {
        let mut children = vec![Vec::new(); self.len()];
        for (index, parents) in self.parents.iter().enumerate() {
            for &parent in parents {
                children[parent as usize - 1].push(index as i32 + 1);
            }
        }
        children
    }

    /// Names that sort as the ids do.
    pub fn step_name(step_id: usize) -> String {
        format!("s{step_id:06}")
    }

    /// For `register_template`.
    pub fn definition(&self) -> Value {
        let steps = self.parents.iter().enumerate().map(|(index, parents)| {
            let depends_on: Vec<String> = parents.iter().map(|&parent| Self::step_name(parent as usize)).collect();
            match self.handler {
                Some(function) => json!({ "name": Self::step_name(index + 1), "depends_on": depends_on, "handler": {"sql": function} }),
                None => json!({ "name": Self::step_name(index + 1), "depends_on": depends_on }),
            }
        });
        json!({ "namespace": "bench", "name": self.name, "version": "1.0.0", "steps": steps.collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_mirror_parents() {
        let ladder = Shape::ladder10();
        assert_eq!(ladder.children()[3], [5, 6, 7]);
        assert_eq!(ladder.children()[9], [0; 0]);
        assert_eq!(Shape::fan(5).parents[4], [2, 3, 4]);
    }
}
