//! Steps run by the database itself.
use super::Worker;
use crate::Result;
use postgres::{Client, Statement};

/// One call of run_task for each task.
pub struct RunTask {
    client: Client,
    call: Statement,
    tasks: Vec<i64>,
}

impl RunTask {
    pub fn new(mut client: Client) -> Result<Self> {
        let call = client.prepare("SELECT completed_steps FROM stepwise.run_task($1)")?;
        let rows = client.query("SELECT task_id FROM stepwise.tasks ORDER BY task_id DESC", &[])?;
        Ok(Self { client, call, tasks: rows.iter().map(|row| row.get(0)).collect() })
    }
}

impl Worker for RunTask {
    fn turn(&mut self) -> Result<usize> {
        let Some(task) = self.tasks.pop() else { return Ok(0) };
        Ok(self.client.query_one(&self.call, &[&task])?.get::<_, i32>(0) as usize)
    }

    fn client(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// run_steps, a thousand at a time.
pub struct RunSteps {
    client: Client,
    call: Statement,
}

impl RunSteps {
    pub fn new(mut client: Client) -> Result<Self> {
        let call = client.prepare("SELECT completed FROM stepwise.run_steps(max_steps => 1000)")?;
        Ok(Self { client, call })
    }
}

impl Worker for RunSteps {
    fn turn(&mut self) -> Result<usize> {
        Ok(self.client.query_one(&self.call, &[])?.get::<_, i32>(0) as usize)
    }

    fn client(&mut self) -> &mut Client {
        &mut self.client
    }
}
