//! How many requests are answered at once. In: a request that will cost memory, and how much memory there is. Out: a
//! permit, kept until its response body is gone, or a refusal before anything is spent on it.
//!
//! Without permits left as many requests wait as there are permits: a short peak costs a wait, a long one is refused at
//! once, so that those who are answered are answered in time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Memory that a request is reckoned with: a stream holds up to 96 KiB, a small body and its answer the rest.
const A_REQUEST: u64 = 128 << 10;
/// Memory of a process that no cgroup bounds.
const UNBOUNDED: u64 = 512 << 20;
/// Few, so that even a small pod answers some; and no more than there are connections.
const PERMITS: std::ops::RangeInclusive<u64> = 64..=4096;
/// Of large bodies at least the largest has room, and no more than half a GiB, whatever there is.
const BODIES: std::ops::RangeInclusive<u64> = 16 << 20..=512 << 20;
/// Where a container's limit of memory stands: cgroup v2, then v1.
const LIMIT_FILES: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
/// What v1 says of no limit is a number near 2^63.
const NO_LIMIT: u64 = 1 << 60;

/// How much is answered at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Requests answered at once; as many more may wait.
    pub permits: usize,
    /// Longest wait.
    pub wait: Duration,
    /// Bytes of all large request bodies together.
    pub body_bytes: usize,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self::of_memory(None)
    }
}

impl LoadOptions {
    /// For a process that may use this many bytes; None: nothing bounds it.
    #[must_use]
    pub fn of_memory(bytes: Option<u64>) -> Self {
        // The other half is for the cache, large bodies and the program itself.
        let bytes = bytes.unwrap_or(UNBOUNDED);
        let permits = (bytes / 2 / A_REQUEST).clamp(*PERMITS.start(), *PERMITS.end());
        let body_bytes = (bytes / 4).clamp(*BODIES.start(), *BODIES.end());
        Self {
            permits: usize::try_from(permits).unwrap_or_default(),
            wait: Duration::from_secs(1),
            body_bytes: usize::try_from(body_bytes).unwrap_or_default(),
        }
    }

    /// For this process.
    #[must_use]
    pub fn here() -> Self {
        let read = |path| std::fs::read_to_string(path).ok();
        Self::of_memory(LIMIT_FILES.into_iter().find_map(read).and_then(|text| memory_limit(&text)))
    }
}

/// What a cgroup's file says, in bytes.
fn memory_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < NO_LIMIT)
}

/// Clones are the same one.
#[derive(Clone)]
pub struct Overload {
    inner: Arc<Inner>,
}

struct Inner {
    permits: Arc<Semaphore>,
    /// A place for each that waits.
    queue: Semaphore,
    wait: Duration,
}

impl Overload {
    /// With every permit free.
    #[must_use]
    pub fn new(options: LoadOptions) -> Self {
        let inner = Inner {
            permits: Arc::new(Semaphore::new(options.permits)),
            queue: Semaphore::new(options.permits),
            wait: options.wait,
        };
        Self { inner: Arc::new(inner) }
    }

    /// A permit, if one is free. Those who wait come first: one that is given back is theirs and not seen here.
    #[must_use]
    pub fn try_enter(&self) -> Option<OwnedSemaphorePermit> {
        self.inner.permits.clone().try_acquire_owned().ok()
    }

    /// A permit; None at once when the queue is full, or after a wait in vain. Dropping the future leaves the queue.
    pub async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        if let Some(permit) = self.try_enter() {
            return Some(permit);
        }
        let Inner { permits, queue, wait } = &*self.inner;
        let _place = queue.try_acquire().ok()?;
        timeout(*wait, permits.clone().acquire_owned()).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn permits_and_room_for_bodies_follow_the_memory_within_bounds() {
        for (mib, permits, bodies) in [
            (Some(16), 64, 16),
            (Some(64), 256, 16),
            (Some(256), 1024, 64),
            (None, 2048, 128),
            (Some(1024), 4096, 256),
            (Some(1 << 20), 4096, 512),
        ] {
            let options = LoadOptions::of_memory(mib.map(|mib: u64| mib << 20));
            assert_eq!((options.permits, options.body_bytes >> 20), (permits, bodies), "{mib:?} MiB");
        }
    }

    #[test]
    fn a_cgroup_without_a_limit_bounds_nothing() {
        for (text, bytes) in [
            ("268435456\n", Some(268_435_456)),
            ("max\n", None),
            ("9223372036854771712\n", None),
            ("", None),
            ("-1", None),
        ] {
            assert_eq!(memory_limit(text), bytes, "{text:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn s12_as_many_wait_as_are_answered_and_the_next_is_refused_at_once() {
        let overload = Overload::new(LoadOptions { permits: 2, ..LoadOptions::default() });
        let first = overload.enter().await.unwrap();
        let _second = overload.enter().await.unwrap();
        let mut waiting = [Box::pin(overload.enter()), Box::pin(overload.enter())];
        for waiter in &mut waiting {
            assert!(waiter.now_or_never().is_none(), "it waits");
        }
        assert!(overload.enter().now_or_never().unwrap().is_none(), "the queue is full");

        drop(first);
        let [served, refused] = waiting;
        let served = served.await;
        assert!(served.is_some());
        let began = tokio::time::Instant::now();
        assert!(refused.await.is_none());
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        drop(served);
        assert!(overload.enter().await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn s10_whoever_leaves_the_queue_gives_back_the_place_and_takes_no_permit() {
        let overload = Overload::new(LoadOptions { permits: 1, ..LoadOptions::default() });
        let held = overload.enter().await.unwrap();
        for _ in 0..100 {
            let mut waiter = Box::pin(overload.enter());
            assert!((&mut waiter).now_or_never().is_none());
        }
        drop(held);
        assert_eq!(
            (overload.inner.permits.available_permits(), overload.inner.queue.available_permits()),
            (1, 1)
        );
    }
}
