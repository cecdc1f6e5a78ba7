//! Lets the HTTP library spawn through the supervisor, as everybody must.

use std::future::Future;

use blueprint_common_runtime::tasks::Spawner;

/// Spawns under one name.
#[derive(Debug, Clone)]
pub(crate) struct Executor {
    name: &'static str,
    spawner: Spawner,
}

impl Executor {
    pub(crate) const fn new(name: &'static str, spawner: Spawner) -> Self {
        Self { name, spawner }
    }
}

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        self.spawner.spawn(self.name, future);
    }
}
